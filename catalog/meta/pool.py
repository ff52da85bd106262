"""The mean of the studies' effects, its interval, and where the effect of a new study may lie."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from catalog.meta.heterogeneity import Heterogeneity, Tau2Method, heterogeneity, tau2
from catalog.meta.weighted import Vector, fit

__all__ = ["Interval", "Pooled", "Prediction", "Tau2Method", "pool", "tau2"]

Interval = Literal["z", "hk", "hk-guarded"]
Prediction = Literal["hts", "metafor", "none"]


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """A pooled effect in the unit of the effects.

    pi_low and pi_high are NaN where no prediction interval is given. weights sum to 1. df is that of the t
    quantile of the interval (infinite for a normal one).
    """

    model: str
    estimate: float
    se: float
    low: float
    high: float
    df: float
    pi_low: float = math.nan
    pi_high: float = math.nan
    heterogeneity: Heterogeneity
    weights: Vector
    notes: tuple[str, ...] = ()

    @property
    def p(self) -> float:
        """Two-sided p-value of the effect being 0."""
        return two_sided(self.estimate / self.se, self.df) if self.se > 0 else math.nan


def pool(
    yi: Vector,
    vi: Vector,
    *,
    common: bool = False,
    tau2_method: Tau2Method = "REML",
    interval: Interval = "hk",
    prediction: Prediction = "hts",
    level: float = 0.95,
    profile: bool = True,
) -> Pooled:
    """Pool effects by inverse variances 1 / (vi + tau²), tau² being 0 for the common effect.

    Intervals: normal; Hartung & Knapp (2001), which scales the variance by the weighted mean square q and
    takes t with k-1 df; guarded, which never lets q shrink it (Röver, Knapp & Friede 2015). `profile` asks for
    the interval of tau².
    """
    k = len(yi)
    X = np.ones((k, 1))
    between = 0.0 if common else tau2(tau2_method, yi, vi, X)
    spread = heterogeneity(yi, vi, X, between, level, interval=profile and not common)
    found = fit(yi, X, 1 / (vi + between))
    estimate, model_se = float(found.coefficients[0]), math.sqrt(float(found.covariance[0, 0]))
    scale, df, notes = knapp_hartung(found.rss, k - 1, interval)
    se = model_se * math.sqrt(scale)
    reach = quantile(df, level) * se
    if interval != "z" and k == 2:
        notes.append("2 studies: t has one degree of freedom (12.7 at 95 %), so the interval is very wide")
    if interval == "hk" and between == 0 and found.rss < k - 1:
        wide = quantile(df, level) * model_se
        notes.append(
            "tau² is 0 and the effects vary less than by chance, so Hartung-Knapp narrows the interval;"
            f" guarded it is {estimate - wide:.6g} to {estimate + wide:.6g}"
        )
    low, high = math.nan, math.nan
    if k < 3 and not common and prediction != "none":
        notes.append("no prediction interval: it needs 3 studies")
    elif not common:
        low, high = _predicted(estimate, between, prediction, k, model_se, se, df, level)
    return Pooled(
        model="common" if common else "random",
        estimate=estimate,
        se=se,
        low=estimate - reach,
        high=estimate + reach,
        df=df,
        pi_low=low,
        pi_high=high,
        heterogeneity=spread,
        weights=found.weights / found.weights.sum(),
        notes=tuple(notes),
    )


def knapp_hartung(rss: float, df: int, interval: Interval) -> tuple[float, float, list[str]]:
    """Scale of the variance, degrees of freedom, and a note when df leaves only the normal interval."""
    if interval == "z":
        return 1.0, math.inf, []
    if df < 1:
        return 1.0, math.inf, ["Hartung-Knapp needs more studies than coefficients: a normal interval is given"]
    scale = rss / df
    return (max(1.0, scale) if interval == "hk-guarded" else scale), float(df), []


def _predicted(
    estimate: float, between: float, kind: Prediction, k: int, model_se: float, se: float, df: float, level: float
) -> tuple[float, float]:
    """HTS: Higgins, Thompson & Spiegelhalter (2009), t with k-2 df and the model's standard error.

    metafor 3.8 takes the quantile and the standard error of the confidence interval instead.
    """
    if kind == "none":
        return math.nan, math.nan
    error, freedom = (model_se, k - 2.0) if kind == "hts" else (se, df)
    reach = quantile(freedom, level) * math.hypot(math.sqrt(between), error)
    return estimate - reach, estimate + reach


def quantile(df: float, level: float) -> float:
    """The two-sided t quantile, normal for infinite df."""
    tail = 0.5 + level / 2
    return float(ndtri(tail)) if math.isinf(df) else float(stdtrit(df, tail))


def two_sided(statistic: float, df: float) -> float:
    """The two-sided p-value of a t statistic, normal for infinite df."""
    return 2 * float(ndtr(-abs(statistic)) if math.isinf(df) else stdtr(df, -abs(statistic)))
