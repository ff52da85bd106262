"""How much a pooled effect owes to single studies: leave-one-out, cumulative, influence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtr

from catalog.meta.heterogeneity import Tau2Method, tau2
from catalog.meta.pool import Pooled
from catalog.meta.weighted import Matrix, Vector, fit

Refit = Callable[[NDArray[np.intp]], Pooled]
"""Pools the studies at the given places."""


@dataclass(frozen=True)
class Influence:
    """Diagnostics of one study after Viechtbauer & Cheung (2010).

    rstudent: its deleted residual over its standard error. dffits: shift of its own prediction, in standard
    errors. cook: squared distance the coefficients move. cov_r: factor on the determinant of their covariance when
    it goes. dfbetas: shift of each coefficient in standard errors. `influential` by any of the usual bounds.
    """

    label: str
    rstudent: float
    dffits: float
    cook: float
    cov_r: float
    tau2: float
    q: float
    hat: float
    dfbetas: tuple[float, ...]
    influential: bool


def leave_one_out(labels: Sequence[str], refit: Refit) -> list[tuple[str, Pooled]]:
    """Pool again without each study in turn, named by the one left out; empty for a single study."""
    places = np.arange(len(labels))
    if len(labels) < 2:
        return []
    return [(label, refit(np.delete(places, place))) for place, label in enumerate(labels)]


def cumulative(labels: Sequence[str], refit: Refit, order: Sequence[int] | None = None) -> list[tuple[str, Pooled]]:
    """Pool the first study, the first two, and so on, named by the one added; in file order unless `order` is given."""
    places = np.arange(len(labels)) if order is None else np.array(order)
    return [(labels[place], refit(places[: n + 1])) for n, place in enumerate(places)]


def influence(
    labels: Sequence[str], yi: Vector, vi: Vector, X: Matrix, *, common: bool = False, tau2_method: Tau2Method = "REML"
) -> list[Influence]:
    """Diagnostics of each study under the model with normal intervals; needs two studies more than coefficients.

    Flags: |dffits| > 3 sqrt(p / (k-p)), chi²_p(cook) > 1/2, hat > 3 p/k, any |dfbetas| > 1.
    """
    k, p = X.shape
    if k < p + 2:
        raise ValueError(f"influence needs at least {p + 2} studies, there are {k}")
    between = 0.0 if common else tau2(tau2_method, yi, vi, X)
    full = fit(yi, X, 1 / (vi + between))
    precision = np.linalg.inv(full.covariance)
    found = []
    for place, label in enumerate(labels):
        rest = np.arange(k) != place
        y, v, x = yi[rest], vi[rest], X[rest]
        deleted_tau2 = 0.0 if common else tau2(tau2_method, y, v, x)
        without = fit(y, x, 1 / (v + deleted_tau2))
        row, hat = X[place], float(full.hat[place])
        variance = float(row @ without.covariance @ row)
        own = float(vi[place]) + deleted_tau2
        shift = full.coefficients - without.coefficients
        cook = float(shift @ precision @ shift)
        dffits = float(row @ shift) / float(np.sqrt(hat * own))
        dfbetas = shift / np.sqrt(np.diag(fit(yi, X, 1 / (vi + deleted_tau2)).covariance))
        found.append(
            Influence(
                label=label,
                rstudent=float(yi[place] - row @ without.coefficients) / float(np.sqrt(own + variance)),
                dffits=dffits,
                cook=cook,
                cov_r=float(np.linalg.det(without.covariance) / np.linalg.det(full.covariance)),
                tau2=deleted_tau2,
                q=fit(y, x, 1 / v).rss,
                hat=hat,
                dfbetas=tuple(dfbetas.tolist()),
                influential=bool(
                    abs(dffits) > 3 * (p / (k - p)) ** 0.5
                    or chdtr(p, cook) > 0.5
                    or hat > 3 * p / k
                    or (np.abs(dfbetas) > 1).any()
                ),
            )
        )
    return found
