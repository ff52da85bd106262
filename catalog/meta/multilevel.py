"""Three-level meta-analysis: effects in settings, settings in clusters, by restricted maximum likelihood.

yi = Xb + cluster effect + setting effect + sampling error (Konstantopoulos 2011; Van den Noortgate et al. 2013;
design, section 3). The marginal variance is diagonal plus one rank-one block per setting and one per cluster, so
it is inverted in closed form and a likelihood costs one pass over the effects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from catalog.meta.clusters import Interval, claim_note, interval, means_t
from catalog.meta.robust import cr2
from catalog.meta.weighted import fit

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Index = NDArray[np.intp]
UNRELIABLE = 4.0  # Satterthwaite degrees of freedom below which a CR2 interval is not trusted (Tipton 2015)
STARTS = ((0.5, 0.5), (1.0, 0.01), (0.01, 1.0), (0.01, 0.01), (3.0, 3.0))  # in units of the spread of the effects


@dataclass(frozen=True, eq=False)
class ThreeLevel:
    """A fitted three-level model; variances in squared units of the effects, i2 as shares of the total variance."""

    coefficients: Vector
    covariance: Matrix
    sigma2_cluster: float
    sigma2_level: float
    log_likelihood: float
    i2_cluster: float
    i2_level: float
    clusters: int
    levels: int
    notes: tuple[str, ...]
    data: "Nested"


@dataclass(frozen=True, eq=False)
class Nested:
    """Effects sorted by cluster and setting: starts holds where each setting, and each cluster, begins."""

    y: Vector
    v: Vector
    x: Matrix
    cluster: tuple[str, ...]
    level_starts: Index
    cluster_starts: Index  # in rows
    first_levels: Index  # cluster starts in settings


def three_level(
    yi: Vector, vi: Vector, cluster: Sequence[str], level: Sequence[str], x: Matrix | None = None
) -> ThreeLevel:
    """Fit the model by REML; `level` names settings and is read inside its cluster.

    With as many settings as clusters only the sum of the two variances can be told, and it is given to clusters;
    with one cluster its variance cannot be estimated and is taken as 0. Both are said in `notes`.
    """
    data = nested(yi, vi, cluster, level, x)
    levels, clusters = len(data.level_starts), len(data.cluster_starts)
    free, notes = [True, True], []
    if clusters == 1:
        free[0] = False
        notes.append("one cluster: the variance between clusters cannot be estimated and is taken as 0")
    elif levels == clusters:
        free[1] = False
        notes.append("one setting in each cluster: the variance between settings is part of that between clusters")
    sigma2 = _maximum(data, free)
    return _fitted(data, sigma2, tuple(filter(None, (*notes, claim_note(clusters)))))


def robust_interval(fit: ThreeLevel, number: int = 0, level: float = 0.95) -> tuple[Interval, tuple[str, ...]]:
    """Return the CR2 interval with Satterthwaite degrees of freedom of one coefficient, and notes on it.

    Below four degrees of freedom the interval is unreliable; for the pooled mean the t interval over cluster
    averages stands in, around its own estimate (design, section 3).
    """
    data, (covariance, df) = fit.data, robust_covariance(fit)
    found = interval(float(fit.coefficients[number]), float(covariance[number, number]) ** 0.5, df[number], level)
    if df[number] >= UNRELIABLE:
        return found, ()
    note = f"CR2 interval unreliable: {df[number]:.1f} degrees of freedom, fewer than {UNRELIABLE:.0f}"
    if data.x.shape[1] > 1 or len(data.cluster_starts) < 2:
        return found, (note,)
    return means_t(data.y, data.v, data.cluster, level), (f"{note}; t interval over cluster averages instead",)


def robust_covariance(fit: ThreeLevel) -> tuple[Matrix, Vector]:
    """Return the CR2 covariance of the coefficients, and the Satterthwaite degrees of freedom of each."""
    data = fit.data
    parts = np.split(np.arange(len(data.y)), data.cluster_starts[1:])
    blocks = [marginal(data, fit.sigma2_cluster, fit.sigma2_level, part) for part in parts]
    return cr2(data.y, data.x, blocks, parts)


def nested(yi: Vector, vi: Vector, cluster: Sequence[str], level: Sequence[str], x: Matrix | None) -> Nested:
    """Sort effects by cluster and by setting inside it, clusters and settings in order of their names."""
    outer = np.unique(np.array(cluster, dtype=np.str_), return_inverse=True)[1].ravel()
    inner = np.unique(np.array(level, dtype=np.str_), return_inverse=True)[1].ravel()
    order = np.lexsort((inner, outer))
    outer, inner = outer[order], inner[order]
    new_cluster = np.r_[True, np.diff(outer) != 0]
    new_level = new_cluster | np.r_[True, np.diff(inner) != 0]
    design = np.ones((len(yi), 1)) if x is None else np.asarray(x, dtype=np.float64)
    return Nested(
        y=np.asarray(yi, dtype=np.float64)[order],
        v=np.asarray(vi, dtype=np.float64)[order],
        x=design[order],
        cluster=tuple(cluster[place] for place in order),
        level_starts=np.flatnonzero(new_level),
        cluster_starts=np.flatnonzero(new_cluster),
        first_levels=np.flatnonzero(new_cluster[new_level]),
    )


def marginal(data: Nested, sigma2_cluster: float, sigma2_level: float, rows: Index) -> Matrix:
    """Return the marginal variance matrix of the rows of one cluster."""
    level = np.searchsorted(data.level_starts, rows, side="right")
    same = level[:, None] == level[None, :]
    return np.asarray(np.diag(data.v[rows]) + sigma2_level * same + sigma2_cluster)


class _Likelihood:
    """Everything a REML iteration needs at one pair of variances, in one pass over the effects."""

    def __init__(self, data: Nested, sigma2: Vector) -> None:
        outer, inner = sigma2
        both = np.column_stack([data.x, data.y])
        w = 1 / data.v
        size = np.diff(np.r_[data.level_starts, len(data.y)])
        per = np.diff(np.r_[data.first_levels, len(data.level_starts)])
        # inside settings, then inside clusters (Sherman-Morrison twice)
        a = np.add.reduceat(w, data.level_starts)
        b = a / (1 + inner * a)
        sums = np.add.reduceat(w[:, None] * both, data.level_starts)
        shrunk = sums / (1 + inner * a)[:, None]
        c = np.add.reduceat(b, data.first_levels)
        totals = np.add.reduceat(shrunk, data.first_levels) / (1 + outer * c)[:, None]
        by_level = shrunk - b[:, None] * np.repeat(outer * totals, per, axis=0)  # 1'V⁻¹[X y] of each setting
        spread = np.repeat(inner * shrunk, size, axis=0)
        solved = w[:, None] * (both - spread)
        ones = w * np.repeat(1 / (1 + inner * a), size)
        solved -= ones[:, None] * np.repeat(np.repeat(outer * totals, per, axis=0), size, axis=0)
        p = data.x.shape[1]
        gram = both.T @ solved
        self.information = gram[:p, :p]
        self.covariance = np.linalg.inv(self.information)
        self.beta = self.covariance @ gram[:p, p]
        rss = float(gram[p, p] - gram[:p, p] @ self.beta)
        log_det = float(np.log(data.v).sum() + np.log1p(inner * a).sum() + np.log1p(outer * c).sum())
        self.minus_log = 0.5 * (log_det + np.linalg.slogdet(self.information)[1] + rss)
        contrast = np.r_[-self.beta, 1.0]
        traces = np.array([(c / (1 + outer * c)).sum(), (b - np.repeat(outer / (1 + outer * c), per) * b**2).sum()])
        self.gradient = np.array(
            [
                0.5 * (trace - np.sum(self.covariance * (z[:, :p].T @ z[:, :p])) - ((z @ contrast) ** 2).sum())
                for trace, z in zip(traces, (totals, by_level), strict=True)
            ]
        )


def _maximum(data: Nested, free: list[bool]) -> Vector:
    """Maximise the restricted likelihood over the free variances from several starts (0 is a usual solution)."""
    scale = float(np.var(data.y) + data.v.mean())
    mask = np.array(free)
    if not mask.any():
        return np.zeros(2)

    def objective(at: Vector) -> tuple[float, Vector]:
        sigma2 = np.zeros(2)
        sigma2[mask] = at * scale
        found = _Likelihood(data, sigma2)
        return found.minus_log, found.gradient[mask] * scale

    options: Any = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 500}
    bounds = [(0.0, None)] * sum(free)
    tried = [
        minimize(objective, np.array(start)[mask], (), "L-BFGS-B", jac=True, bounds=bounds, options=options)
        for start in STARTS
    ]
    best = min(tried, key=lambda found: float(found.fun))
    sigma2 = np.zeros(2)
    sigma2[mask] = best.x * scale
    return sigma2


def _fitted(data: Nested, sigma2: Vector, notes: tuple[str, ...]) -> ThreeLevel:
    found = _Likelihood(data, sigma2)
    n, p = data.x.shape
    constant = 0.5 * (np.linalg.slogdet(data.x.T @ data.x)[1] - (n - p) * np.log(2 * np.pi))
    w = 1 / data.v
    trace = fit(data.y, data.x, w).trace_p
    total = float(sigma2.sum()) + ((n - p) / trace if n > p else float(w.mean() ** -1))
    return ThreeLevel(
        coefficients=found.beta,
        covariance=found.covariance,
        sigma2_cluster=float(sigma2[0]),
        sigma2_level=float(sigma2[1]),
        log_likelihood=float(constant - found.minus_log),
        i2_cluster=float(sigma2[0]) / total,
        i2_level=float(sigma2[1]) / total,
        clusters=len(data.cluster_starts),
        levels=len(data.level_starts),
        notes=notes,
        data=data,
    )
