"""Network meta-analysis: all treatments at once, from studies that compare any two or more of them.

The model is the graph-theoretical one of Rücker (2012) with the multi-arm weights of Rücker & Schwarzer (2014). A
study of p arms with matrix V of the variances of its pairwise contrasts has L⁺ = -½ C V C (C centres p values);
rotated to the eigenvectors of L⁺ it is p - 1 independent contrasts, scaled so that a variance τ² of every pairwise
contrast adds τ² to each. The network is then a weighted regression on those, and Q, τ² and covariance are its.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import helmert
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import norm, t

from catalog.meta.pool import tau2 as estimate_tau2
from catalog.meta.weighted import Fit, fit

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Index = NDArray[np.intp]
Tau2 = Literal["common", "DL", "REML"]
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Study:
    """What one study saw: effects of its arms up to a constant, and the variance of every pairwise contrast.

    variances is p × p with a zero diagonal, in squared units of the effects. ValueError when no covariance of the
    arms gives such variances, as when one contrast of three varies more than the other two together.
    """

    name: str
    treatments: tuple[str, ...]
    effects: Vector
    variances: Matrix
    cluster: str = ""

    def __post_init__(self) -> None:
        if self.contrasts[1].min() <= 0:
            raise ValueError(f"study {self.name}: the variances of its contrasts contradict one another")

    @cached_property
    def contrasts(self) -> tuple[Vector, Vector, Matrix]:
        """Independent contrasts of the study: values, variances and (p - 1) × p coefficients of its arms."""
        basis = helmert(len(self.treatments))
        variances, turn = np.linalg.eigh(-basis @ self.variances @ basis.T)
        coefficients = np.sqrt(2) * turn.T @ basis
        return coefficients @ self.effects, variances, coefficients

    @property
    def design(self) -> tuple[str, ...]:
        """The set of treatments compared, in alphabetical order."""
        return tuple(sorted(self.treatments))


@dataclass(frozen=True, eq=False)
class Contrasts:
    """Independent contrasts of all studies over the treatments of the network (columns of x sum to zero by row)."""

    treatments: tuple[str, ...]
    y: Vector
    v: Vector
    x: Matrix
    study: Index  # of each row

    @property
    def df(self) -> int:
        """Degrees of freedom of Q: Σ(p - 1) - (n - 1)."""
        return len(self.y) - len(self.treatments) + 1

    def solve(self, tau2: float) -> Fit:
        """Weighted least squares with the first treatment as the reference."""
        return fit(self.y, self.x[:, 1:], 1 / (self.v + tau2))


@dataclass(frozen=True, eq=False)
class Network:
    """A fitted network: matrices are treatment × treatment and hold the row's treatment minus the column's.

    Effects and limits are in the unit of the studies, se² and tau2 in its square; i2 is max(0, (Q - df)/Q), Q
    with common-effect weights. Prediction limits are NaN under a common effect and when df < 2.
    """

    rows: Contrasts
    method: Tau2
    tau2: float
    q: float
    theta: Vector  # against the first treatment
    covariance: Matrix
    estimate: Matrix
    se: Matrix

    @property
    def treatments(self) -> tuple[str, ...]:
        return self.rows.treatments

    @property
    def df(self) -> int:
        return self.rows.df

    @property
    def i2(self) -> float:
        return max(0.0, (self.q - self.df) / self.q) if self.df > 0 and self.q > 0 else 0.0

    def interval(self) -> tuple[Matrix, Matrix]:
        """95 % limits of every contrast, by the normal distribution."""
        reach = float(norm.ppf(0.5 + LEVEL / 2)) * self.se
        return self.estimate - reach, self.estimate + reach

    def prediction(self) -> tuple[Matrix, Matrix]:
        """95 % limits of the contrast in a new study: estimate ± t_(df-1) · sqrt(se² + τ²)."""
        quantile = float(t.ppf(0.5 + LEVEL / 2, self.df - 1)) if self.df > 1 and self.method != "common" else np.nan
        reach = quantile * np.sqrt(self.se**2 + self.tau2)
        return self.estimate - reach, self.estimate + reach


def contrasts(studies: Sequence[Study], reference: str) -> Contrasts:
    """Lay the independent contrasts of connected studies out over all treatments, the reference first."""
    names = {name for study in studies for name in study.treatments}
    treatments = (reference, *sorted(names - {reference}))
    place = {name: number for number, name in enumerate(treatments)}
    x = np.zeros((sum(len(study.treatments) - 1 for study in studies), len(treatments)))
    y, v, owner = (np.empty(len(x)) for _ in range(3))
    start = 0
    for number, study in enumerate(studies):
        values, variances, coefficients = study.contrasts
        rows = slice(start, start + len(values))
        y[rows], v[rows], owner[rows] = values, variances, number
        x[rows, [place[name] for name in study.treatments]] = coefficients
        start = rows.stop
    return Contrasts(treatments, y, v, x, owner.astype(np.intp))


def network(studies: Sequence[Study], reference: str, method: Tau2 = "REML") -> Network:
    """Fit a connected network. DL is the moment estimator of Jackson, White & Riley (2012), REML one-dimensional."""
    rows = contrasts(studies, reference)
    tau2 = 0.0 if method == "common" else estimate_tau2(method, rows.y, rows.v, rows.x[:, 1:])
    return fitted(rows, method, tau2)


def fitted(rows: Contrasts, method: Tau2, tau2: float) -> Network:
    """The network at a given τ²."""
    found = rows.solve(tau2)
    n = len(rows.treatments)
    theta, covariance = np.zeros(n), np.zeros((n, n))
    theta[1:], covariance[1:, 1:] = found.coefficients, found.covariance
    spread = np.diag(covariance)
    variance = spread[:, None] + spread[None, :] - 2 * covariance
    np.fill_diagonal(variance, 0.0)
    return Network(
        rows=rows,
        method=method,
        tau2=tau2,
        q=(found if tau2 == 0 else rows.solve(0.0)).rss if rows.df > 0 else 0.0,
        theta=theta,
        covariance=covariance,
        estimate=theta[:, None] - theta[None, :],
        se=np.sqrt(variance),
    )


def components(studies: Sequence[Study]) -> list[tuple[str, ...]]:
    """The parts of the network that studies connect, largest first, treatments in alphabetical order."""
    names = sorted({name for study in studies for name in study.treatments})
    _, start, end = edges(studies, names)
    labels = labelled(start, end, len(names))
    parts = [tuple(name for name, at in zip(names, labels, strict=True) if at == part) for part in np.unique(labels)]
    return sorted(parts, key=lambda part: (-len(part), part))


def edges(studies: Sequence[Study], names: Sequence[str]) -> tuple[Index, Index, Index]:
    """The number of a study and two of its treatments: enough lines to connect the arms of every study."""
    place = {name: number for number, name in enumerate(names)}
    lines = [
        (number, place[study.treatments[0]], place[name])
        for number, study in enumerate(studies)
        for name in study.treatments[1:]
    ]
    owner, start, end = np.array(lines, dtype=np.intp).reshape(-1, 3).T
    return owner, start, end


def labelled(start: Index, end: Index, treatments: int) -> Index:
    """The number of the connected part that each treatment lies in."""
    graph = csr_array((np.ones(len(start)), (start, end)), shape=(treatments, treatments))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.intp)
