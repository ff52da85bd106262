"""Pooling 2 × 2 tables without a variance for each: Mantel-Haenszel and Peto, both for one common effect."""

import math

import numpy as np
from scipy.special import chdtrc

from catalog.meta.heterogeneity import Heterogeneity
from catalog.meta.pool import Pooled, quantile
from catalog.meta.sizes import Counts, Measure, sizes
from catalog.meta.weighted import Vector

LARGE = math.log(3)  # log odds ratios beyond which Peto is biased (Greenland & Salvan 1990)


def mantel_haenszel(measure: Measure, counts: Counts, level: float = 0.95) -> Pooled:
    """Pool RD, log OR or log RR with the weights of Mantel & Haenszel (1959) and no correction of zero cells.

    Variances: Robins, Breslow & Greenland (1986) for OR, Greenland & Robins (1985) for RR, Sato et al. (1989)
    for RD. Q compares the studies' own effects, corrected as the measure's rule says, with the pooled one.
    Raises ValueError for AS, and when the tables leave the ratio undefined.
    """
    if measure == "AS":
        raise ValueError("Mantel-Haenszel pools RD, OR or RR, not AS")
    counts = counts if measure == "RD" else counts.where(~counts.uninformative)
    estimate, variance, weights = {"OR": _odds_ratio, "RR": _risk_ratio, "RD": _risk_difference}[measure](counts)
    own = sizes(measure, counts)
    return _common(f"Mantel-Haenszel {measure}", estimate, variance, weights, own.yi, own.vi, level)


def peto(counts: Counts, level: float = 0.95) -> Pooled:
    """Pool log odds ratios by the one-step method of Yusuf, Peto et al. (1985): sum (O-E) / sum V."""
    counts = counts.where(~counts.uninformative)
    yi, vi = peto_effects(counts)
    weights = 1 / vi
    estimate = float(weights @ yi / weights.sum())
    pooled = _common("Peto OR", estimate, 1 / float(weights.sum()), weights, yi, vi, level)
    if abs(estimate) < LARGE:
        return pooled
    note = f"|log OR| is {abs(estimate):.2f}: the Peto method is biased for large effects; prefer --model mh"
    return Pooled(**{**vars(pooled), "notes": (*pooled.notes, note)})


def peto_effects(counts: Counts) -> tuple[Vector, Vector]:
    """Each table's (O-E)/V and 1/V, V being the hypergeometric variance of the events of arm 1."""
    total = counts.total + counts.reference_total
    events = counts.events + counts.reference_events
    expected = counts.total * events / total
    spread = counts.total * counts.reference_total * events * (total - events) / (total**2 * (total - 1))
    return (counts.events - expected) / spread, 1 / spread


def _odds_ratio(counts: Counts) -> tuple[float, float, Vector]:
    a, b, c, d = counts.cells.T
    n = a + b + c + d
    r, s, p, q = a * d / n, b * c / n, (a + d) / n, (b + c) / n
    top, bottom = _sums(r, s)
    variance = (p @ r) / (2 * top**2) + (p @ s + q @ r) / (2 * top * bottom) + (q @ s) / (2 * bottom**2)
    return math.log(top / bottom), float(variance), s


def _risk_ratio(counts: Counts) -> tuple[float, float, Vector]:
    a, _, c, _ = counts.cells.T
    n1, n0 = counts.total, counts.reference_total
    n = n1 + n0
    r, s = a * n0 / n, c * n1 / n
    top, bottom = _sums(r, s)
    variance = ((n1 * n0 * (a + c) - a * c * n) / n**2).sum() / (top * bottom)
    return math.log(top / bottom), float(variance), s


def _risk_difference(counts: Counts) -> tuple[float, float, Vector]:
    a, b, c, d = counts.cells.T
    n1, n0 = counts.total, counts.reference_total
    n = n1 + n0
    weights = n1 * n0 / n
    estimate = float(((a * n0 - c * n1) / n).sum() / weights.sum())
    p = (c * (n1 / n) ** 2 - a * (n0 / n) ** 2 + (n1 / n) * (n0 / n) * (n0 - n1) / 2).sum()
    q = ((a * d + b * c) / n / 2).sum()
    return estimate, float((estimate * p + q) / weights.sum() ** 2), weights


def _sums(r: Vector, s: Vector) -> tuple[float, float]:
    top, bottom = float(r.sum()), float(s.sum())
    if top <= 0 or bottom <= 0:
        raise ValueError("the Mantel-Haenszel ratio is undefined: one arm has no event (or nothing else) in any table")
    return top, bottom


def _common(
    name: str, estimate: float, variance: float, weights: Vector, yi: Vector, vi: Vector, level: float
) -> Pooled:
    se, df = math.sqrt(variance), len(yi) - 1
    q = float(((yi - estimate) ** 2 / vi).sum())
    p = float(chdtrc(df, q)) if df else 1.0
    reach = quantile(math.inf, level) * se
    return Pooled(
        model=name,
        estimate=estimate,
        se=se,
        low=estimate - reach,
        high=estimate + reach,
        df=math.inf,
        heterogeneity=Heterogeneity(0.0, math.nan, math.nan, q, df, p, math.nan),
        weights=np.asarray(weights / weights.sum()),
    )
