"""Weighted least squares with one column is the same whether it is solved in closed form or with others by QR."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.meta.weighted import fit


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(2, 60), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_a_single_column_agrees_with_numpys_least_squares(seed: int, k: int, scale: float) -> None:
    draw = np.random.default_rng(seed)
    y, x, w = scale * draw.normal(size=k), draw.uniform(0.5, 2, size=(k, 1)), 1 / draw.uniform(0.01, 1, size=k)
    found = fit(y, x, w)
    q, r = np.linalg.qr(x * np.sqrt(w)[:, None])
    assert found.coefficients == pytest.approx(np.linalg.solve(r, q.T @ (np.sqrt(w) * y)), rel=1e-12, abs=1e-12 * scale)
    assert found.covariance == pytest.approx(np.linalg.inv(r.T @ r), rel=1e-12)
    projection = np.diag(w) - w[:, None] * x @ found.covariance @ x.T * w
    assert found.rss == pytest.approx(y @ projection @ y, rel=1e-11)
    assert found.trace_p == pytest.approx(np.trace(projection), rel=1e-11)
    assert found.trace_pp == pytest.approx(np.trace(projection @ projection), rel=1e-10)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(3, 40))
def test_a_second_column_that_is_orthogonal_changes_nothing(seed: int, k: int) -> None:
    """The general path, asked the same question beside another one."""
    draw = np.random.default_rng(seed)
    y, w, other = draw.normal(size=k), draw.uniform(0.5, 3, size=k), draw.normal(size=k)
    ones = np.ones(k)
    other -= (w @ other) / w.sum()
    alone, beside = fit(y, ones[:, None], w), fit(y, np.column_stack([ones, other]), w)
    assert alone.coefficients[0] == pytest.approx(beside.coefficients[0], rel=1e-12, abs=1e-12)
    assert alone.covariance[0, 0] == pytest.approx(beside.covariance[0, 0], rel=1e-12)


def test_a_column_of_zeros_is_refused() -> None:
    with pytest.raises(np.linalg.LinAlgError):
        fit(np.arange(4.0), np.zeros((4, 1)), np.ones(4))
