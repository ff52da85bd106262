"""Node-splitting: what studies say directly of a comparison, against what the rest of the network implies.

Back-calculation (Dias et al. 2010; König et al. 2013): with h = se_network² / se_direct², the share of the direct
evidence, the indirect estimate is (d_network - h d_direct) / (1 - h), uncorrelated with the direct one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from catalog.meta.network import Network, Study, edges, labelled

NOT_TESTABLE = "direct evidence only: without the studies that compare them, nothing connects the two"
SHARE = 1e-9  # indirect evidence below this share of the information is rounding


@dataclass(frozen=True)
class Split:
    """One comparison, treat1 minus treat2, in the unit of the effects; share is that of the direct evidence.

    Indirect and difference are NaN where `testable` is false. p is two-sided and unadjusted; p_holm is adjusted
    over all testable comparisons of the network.
    """

    treat1: str
    treat2: str
    studies: int
    share: float
    direct: float
    direct_se: float
    indirect: float
    indirect_se: float
    difference: float
    difference_se: float
    z: float
    p: float
    p_holm: float
    testable: bool


def splits(studies: Sequence[Study], found: Network) -> list[Split]:
    """Split every comparison that some study makes, in the order of the treatments of the network.

    Direct estimates pool the studies of a comparison with the network's τ². A comparison is testable only when
    its treatments stay connected without every study that contains both: arms of one study agree by construction.
    """
    place = {name: number for number, name in enumerate(found.treatments)}
    weight, weighted = (np.zeros_like(found.estimate) for _ in range(2))
    seen: dict[tuple[int, int], list[int]] = {}
    for number, study in enumerate(studies):
        at = [place[name] for name in study.treatments]
        share = _inverse(study.variances + found.tau2)
        weight[np.ix_(at, at)] += share
        weighted[np.ix_(at, at)] += share * (study.effects[:, None] - study.effects[None, :])
        for one, other in combinations(sorted(at), 2):
            seen.setdefault((one, other), []).append(number)
    connected = _connected(studies, found, seen)
    made = [
        _split(found, pair, len(seen[pair]), float(weight[pair]), float(weighted[pair]), testable=connected[pair])
        for pair in sorted(seen)
    ]
    return _adjusted(made)


def _inverse(variances: NDArray[np.float64]) -> NDArray[np.float64]:
    shares = 1 / np.where(np.eye(len(variances), dtype=bool), 1.0, variances)
    np.fill_diagonal(shares, 0.0)
    return np.asarray(shares)


def _connected(
    studies: Sequence[Study], found: Network, seen: dict[tuple[int, int], list[int]]
) -> dict[tuple[int, int], bool]:
    """Whether each pair stays connected without its own studies; pairs of the same studies share the search."""
    owner, start, end = edges(studies, found.treatments)
    parts: dict[tuple[int, ...], NDArray[np.intp]] = {}
    for numbers in seen.values():
        key = tuple(numbers)
        if key not in parts:
            left = ~np.isin(owner, numbers)
            parts[key] = labelled(start[left], end[left], len(found.treatments))
    labels = {pair: parts[tuple(numbers)] for pair, numbers in seen.items()}
    return {(one, other): bool(label[one] == label[other]) for (one, other), label in labels.items()}


def _split(
    found: Network, pair: tuple[int, int], studies: int, weight: float, weighted: float, *, testable: bool
) -> Split:
    direct, variance = weighted / weight, 1 / weight
    whole, whole_variance = float(found.estimate[pair]), float(found.se[pair]) ** 2
    share = min(1.0, whole_variance / variance)
    testable = testable and 1 - share > SHARE
    indirect = indirect_se = difference = difference_se = z = p = float("nan")
    if testable:
        indirect = (whole - share * direct) / (1 - share)
        indirect_se = (whole_variance / (1 - share)) ** 0.5
        difference, difference_se = direct - indirect, (variance + indirect_se**2) ** 0.5
        z = difference / difference_se
        p = 2 * float(norm.sf(abs(z)))
    return Split(
        treat1=found.treatments[pair[0]],
        treat2=found.treatments[pair[1]],
        studies=studies,
        share=share,
        direct=direct,
        direct_se=variance**0.5,
        indirect=indirect,
        indirect_se=indirect_se,
        difference=difference,
        difference_se=difference_se,
        z=z,
        p=p,
        p_holm=float("nan"),
        testable=testable,
    )


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """p-values adjusted after Holm (1979)."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order]))
    return adjusted


def _adjusted(made: Sequence[Split]) -> list[Split]:
    """Holm's adjustment over the testable comparisons."""
    tested = [number for number, split in enumerate(made) if split.testable]
    values = holm(np.array([made[number].p for number in tested]))
    known = dict(zip(tested, values.tolist(), strict=True))
    return [replace(split, p_holm=known.get(number, split.p_holm)) for number, split in enumerate(made)]
