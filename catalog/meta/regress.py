"""Meta-regression: what of the settings explains how their effects differ."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy.special import chdtrc, fdtrc

from catalog.meta.heterogeneity import Heterogeneity, Tau2Method, heterogeneity, tau2
from catalog.meta.pool import Interval, knapp_hartung, quantile, two_sided
from catalog.meta.weighted import Matrix, Vector, fit

SETTINGS_PER_MODERATOR = 10
EXACT = 5040  # orderings up to which a permutation test takes them all
TIE = 1e-8  # statistics closer than this count as equal, as they do in exact arithmetic


@dataclass(frozen=True)
class Coefficient:
    """One coefficient, per unit of its moderator."""

    name: str
    estimate: float
    se: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Coefficients with the test of all moderators together.

    qm is F with (qm_df, df) degrees of freedom under Knapp & Hartung (2003), else chi² with qm_df. r2 is the
    share of tau² the moderators explain (Raudenbush 2009); NaN when there was none to explain. weights sum to 1.
    """

    coefficients: tuple[Coefficient, ...]
    qm: float
    qm_df: int
    qm_p: float
    df: float
    heterogeneity: Heterogeneity
    r2: float
    weights: Vector
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Permutation:
    """p-values of each coefficient but the intercept, and of all together, from `orderings` of the moderators."""

    p: dict[str, float]
    qm_p: float
    orderings: int
    exact: bool


def regress(
    yi: Vector,
    vi: Vector,
    X: Matrix,
    names: Sequence[str],
    *,
    common: bool = False,
    tau2_method: Tau2Method = "REML",
    interval: Interval = "hk",
    level: float = 0.95,
) -> Regression:
    """Regress effects on the columns of X, whose first is the intercept, `names` naming all columns.

    Knapp-Hartung scales the covariance by the weighted mean square and takes t with k-p df (design, section 3).
    Raises ValueError when there are fewer effects than coefficients or a column depends on others.
    """
    k, p = X.shape
    if k < p:
        raise ValueError(f"{k} effects cannot carry {p} coefficients; drop moderators")
    if column := dependent(X, names):
        raise ValueError(f"moderator {column} is constant or follows from the others; drop it")
    between = 0.0 if common else tau2(tau2_method, yi, vi, X)
    found = fit(yi, X, 1 / (vi + between))
    scale, df, notes = knapp_hartung(found.rss, k - p, interval)
    covariance = found.covariance * scale
    t = quantile(df, level)
    coefficients = []
    for name, estimate, variance in zip(names, found.coefficients.tolist(), np.diag(covariance).tolist(), strict=True):
        se = math.sqrt(variance)
        chance = two_sided(estimate / se, df) if se > 0 else math.nan
        coefficients.append(Coefficient(name, estimate, se, estimate - t * se, estimate + t * se, chance))
    moderators = p - 1
    if moderators and k < SETTINGS_PER_MODERATOR * moderators:
        notes.append(
            f"{k} effects for {_counted(moderators)}: fewer than {SETTINGS_PER_MODERATOR} each, exploratory only"
        )
    qm = _wald(found.coefficients[1:], covariance[1:, 1:]) if moderators else 0.0
    if math.isinf(df):
        qm_p = float(chdtrc(moderators, qm)) if moderators else 1.0
    else:
        qm /= max(moderators, 1)
        qm_p = float(fdtrc(moderators, df, qm)) if moderators else 1.0
    total = 0.0 if common else tau2(tau2_method, yi, vi, np.ones((k, 1)))
    return Regression(
        coefficients=tuple(coefficients),
        qm=qm,
        qm_df=moderators,
        qm_p=qm_p,
        df=df,
        heterogeneity=heterogeneity(yi, vi, X, between, level, interval=not common),
        r2=max(0.0, 1 - between / total) if total > 0 else math.nan,
        weights=found.weights / found.weights.sum(),
        notes=tuple(notes),
    )


def permutation_test(
    yi: Vector,
    vi: Vector,
    X: Matrix,
    names: Sequence[str],
    *,
    orderings: int = 1000,
    seed: int = 0,
    tau2_method: Tau2Method = "REML",
    interval: Interval = "hk",
) -> Permutation:
    """Test moderators by reassigning the rows of X to the effects (Higgins & Thompson 2004), refitting each time.

    All orderings are taken when there are at most 5040 (7 effects), else `orderings` drawn ones beside the observed.
    """
    k = len(yi)
    exact = math.factorial(k) <= EXACT
    draw = np.random.default_rng(seed)
    orders: Iterable[Sequence[int]] = (
        permutations(range(k)) if exact else (draw.permutation(k).tolist() for _ in range(orderings))
    )

    def statistics(order: Sequence[int]) -> Vector:
        there = X[list(order)]
        between = tau2(tau2_method, yi, vi, there)
        found = fit(yi, there, 1 / (vi + between))
        covariance = found.covariance * knapp_hartung(found.rss, k - X.shape[1], interval)[0]
        single = np.abs(found.coefficients[1:]) / np.sqrt(np.diag(covariance)[1:])
        return np.append(single, _wald(found.coefficients[1:], covariance[1:, 1:]))

    observed = statistics(range(k))
    at_least, taken = (np.zeros(len(observed)), 0) if exact else (np.ones(len(observed)), 1)
    for order in orders:
        at_least += statistics(order) >= observed * (1 - TIE)
        taken += 1
    shares = (at_least / taken).tolist()
    return Permutation(dict(zip(names[1:], shares[:-1], strict=True)), shares[-1], taken, exact)


def _wald(estimates: Vector, covariance: Matrix) -> float:
    if not np.diag(covariance).all():
        return math.nan
    return float(estimates @ np.linalg.solve(covariance, estimates))


def dependent(X: Matrix, names: Sequence[str]) -> str | None:
    """The first column that adds nothing to those before it."""
    size = np.linalg.norm(X, axis=0)
    scaled = X / np.where(size > 0, size, 1.0)
    ranks = (np.linalg.matrix_rank(scaled[:, : place + 1]) for place in range(X.shape[1]))
    return next((names[place] for place, rank in enumerate(ranks) if rank <= place), None)


def _counted(moderators: int) -> str:
    return "1 moderator" if moderators == 1 else f"{moderators} moderator columns"
