"""The variance between studies, and the mean of their effects."""

import math
from typing import Literal

import numpy as np
from scipy.optimize import brentq, minimize_scalar

from catalog.meta.weighted import Fit, Matrix, Vector, fit

Tau2Method = Literal["DL", "PM", "ML", "REML"]

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
    return max(0.0, (common.rss - (len(yi) - X.shape[1])) / common.trace_p)


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
