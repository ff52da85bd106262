"""Does who evaluates a method matter? Own against other evaluators, and reported against measured numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from catalog.meta import analysis, clusters
from catalog.meta.analysis import ChoiceError, Choices, Data
from catalog.meta.clustered_regression import regressed
from catalog.meta.clusters import Interval, claim_note
from catalog.meta.heterogeneity import Tau2Method
from catalog.meta.pool import Pooled
from catalog.meta.regress import Coefficient
from catalog.meta.weighted import Vector

OWN: dict[str, bool] = {
    **dict.fromkeys(("yes", "y", "true", "1", "self", "own"), True),
    **dict.fromkeys(("no", "n", "false", "0", "third-party", "other"), False),
}


@dataclass(frozen=True)
class Contrast:
    """Self-evaluated minus third-party-evaluated effects, in their unit; negative where own evaluations are lower.

    The groups hold how many effects and clusters each has and what they pool to.
    """

    difference: Coefficient
    own: Pooled
    other: Pooled
    effects: tuple[int, int]
    clusters: tuple[int, int]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Gap:
    """Reported minus measured over matched pairs, clusters weighing the same; limits hold 95 % of single gaps."""

    mean: Interval
    limit_low: float
    limit_high: float
    pairs: int
    clusters: int
    notes: tuple[str, ...]


def evaluators(data: Data, own: Sequence[bool], tau2_method: Tau2Method = "REML", level: float = 0.95) -> Contrast:
    """Regress effects on who evaluated them; CR2 over clusters where they were named, else Knapp-Hartung.

    ChoiceError when one of the groups is empty or the effects are too few.
    """
    marks = np.array(own)
    if marks.all() or not marks.any():
        missing = "third-party" if marks.all() else "self"
        raise ChoiceError(f"--self: no {missing}-evaluated effect, so there is nothing to contrast")
    X = np.column_stack([np.ones(len(marks)), marks.astype(float)])
    ci: Literal["cr2", "hk"] = "hk" if data.clusters is None else "cr2"
    found = regressed(data, X, ("third-party", "self"), Choices(tau2=tau2_method, ci=ci, level=level))
    groups = [data.at(np.flatnonzero(side)) for side in (marks, ~marks)]
    pooled = [analysis.pooled(group, _choices(group, tau2_method, level), profile=False) for group in groups]
    counts = [analysis.clusters_of(group) or len(group.yi) for group in groups]
    few = [
        f"{name}: {note}"
        for name, count in zip(("self-evaluated", "third-party-evaluated"), counts, strict=True)
        if (note := claim_note(count))
    ]
    return Contrast(
        difference=found.coefficients[1],
        own=pooled[0],
        other=pooled[1],
        effects=(len(groups[0].yi), len(groups[1].yi)),
        clusters=(counts[0], counts[1]),
        notes=tuple(dict.fromkeys((*found.notes, *few))),
    )


def reported_minus_measured(
    reported: Vector, measured: Vector, cluster: Sequence[str] | None = None, level: float = 0.95
) -> Gap:
    """Mean gap with a t interval over clusters (pairs without them), and Bland & Altman's (1986) limits of pairs."""
    gaps = reported - measured
    names = list(cluster) if cluster else [str(place) for place in range(len(gaps))]
    mean = clusters.means_t(gaps, np.ones(len(gaps)), names, level)
    spread = float(gaps.std(ddof=1)) if len(gaps) > 1 else float("nan")
    reach, centre, count = 1.959964 * spread, float(gaps.mean()), len(set(names))
    return Gap(mean, centre - reach, centre + reach, len(gaps), count, tuple(filter(None, [claim_note(count)])))


def own_marks(column: str, texts: Sequence[str]) -> list[bool]:
    """Words of a column of evaluators. ChoiceError names the first that is none."""
    unknown = next((text for text in texts if text.lower() not in OWN), None)
    if unknown is not None:
        raise ChoiceError(f"--self {column}: '{unknown}' is neither yes nor no (or self, third-party)")
    return [OWN[text.lower()] for text in texts]


def heights(n: NDArray[np.float64], runs: NDArray[np.float64]) -> Vector:
    """What a funnel is drawn over: 1 / sqrt(n S), n answers in each of S runs; not a function of the effects."""
    return np.asarray(1 / np.sqrt(n * runs))


def _choices(data: Data, tau2_method: Tau2Method, level: float) -> Choices:
    return analysis.choose(data, "random" if data.clusters is None else "clusters", tau2_method, None, "hts", level)
