"""Least squares with known weights: the matrix algebra under every pooling and meta-regression.

Nothing larger than effects × coefficients is ever formed, so that 10,000 effects cost milliseconds. The
notation is Viechtbauer's (2005): W = diag(w), P = W - W X (X'WX)^-1 X'W.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """Coefficients with (X'WX)^-1 as their covariance, in the unit of the effects and its square."""

    coefficients: Vector
    covariance: Matrix
    residuals: Vector
    weights: Vector
    X: Matrix

    @property
    def rss(self) -> float:
        """Weighted residual sum of squares, y'Py (no unit)."""
        return float(self.weights @ self.residuals**2)

    @property
    def trace_p(self) -> float:
        """The trace of P."""
        return float(self.weights.sum() - np.trace(self.covariance @ self._moment(2)))

    @property
    def trace_pp(self) -> float:
        """The trace of PP."""
        once = self.covariance @ self._moment(2)
        twice = self.covariance @ self._moment(3)
        return float((self.weights**2).sum() - 2 * np.trace(twice) + np.trace(once @ once))

    @property
    def hat(self) -> Vector:
        """The diagonal of X (X'WX)^-1 X'W: the leverage of each effect."""
        return np.asarray(self.weights * np.einsum("ij,jk,ik->i", self.X, self.covariance, self.X))

    @property
    def log_determinant(self) -> float:
        """log |X'WX|."""
        return -float(np.linalg.slogdet(self.covariance)[1])

    def _moment(self, power: int) -> Matrix:
        return np.asarray((self.X * (self.weights**power)[:, None]).T @ self.X)


def fit(yi: Vector, X: Matrix, weights: Vector) -> Fit:
    """Solve the weighted normal equations, of several columns by QR; columns must not depend on one another."""
    if X.shape[1] == 1:
        return _single(yi, X, weights)
    root = np.sqrt(weights)
    q, r = np.linalg.qr(X * root[:, None])
    inverse = np.linalg.solve(r, np.eye(X.shape[1]))
    coefficients = inverse @ (q.T @ (root * yi))
    return Fit(coefficients, inverse @ inverse.T, yi - X @ coefficients, weights, X)


def _single(yi: Vector, X: Matrix, weights: Vector) -> Fit:
    """One column, in closed form: the weighted mean when it is the intercept."""
    x = X[:, 0]
    pull = weights * x
    information = float(pull @ x)
    if information == 0:
        raise np.linalg.LinAlgError("the only column is zero")
    coefficient = float(pull @ yi) / information
    return Fit(np.array([coefficient]), np.array([[1 / information]]), yi - coefficient * x, weights, X)
