"""Do measured effects agree with the reported ones? Pairs of numbers, one for each claim, in clusters: the papers.

Bias and limits speak in the unit of the effects, the Deming line allows for error in both, the concordance coefficient
mixes both with correlation, ranks need no scale. Ordinary least squares is left out: noise in the reported numbers
flattens its slope. The agreement in ranks inside a setting is the main number, since harmful scores of different
settings go along with one another for reasons that have nothing to do with a method (design, section 7).
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import kendalltau, spearmanr

from catalog.meta.clusters import FEWEST, Interval, interval
from catalog.meta.pool import quantile
from catalog.meta.robust import cr2
from catalog.meta.weighted import Vector

EXPLORATORY = 10  # pairs below which intervals come from resampling papers, and are exploratory
RESAMPLES = 2000
IN_SETTING = 3  # pairs that a rank correlation inside a setting needs
LIMITS = 1.96  # standard deviations to the limits of agreement (Bland & Altman 1986)


@dataclass(frozen=True)
class Pairs:
    """Reported and measured effects in one unit; standard errors are None when not all are known.

    `settings` are empty where unknown; `spans` are 95 % intervals of the measured effects, for drawing.
    """

    labels: tuple[str, ...]
    papers: tuple[str, ...]
    settings: tuple[str, ...]
    reported: Vector
    measured: Vector
    reported_se: Vector | None = None
    measured_se: Vector | None = None
    spans: tuple[tuple[float, float], ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Bounded:
    """A statistic with its 95 % interval, NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Limits:
    """Limits of agreement, mean ± 1.96 sd of the differences, each with the t interval of Bland & Altman (1986)."""

    sd: float
    low: Bounded
    high: Bounded


@dataclass(frozen=True)
class Line:
    """The Deming line measured = intercept + slope · reported, for `ratio` = error variance of measured to reported."""

    slope: Bounded
    intercept: Bounded
    ratio: float


@dataclass(frozen=True)
class Within:
    """Mean Kendall tau-b inside settings of three claims or more, with a t interval over settings."""

    tau: Bounded
    settings: int
    pairs: int


@dataclass(frozen=True)
class Agreement:
    """All of it; `bias` is measured minus reported. `exploratory`: intervals come from resampling papers."""

    pairs: Pairs
    bias: Interval
    limits: Limits
    deming: Line
    ccc: Bounded
    spearman: Bounded
    kendall: Bounded
    within: Within
    papers: int
    exploratory: bool
    notes: tuple[str, ...]


def agree(pairs: Pairs, ratio: float | None = None, *, seed: int = 0, resamples: int = RESAMPLES) -> Agreement:
    """Compare measured with reported effects; ValueError for fewer than 3 pairs or a constant column.

    `ratio` of error variances is taken from the standard errors when both are known, and is 1 when not.
    """
    x, y, n = pairs.reported, pairs.measured, len(pairs)
    if n < 3:
        raise ValueError(f"{n} pairs: agreement needs at least 3")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise ValueError("all reported, or all measured, effects are the same: nothing to compare")
    notes = []
    if ratio is None and pairs.reported_se is not None and pairs.measured_se is not None:
        ratio = float(np.mean(pairs.measured_se**2) / np.mean(pairs.reported_se**2))
    elif ratio is None:
        ratio = 1.0
        notes.append("standard errors are not known on both sides: equal error variances are assumed (ratio 1)")
    if x.min() < 0 < x.max():
        notes.append("some papers report a fall and some a rise: correlations partly say only which is which")
    papers = len(set(pairs.papers))
    exploratory = n < EXPLORATORY
    bias = clustered_mean(y - x, pairs.papers)
    if papers < FEWEST:
        notes.append(f"{papers} paper{'s' * (papers != 1)}: no claim beyond them, so bias has no interval")
    if papers < n and not exploratory:
        notes.append("claims of a paper are not independent: only the interval of bias allows for that")
    line, rho, tau = deming(x, y, ratio), float(spearmanr(x, y).statistic), float(kendalltau(x, y).statistic)
    found = [line.slope, line.intercept, concordance(x, y), bonett_wright(rho, n), fieller(tau, n)]
    if exploratory:
        notes.append(f"fewer than {EXPLORATORY} pairs: exploratory, intervals by resampling papers")
        if papers < FEWEST:
            notes.append(f"fewer than {FEWEST} papers: nothing to resample, no intervals")
        found = _resampled(pairs, ratio, [one.value for one in found], seed, resamples)
    return Agreement(
        pairs=pairs,
        bias=bias,
        limits=limits(y - x),
        deming=Line(found[0], found[1], ratio),
        ccc=found[2],
        spearman=found[3],
        kendall=found[4],
        within=within(pairs),
        papers=papers,
        exploratory=exploratory,
        notes=tuple(notes),
    )


