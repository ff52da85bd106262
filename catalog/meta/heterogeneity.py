"""How much the studies differ: tau² by four estimators and its interval, Q, I² and H²."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import chdtrc, chdtri

from catalog.meta.weighted import Fit, Matrix, Vector, fit

Tau2Method = Literal["DL", "PM", "ML", "REML"]

I2Definition = Literal["tau2", "Q"]

I2_DEFINITIONS: dict[I2Definition, str] = {
    "tau2": "tau2 / (tau2 + typical sampling variance), as in metafor (Higgins & Thompson 2002)",
    "Q": "(Q - df) / Q, at least 0, as in netmeta and statsmodels (Higgins et al. 2003)",
}
STEPS = 200
STEP_TOLERANCE = 1e-10  # of tau² over the typical sampling variance


def tau2(method: Tau2Method, yi: Vector, vi: Vector, X: Matrix) -> float:
    """Estimate the variance between studies that the k × p matrix X leaves unexplained, in squared units of yi.

    DL: DerSimonian & Laird (1986), with moderators in its general form (Q - (k-p)) / tr P; PM: Paule & Mandel
    (1982); ML and REML: Fisher scoring, Viechtbauer (2005). It is 0 when k - p < 1: there is nothing to
    estimate it from.
    """
    if len(yi) <= X.shape[1]:
        return 0.0
    scale = float(np.median(vi))  # tolerances are relative to it, so that points and proportions agree
    y, v = yi / math.sqrt(scale), vi / scale
    if method == "DL":
        estimate = _moments(y, v, X)
    elif method == "PM":
        estimate = paule_mandel(y, v, X, float(len(y) - X.shape[1]))
    else:
        estimate = _likeliest(y, v, X, restricted=method == "REML")
    return estimate * scale


@dataclass(frozen=True)
class Heterogeneity:
    """What the studies' differences say under one design matrix.

    tau2 and its Q-profile interval are in squared units of the effects, I² is a proportion in both definitions.
    The interval is NaN when there is one degree of freedom too few to give it.
    """

    tau2: float
    tau2_low: float
    tau2_high: float
    q: float
    q_df: int
    q_p: float
    typical_variance: float

    @property
    def i2(self) -> dict[I2Definition, float]:
        """Share of the variation that is not sampling error, by definition."""
        by_tau2 = self.tau2 / (self.tau2 + self.typical_variance) if self.q_df else 0.0
        return {"tau2": by_tau2, "Q": max(0.0, 1 - self.q_df / self.q) if self.q > 0 else 0.0}

    @property
    def h2(self) -> dict[I2Definition, float]:
        """Total variation over sampling variation, to match each definition of I²."""
        by_tau2 = self.tau2 / self.typical_variance + 1 if self.q_df else 1.0
        return {"tau2": by_tau2, "Q": self.q / self.q_df if self.q_df else 1.0}


def heterogeneity(
    yi: Vector, vi: Vector, X: Matrix, between: float, level: float = 0.95, *, interval: bool = True
) -> Heterogeneity:
    """Q and its p-value, the Q-profile interval of tau² (Viechtbauer 2007), and I² and H² at tau² = `between`.

    The typical sampling variance is (k-p) / tr P with P at tau² = 0 (Higgins & Thompson 2002).
    """
    common = fit(yi, X, 1 / vi)
    df = len(yi) - X.shape[1]
    if df < 1:
        return Heterogeneity(between, math.nan, math.nan, 0.0, 0, 1.0, math.nan)
    low = high = math.nan
    if interval:
        scale, tail = float(np.median(vi)), (1 - level) / 2
        targets = float(chdtri(df, tail)), float(chdtri(df, 1 - tail))
        low, high = (paule_mandel(yi / math.sqrt(scale), vi / scale, X, target) * scale for target in targets)
    return Heterogeneity(between, low, high, common.rss, df, float(chdtrc(df, common.rss)), df / common.trace_p)


def paule_mandel(yi: Vector, vi: Vector, X: Matrix, target: float) -> float:
    """The tau² at which the generalised Q, sum (y - Xb)^2 / (v + tau²), equals `target`; 0 when it is below at 0.

    With target k - p this is the estimator of Paule & Mandel, with quantiles of chi² the Q-profile of
    Viechtbauer (2007).
    """

    def excess(candidate: float) -> float:
        return fit(yi, X, 1 / (vi + candidate)).rss - target

    if excess(0.0) <= 0:
        return 0.0
    high = max(1.0, float(np.median(vi)))
    while excess(high) > 0:
        high *= 4
    return float(brentq(excess, 0.0, high, xtol=1e-15 * high, rtol=1e-14, maxiter=500))


def _moments(yi: Vector, vi: Vector, X: Matrix) -> float:
    common = fit(yi, X, 1 / vi)
    return max(0.0, (common.rss - float(len(yi) - X.shape[1])) / common.trace_p)


def _likeliest(yi: Vector, vi: Vector, X: Matrix, *, restricted: bool) -> float:
    """Fisher scoring from the moment estimate, its result compared with 0; a bounded search if it does not settle."""
    found = _scored(yi, vi, X, _moments(yi, vi, X), restricted=restricted)
    if found is None:
        found = _searched(yi, vi, X, restricted=restricted)
    at_zero = _log_likelihood(fit(yi, X, 1 / vi), restricted=restricted)
    here = _log_likelihood(fit(yi, X, 1 / (vi + found)), restricted=restricted)
    return found if here > at_zero else 0.0


def _scored(yi: Vector, vi: Vector, X: Matrix, start: float, *, restricted: bool) -> float | None:
    current = start
    for _ in range(STEPS):
        now = fit(yi, X, 1 / (vi + current))
        squares = float((now.weights * now.residuals) @ (now.weights * now.residuals))
        if restricted:
            step = (squares - now.trace_p) / now.trace_pp
        else:
            step = (squares - float(now.weights.sum())) / float((now.weights**2).sum())
        following = max(0.0, current + step)
        if abs(following - current) < STEP_TOLERANCE * max(1.0, current):
            return following
        current = following
    return None


def _searched(yi: Vector, vi: Vector, X: Matrix, *, restricted: bool) -> float:
    """The best of a grid over ten orders of magnitude, refined between its neighbours."""

    def loss(logarithm: float) -> float:
        return -_log_likelihood(fit(yi, X, 1 / (vi + math.exp(logarithm))), restricted=restricted)

    largest = math.log(float(np.var(yi)) + float(vi.max()))
    grid = np.linspace(largest - 23, largest + 1, 49)
    best = int(np.argmin([loss(place) for place in grid]))
    low, high = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    return math.exp(float(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x))


def _log_likelihood(found: Fit, *, restricted: bool) -> float:
    """Up to a constant; the restricted one is that of the residuals (Harville 1977)."""
    twice = float(np.log(found.weights).sum()) - found.rss
    return (twice - found.log_determinant) / 2 if restricted else twice / 2
