"""Cluster-robust variance of a weighted regression, corrected for few clusters.

CR2 of Bell & McCaffrey (2002) with the Satterthwaite degrees of freedom of Pustejovsky & Tipton (2018): unbiased
when the working variance is right, and close when it is not (design, section 3).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Index = NDArray[np.intp]


def cr2(y: Vector, x: Matrix, variances: Sequence[Matrix], parts: Sequence[Index]) -> tuple[Matrix, Vector]:
    """Return the CR2 covariance of the coefficients and the degrees of freedom of each.

    `parts` are the rows of each cluster and `variances` their working variance matrices, whose inverses are the
    weights. For cluster j, A_j = D'B^(-1/2)D with Φ_j = D'D and B = D(Φ_j - X_j M X_j')D', where M is the inverse
    of ΣX'Φ⁻¹X; degrees of freedom are (tr G'ΦG)² / tr((G'ΦG)²). One cluster has none, and NaN for a covariance.
    """
    weighted = [np.linalg.solve(phi, x[rows]) for phi, rows in zip(variances, parts, strict=True)]
    bread = np.linalg.inv(sum(x[rows].T @ w for rows, w in zip(parts, weighted, strict=True)))
    beta = bread @ sum(w.T @ y[rows] for rows, w in zip(parts, weighted, strict=True))
    columns = x.shape[1]
    meat = np.zeros((columns, columns))
    leaning = np.empty((columns, len(parts), columns))  # X_j' A_j W_j X_j M, by coefficient
    own = np.empty((columns, len(parts)))
    for number, (phi, rows, w) in enumerate(zip(variances, parts, weighted, strict=True)):
        adjusted = _adjustment(phi, x[rows], bread) @ w
        score = adjusted.T @ (y[rows] - x[rows] @ beta)
        meat += np.outer(score, score)
        u = adjusted @ bread
        leaning[:, number, :] = (x[rows].T @ u).T
        own[:, number] = np.einsum("ij,ik,kj->j", u, phi, u)
    if len(parts) == 1:
        return np.full_like(bread, np.nan), np.zeros(columns)
    return bread @ meat @ bread, np.array([_satterthwaite(own[c], leaning[c], bread) for c in range(columns)])


def _adjustment(phi: Matrix, x: Matrix, bread: Matrix) -> Matrix:
    factor = np.linalg.cholesky(phi).T
    inner = factor @ (phi - x @ bread @ x.T) @ factor.T
    values, vectors = np.linalg.eigh((inner + inner.T) / 2)
    kept = values > 1e-10 * values.max()
    root = vectors[:, kept] / np.sqrt(values[kept]) @ vectors[:, kept].T
    return np.asarray(factor.T @ root @ factor)


def _satterthwaite(own: Vector, leaning: Matrix, bread: Matrix) -> float:
    gram = np.diag(own) - leaning @ bread @ leaning.T
    return float(np.trace(gram) ** 2 / np.sum(gram**2))