def clustered_mean(values: Vector, clusters: Sequence[str]) -> Interval:
    """The mean with a CR2 interval over clusters, on Satterthwaite degrees of freedom; none for fewer than 3."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(clusters):
        places[name].append(place)
    mean = float(values.mean())
    if len(places) < FEWEST:
        return interval(mean, math.nan, 0)
    parts = [np.array(rows, dtype=np.intp) for rows in places.values()]
    covariance, df = cr2(values, np.ones((len(values), 1)), [np.eye(len(rows)) for rows in parts], parts)
    return interval(mean, math.sqrt(float(covariance[0, 0])), float(df[0]))


def limits(differences: Vector) -> Limits:
    """Limits of agreement; the variance of a limit is about 3 s²/n."""
    n, mean, sd = len(differences), float(differences.mean()), float(differences.std(ddof=1))
    reach = quantile(n - 1, 0.95) * sd * math.sqrt(3 / n)
    ends = [mean - LIMITS * sd, mean + LIMITS * sd]
    low, high = (Bounded(end, end - reach, end + reach) for end in ends)
    return Limits(sd, low, high)


def deming(x: Vector, y: Vector, ratio: float) -> Line:
    """Deming regression with jackknife intervals on n - 2 degrees of freedom (Linnet 1993)."""
    n = len(x)
    slope, intercept = _deming(x, y, ratio)
    kept = [np.arange(n) != place for place in range(n)]
    left = np.array([_deming(x[rows], y[rows], ratio) for rows in kept])
    pseudo = n * np.array([slope, intercept]) - (n - 1) * left
    reach = (quantile(n - 2, 0.95) if n > 2 else math.nan) * pseudo.std(axis=0, ddof=1) / math.sqrt(n)
    ends = [Bounded(v, v - float(r), v + float(r)) for v, r in zip((slope, intercept), reach, strict=True)]
    return Line(ends[0], ends[1], ratio)


def concordance(x: Vector, y: Vector) -> Bounded:
    """Lin's concordance correlation coefficient with Fisher's z interval (Lin 1989, corrected 2000)."""
    n, gap = len(x), float(x.mean() - y.mean())
    sx, sy, sxy = float(x.var()), float(y.var()), float(np.mean((x - x.mean()) * (y - y.mean())))
    value = 2 * sxy / (sx + sy + gap**2)
    r, shift = sxy / math.sqrt(sx * sy), gap**2 / math.sqrt(sx * sy)
    if n < 4 or r == 0 or abs(value) >= 1:
        return Bounded(value)
    scale = 1 - value**2
    variance = (
        (1 - r**2) * value**2 / (scale * r**2)
        + 2 * value**3 * (1 - value) * shift / (r * scale**2)
        - value**4 * shift**2 / (2 * r**2 * scale**2)
    ) / (n - 2)
    return _fisher(value, math.sqrt(variance)) if variance >= 0 else Bounded(value)


def bonett_wright(rho: float, n: int) -> Bounded:
    """Spearman's rho with the interval of Bonett & Wright (2000)."""
    return _fisher(rho, math.sqrt((1 + rho**2 / 2) / (n - 3)) if n > 3 else math.nan)


def fieller(tau: float, n: int) -> Bounded:
    """Kendall's tau with the interval of Fieller, Hartley & Pearson (1957)."""
    return _fisher(tau, math.sqrt(0.437 / (n - 4)) if n > 4 else math.nan)


def within(pairs: Pairs) -> Within:
    """Kendall's tau-b of each setting, averaged; settings with fewer than 3 claims or a constant side say nothing."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(pairs.settings):
        if name:
            places[name].append(place)
    taus: list[float] = []
    used = 0
    for rows in places.values():
        x, y = pairs.reported[rows], pairs.measured[rows]
        if len(rows) >= IN_SETTING and np.ptp(x) > 0 and np.ptp(y) > 0:
            taus.append(float(kendalltau(x, y).statistic))
            used += len(rows)
    if not taus:
        return Within(Bounded(math.nan), 0, 0)
    mean, low, high = float(np.mean(taus)), math.nan, math.nan
    if len(taus) >= FEWEST:
        over = interval(mean, float(np.std(taus, ddof=1)) / math.sqrt(len(taus)), len(taus) - 1)
        low, high = max(-1.0, over.low), min(1.0, over.high)
    return Within(Bounded(mean, low, high), len(taus), used)


def _deming(x: Vector, y: Vector, ratio: float) -> tuple[float, float]:
    sxx, syy = float(np.sum((x - x.mean()) ** 2)), float(np.sum((y - y.mean()) ** 2))
    sxy = float(np.sum((x - x.mean()) * (y - y.mean())))
    if sxy == 0:
        return math.nan, math.nan
    lean = syy - ratio * sxx
    slope = (lean + math.sqrt(lean**2 + 4 * ratio * sxy**2)) / (2 * sxy)
    return slope, float(y.mean()) - slope * float(x.mean())


def _fisher(value: float, se: float) -> Bounded:
    if abs(value) >= 1 or math.isnan(se):
        return Bounded(value)
    centre, reach = math.atanh(value), quantile(math.inf, 0.95) * se
    return Bounded(value, math.tanh(centre - reach), math.tanh(centre + reach))


def _rank_correlations(x: Vector, y: Vector) -> tuple[float, float]:
    """Spearman's rho and Kendall's tau-b of a few pairs, without the p-values that make scipy's slow to resample."""
    above = [np.sign(side[:, None] - side[None, :]) for side in (x, y)]
    tau = float(np.sum(above[0] * above[1]) / math.sqrt(np.sum(above[0] ** 2) * np.sum(above[1] ** 2)))
    return float(np.corrcoef(above[0].sum(axis=1), above[1].sum(axis=1))[0, 1]), tau


def _resampled(pairs: Pairs, ratio: float, values: Sequence[float], seed: int, resamples: int) -> list[Bounded]:
    """Percentile intervals over papers drawn with replacement; draws in which a statistic is undefined are left out."""
    names = sorted(set(pairs.papers))
    if len(names) < FEWEST:
        return [Bounded(value) for value in values]
    rows = [np.flatnonzero(np.array(pairs.papers) == name) for name in names]
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        at = np.concatenate([rows[place] for place in rng.integers(len(rows), size=len(rows))])
        x, y = pairs.reported[at], pairs.measured[at]
        if np.ptp(x) > 0 and np.ptp(y) > 0:
            drawn.append([*_deming(x, y, ratio), concordance(x, y).value, *_rank_correlations(x, y)])
    ends = np.nanquantile(np.array(drawn, dtype=float), [0.025, 0.975], axis=0)
    return [Bounded(v, float(low), float(high)) for v, low, high in zip(values, *ends, strict=True)]
