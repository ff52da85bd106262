"""Do designs agree? Q of a network split into what differs within designs and what differs between them.

A design is the set of treatments a study compares. Between designs is the design-by-treatment interaction of Higgins
et al. (2012); which design is at odds with which is the net heat of Krahn, Binder & König (2013).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from catalog.meta.network import Contrasts, Network, Study, contrasts, fitted

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Test:
    """A Q statistic with its degrees of freedom and p-value (NaN without degrees of freedom)."""

    q: float
    df: int

    @property
    def p(self) -> float:
        return float(chi2.sf(self.q, self.df)) if self.df else float("nan")


@dataclass(frozen=True)
class Inconsistency:
    """Q in parts with common-effect weights, and between designs once more with the τ² within designs added.

    tau2_within is the moment estimate of the full design-by-treatment model (Jackson, White & Riley 2012).
    """

    total: Test
    within: Test
    between: Test
    tau2_within: float
    between_random: Test

    @property
    def testable(self) -> bool:
        return self.between.df > 0


@dataclass(frozen=True, eq=False)
class NetHeat:
    """Designs against designs: `change` is by how much detaching the column's design lowers the row's share of Q.

    share is each design's part of Q between designs. influence is how much the column's direct evidence moves the
    fit of the row (norm of the block of the hat matrix); for two-arm designs the absolute element itself.
    """

    designs: tuple[str, ...]
    share: Vector
    change: Matrix
    influence: Matrix
    tau2: float


def inconsistency(studies: Sequence[Study], found: Network) -> Inconsistency:
    """Test whether designs agree; degrees of freedom are Σ_designs(p - 1) - (n - 1), none in a star."""
    groups = _by_design(studies)
    fits = [_within(group) for group in groups.values()]
    df = sum(freedom for _, _, freedom in fits)
    q_within, trace = sum(q for q, _, _ in fits), sum(trace for _, trace, _ in fits)
    tau2 = max(0.0, (q_within - df) / trace) if df and found.method != "common" else 0.0
    df_between = sum(len(design) - 1 for design in groups) - len(found.treatments) + 1
    between = random = 0.0
    if df_between:
        again = sum(_within(group, tau2)[0] for group in groups.values())
        between = max(0.0, found.q - q_within)
        random = max(0.0, found.rows.solve(tau2).rss - again)
    return Inconsistency(
        total=Test(found.q, found.df),
        within=Test(q_within, df),
        between=Test(between, df_between),
        tau2_within=tau2,
        between_random=Test(random, df_between),
    )


def net_heat(studies: Sequence[Study], found: Network, tau2: float) -> NetHeat:
    """Locate inconsistency between designs, with τ² added to every contrast variance.

    Detaching a design gives it parameters of its own; the residuals of the others follow from the hat matrix H:
    r_c + H_cd (I - H_dd)⁺ r_d.
    """
    groups = _by_design(studies)
    designs = [_pooled(design, group, tau2) for design, group in groups.items()]
    rows = contrasts(designs, found.treatments[0])
    solved = rows.solve(0.0)
    hat = solved.X @ solved.covariance @ (solved.X * solved.weights[:, None]).T
    blocks = [np.flatnonzero(rows.study == number) for number in range(len(designs))]
    share = np.array([_part(solved.residuals, solved.weights, block) for block in blocks])
    change, influence = (np.zeros((len(blocks), len(blocks))) for _ in range(2))
    for d, block in enumerate(blocks):
        own = np.eye(len(block)) - hat[np.ix_(block, block)]
        moved = solved.residuals + hat[:, block] @ (np.linalg.pinv(own, rcond=1e-9) @ solved.residuals[block])
        moved[block] = 0.0
        after = np.add.reduceat(solved.weights * moved**2, [part[0] for part in blocks])
        change[:, d] = share - after
        influence[:, d] = np.sqrt(np.add.reduceat((hat[:, block] ** 2).sum(axis=1), [part[0] for part in blocks]))
    names = tuple(" : ".join(design) for design in groups)
    return NetHeat(names, share, change, influence, tau2)


def _by_design(studies: Sequence[Study]) -> dict[tuple[str, ...], list[Study]]:
    groups: dict[tuple[str, ...], list[Study]] = {}
    for study in sorted(studies, key=lambda study: study.design):
        groups.setdefault(study.design, []).append(study)
    return groups


def _within(group: Sequence[Study], tau2: float = 0.0) -> tuple[float, float, int]:
    """Q, trace of P and degrees of freedom of the studies of one design."""
    if len(group) == 1:
        return 0.0, 0.0, 0
    rows: Contrasts = contrasts(group, group[0].design[0])
    found = rows.solve(tau2)
    return found.rss, found.trace_p, rows.df


def _pooled(design: tuple[str, ...], group: Sequence[Study], tau2: float) -> Study:
    """All studies of a design as one, with τ² in its variances."""
    if len(group) == 1:
        variances = group[0].variances + tau2 * (1 - np.eye(len(design)))
        return Study(group[0].name, group[0].treatments, group[0].effects, variances)
    found = fitted(contrasts(group, design[0]), "DL", tau2)
    return Study(" : ".join(design), found.treatments, found.theta, found.se**2)


def _part(residuals: Vector, weights: Vector, block: NDArray[np.intp]) -> float:
    return float(weights[block] @ residuals[block] ** 2)
