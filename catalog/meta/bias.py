"""Small-study effects: what a funnel's asymmetry says, only where it can say anything.

Nearly all studies of this field have the same size, and the standard error of a proportion depends on the proportion,
so asymmetry is often an artefact (Deeks, Macaskill & Irwig 2005; design, section 5). A test runs only with enough
clusters of different enough sizes; the rank correlation of Begg & Mazumdar (1994) is not offered at all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from catalog.meta.analysis import Data, clusters_of
from catalog.meta.clusters import aggregate
from catalog.meta.heterogeneity import Tau2Method, tau2
from catalog.meta.pool import Pooled, pool, quantile, two_sided
from catalog.meta.regress import regress
from catalog.meta.robust import cr2
from catalog.meta.sizes import Counts, sizes
from catalog.meta.weighted import Vector, fit

FEWEST = 10  # clusters below which nothing is tested (design, section 5; Sterne et al. 2011)
SPREAD = 4.0  # largest over smallest size that a test needs
NO_BEGG = (
    "Begg's rank correlation is not offered: it has little power, and the Cochrane Handbook (10.4.3) advises against it"
    " where standard errors follow from the effects"
)
ARTEFACT = {
    "OR": "the standard error of a log odds ratio depends on its size, so asymmetry alone is no sign of bias",
    "RR": "the standard error of a log risk ratio depends on its size, so asymmetry alone is no sign of bias",
}
FOLLOWS = {
    "RD": "not run: the standard error of a risk difference follows from the proportions; take the arcsine regressions",
    "AS": "not run: the arcsine regressions are it",
}
SHARED = "not run: effects share clusters, for which only the random-effects regression has an interval (CR2)"

Estimator = Literal["L0", "R0"]
Side = Literal["left", "right"]


@dataclass(frozen=True, kw_only=True)
class Asymmetry:
    """A regression of effects on what stands for small size; `limit` is the effect as that goes to 0.

    Effects and limits are on `scale`. df is infinite for a normal statistic. `flagged` says why it is only a
    sensitivity analysis, and is empty where the test is valid.
    """

    name: str
    scale: str
    predictor: str
    slope: float
    se: float
    df: float
    limit: float
    limit_low: float
    limit_high: float
    flagged: str = ""

    @property
    def statistic(self) -> float:
        return self.slope / self.se

    @property
    def p(self) -> float:
        return two_sided(self.statistic, self.df)


@dataclass(frozen=True, kw_only=True)
class Filled:
    """Trim-and-fill: how many studies seem missing on `side`, and the effect with their mirror images added.

    p is that of no study missing, which only R0 gives (NaN otherwise). yi and vi are the added studies.
    """

    estimator: Estimator
    side: Side
    missing: int
    se: float
    p: float
    pooled: Pooled
    yi: Vector
    vi: Vector


@dataclass(frozen=True)
class Diagnosis:
    """Tests that ran, and by name why others did not."""

    asymmetry: tuple[Asymmetry, ...]
    filled: tuple[Filled, ...]
    not_run: dict[str, str]
    notes: tuple[str, ...]


REGRESSIONS = ("egger", "thompson", "egger-arcsine", "thompson-arcsine", "peters")


def diagnose(data: Data, n: Vector | None, tau2_method: Tau2Method = "REML", level: float = 0.95) -> Diagnosis:
    """Run what the number and the sizes of the studies allow; `n` are sizes, 1/vi standing in where unknown."""
    notes = [NO_BEGG]
    if n is None:
        notes.append("sizes are not known: 1/variance stands in for them when their spread is judged")
    reason = gate(clusters_of(data) or len(data.yi), 1 / data.vi if n is None else n)
    if reason:
        return Diagnosis((), (), dict.fromkeys((*REGRESSIONS, "trim-and-fill"), reason), tuple(notes))
    refused = _refused(data)
    run = {name: _run(name, data, tau2_method, level) for name in REGRESSIONS if name not in refused}
    y, v = data.yi, data.vi
    if _nested(data):
        _, y, v = aggregate(y, v, data.clusters or ())
        notes.append("trim-and-fill works on the averages of clusters")
    filled = tuple(trim_and_fill(y, v, one, tau2_method=tau2_method, level=level) for one in ("L0", "R0"))
    return Diagnosis(tuple(run.values()), filled, refused, tuple(notes))


def gate(clusters: int, n: Vector) -> str | None:
    """Why nothing may be tested: too few clusters, or sizes too much alike; None when tests may run."""
    if clusters < FEWEST:
        return f"not run (k={clusters}): fewer than {FEWEST} clusters"
    ratio = float(n.max() / n.min())
    if ratio < SPREAD:
        return f"not run (k={clusters}): the largest study is {ratio:.2g} times the smallest, {SPREAD:g} are needed"
    return None


def egger(yi: Vector, vi: Vector, level: float = 0.95, *, name: str = "egger", scale: str = "GEN") -> Asymmetry:
    """Regress effects on their standard errors with weights 1/vi and a free residual variance (Egger et al. 1997)."""
    return _line(yi, np.sqrt(vi), 1 / vi, level, name, scale, "standard error")


def peters(counts: Counts, level: float = 0.95) -> Asymmetry:
    """Regress log odds ratios on 1/n, weighted by the events and non-events of both arms together (Peters et al. 2006).

    Tables that carry no information on odds must be left out before.
    """
    events = counts.events + counts.reference_events
    total = counts.total + counts.reference_total
    weights = 1 / (1 / events + 1 / (total - events))
    return _line(sizes("OR", counts).yi, 1 / total, weights, level, "peters", "OR", "1/n")


def thompson(
    yi: Vector,
    vi: Vector,
    tau2_method: Tau2Method = "REML",
    level: float = 0.95,
    *,
    scale: str = "GEN",
    clusters: Sequence[str] | None = None,
) -> Asymmetry:
    """Regress effects on their standard errors in a random-effects model (Thompson & Sharp 1999).

    The statistic is normal; with clusters it is CR2's, with Satterthwaite degrees of freedom.
    """
    X = np.column_stack([np.ones(len(yi)), np.sqrt(vi)])
    found = regress(yi, vi, X, ("limit", "slope"), tau2_method=tau2_method, interval="z", level=level)
    estimates = np.array([one.estimate for one in found.coefficients])
    errors, df = np.array([one.se for one in found.coefficients]), np.full(2, math.inf)
    if clusters is not None:
        names = np.array(clusters)
        parts = [np.flatnonzero(names == name) for name in dict.fromkeys(clusters)]
        variances = [np.diag(vi[part] + found.heterogeneity.tau2) for part in parts]
        covariance, df = cr2(yi, X, variances, parts)
        errors = np.sqrt(np.diag(covariance))
    name = "thompson-arcsine" if scale == "AS" else "thompson"
    return _asymmetry(name, scale, "standard error", estimates, errors, df, level)


def trim_and_fill(
    yi: Vector,
    vi: Vector,
    estimator: Estimator = "L0",
    *,
    side: Side | None = None,
    tau2_method: Tau2Method = "REML",
    common: bool = False,
    interval: Literal["z", "hk"] = "hk",
    level: float = 0.95,
) -> Filled:
    """Trim the studies that have no counterpart, fill in their mirror images, pool again (Duval & Tweedie 2000).

    Studies are missing on the side that the slope on the standard error points away from, unless it is given.
    """
    if side is None:
        X = np.column_stack([np.ones(len(yi)), np.sqrt(vi)])
        between = 0.0 if common else tau2(tau2_method, yi, vi, X)
        side = "right" if fit(yi, X, 1 / (vi + between)).coefficients[1] < 0 else "left"
    sign = -1.0 if side == "right" else 1.0
    order = np.argsort(sign * yi, kind="stable")
    y, v, k, missing, seen = sign * yi[order], vi[order], len(yi), 0, {-1}
    while missing not in seen:  # a cycle ends it as well as a fixed point
        seen.add(missing)
        kept = slice(0, k - missing)
        between = 0.0 if common else tau2(tau2_method, y[kept], v[kept], np.ones((k - missing, 1)))
        centre = float(fit(y[kept], np.ones((k - missing, 1)), 1 / (v[kept] + between)).coefficients[0])
        missing, se = _missing(y - centre, estimator)
    mirrored, spread = sign * (2 * centre - y[k - missing :]), v[k - missing :]
    pooled = pool(
        np.append(yi, mirrored), np.append(vi, spread), common=common, tau2_method=tau2_method,
        interval="z" if common else interval, level=level, profile=False,
    )  # fmt: skip
    p = 0.5 ** (missing + 1) if estimator == "R0" else math.nan
    return Filled(
        estimator=estimator, side=side, missing=missing, se=se, p=p, pooled=pooled, yi=mirrored, vi=spread
    )  # fmt: skip


def _missing(gaps: Vector, estimator: Estimator) -> tuple[int, float]:
    """How many studies are missing on the left of 0, with its standard error (Duval & Tweedie 2000, sec. 2 and 3)."""
    k = len(gaps)
    ranks = np.empty(k)
    ranks[np.argsort(np.abs(gaps), kind="stable")] = np.arange(1, k + 1)
    if estimator == "R0":
        left = ranks[gaps < 0]
        run = k - float(left.max() if len(left) else 0.0) - 1
        return max(0, round(run)), math.sqrt(2 * max(0.0, run) + 2)
    over = float(ranks[gaps > 0].sum())
    found = (4 * over - k * (k + 1)) / (2 * k - 1)
    cubic = 10 * found**3 + 27 * found**2 + 17 * found - 18 * k * found**2 - 18 * k * found + 6 * k**2 * found
    variance = (k * (k + 1) * (2 * k + 1) + cubic) / 24
    return max(0, round(found)), 4 * math.sqrt(max(0.0, variance)) / (2 * k - 1)


def _line(yi: Vector, x: Vector, weights: Vector, level: float, name: str, scale: str, predictor: str) -> Asymmetry:
    found = fit(yi, np.column_stack([np.ones(len(yi)), x]), weights)
    df = len(yi) - 2.0
    errors = np.sqrt(np.diag(found.covariance) * found.rss / df)
    return _asymmetry(name, scale, predictor, found.coefficients, errors, np.full(2, df), level)


def _asymmetry(
    name: str, scale: str, predictor: str, estimates: Vector, errors: Vector, df: Vector, level: float
) -> Asymmetry:
    """From the coefficients of the intercept and of the predictor."""
    limit, reach = float(estimates[0]), quantile(float(df[0]), level) * float(errors[0])
    return Asymmetry(
        name=name,
        scale=scale,
        predictor=predictor,
        slope=float(estimates[1]),
        se=float(errors[1]),
        df=float(df[1]),
        limit=limit,
        limit_low=limit - reach,
        limit_high=limit + reach,
    )


def _run(name: str, data: Data, tau2_method: Tau2Method, level: float) -> Asymmetry:
    clusters = data.clusters if _nested(data) else None
    if name == "peters":
        return peters(_informative(data), level)
    if name == "egger":
        made = egger(data.yi, data.vi, level, scale=data.measure)
        return replace(made, flagged=ARTEFACT[data.measure]) if data.measure in ARTEFACT else made
    if name == "thompson":
        return thompson(data.yi, data.vi, tau2_method, level, scale=data.measure, clusters=clusters)
    arcsine = sizes("AS", _counts(data))
    if name == "egger-arcsine":
        return egger(arcsine.yi, arcsine.vi, level, name=name, scale="AS")
    return thompson(arcsine.yi, arcsine.vi, tau2_method, level, scale="AS", clusters=clusters)


def _refused(data: Data) -> dict[str, str]:
    """Why a regression does not suit the data, by its name."""
    if data.counts is None:
        reasons = dict.fromkeys(REGRESSIONS[2:], "not run: needs counts")
    else:
        reasons = {"thompson": "not run: thompson-arcsine stands in for it"}
    if data.measure in FOLLOWS:
        reasons |= dict.fromkeys(("egger", "thompson"), FOLLOWS[data.measure])
    if _nested(data):
        valid = "thompson" if data.counts is None else "thompson-arcsine"
        reasons = {name: reasons.get(name, SHARED) for name in REGRESSIONS if name != valid or name in reasons}
    return reasons


def _nested(data: Data) -> bool:
    return data.clusters is not None and len(set(data.clusters)) < len(data.yi)


def _counts(data: Data) -> Counts:
    if data.counts is None:
        raise ValueError("needs counts")
    return data.counts


def _informative(data: Data) -> Counts:
    counts = _counts(data)
    return counts.where(~counts.uninformative)
