"""Three-level models, CR2 and cluster averages against metafor and clubSandwich (reference_multilevel.R)."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.meta.clusters import aggregate, claim_note, means_t
from catalog.meta.multilevel import marginal, nested, robust_interval, three_level
from catalog.meta.robust import cr2

CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("reference_multilevel.json").read_text())["cases"]
CLOSED, ITERATIVE = 1e-6, 1e-4


@pytest.fixture(params=CASES, ids=lambda case: str(case["name"]))
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.param)


def arrays(case: dict[str, Any]) -> tuple[Any, ...]:
    return np.array(case["yi"]), np.array(case["vi"]), case["cluster"], case["level"], np.array(case["x"])


def test_restricted_likelihood(case: dict[str, Any]) -> None:
    fit = three_level(*arrays(case))
    assert [fit.sigma2_cluster, fit.sigma2_level] == pytest.approx(case["sigma2"], rel=ITERATIVE, abs=1e-7)
    assert fit.coefficients == pytest.approx(np.atleast_1d(case["beta"]), rel=ITERATIVE, abs=1e-6)
    assert np.sqrt(np.diag(fit.covariance)) == pytest.approx(np.atleast_1d(case["se"]), rel=ITERATIVE)
    assert fit.log_likelihood >= case["log_likelihood"] - 1e-9
    assert fit.log_likelihood == pytest.approx(case["log_likelihood"], abs=1e-6)


def test_cr2_with_satterthwaite(case: dict[str, Any]) -> None:
    """At metafor's own variances the rest is closed form."""
    data = nested(*arrays(case))
    parts = np.split(np.arange(len(data.y)), data.cluster_starts[1:])
    covariance, df = cr2(data.y, data.x, [marginal(data, *case["sigma2"], part) for part in parts], parts)
    assert np.sqrt(np.diag(covariance)) == pytest.approx(np.atleast_1d(case["cr2"]["se"]), rel=CLOSED)
    assert df == pytest.approx(np.atleast_1d(case["cr2"]["df"]), rel=CLOSED)


def test_robust_interval(case: dict[str, Any]) -> None:
    found, notes = robust_interval(three_level(*arrays(case)))
    expected = {name: np.atleast_1d(values)[0] for name, values in case["cr2"].items()}
    assert (found.low, found.high) == pytest.approx((expected["low"], expected["high"]), rel=ITERATIVE, abs=1e-5)
    assert found.p == pytest.approx(expected["p"], rel=10 * ITERATIVE)
    assert notes == ()


def test_averages_of_clusters(case: dict[str, Any]) -> None:
    names, yi, vi = aggregate(np.array(case["yi"]), np.array(case["vi"]), case["cluster"])
    expected = case["clusters"]
    order = [names.index(str(name)) for name in expected["names"]]
    assert yi[order] == pytest.approx(expected["yi"], rel=CLOSED)
    assert vi[order] == pytest.approx(expected["vi"], rel=CLOSED)


def test_few_degrees_of_freedom_fall_back_to_the_averages() -> None:
    yi, vi = np.array([-0.4, -0.3, -0.5, -0.1, -0.2]), np.full(5, 0.01)
    cluster = list("aabbc")
    found, notes = robust_interval(three_level(yi, vi, cluster, list("12345")))
    averages = np.array([-0.35, -0.3, -0.2])
    assert found.estimate == pytest.approx(averages.mean())
    assert found.high - found.estimate == pytest.approx(4.302653 * averages.std(ddof=1) / 3**0.5, rel=1e-6)
    assert "unreliable" in notes[0]


@pytest.mark.parametrize(("count", "claims"), [(1, False), (2, False), (3, True)])
def test_fewer_than_three_clusters_claim_nothing(count: int, claims: bool) -> None:
    fit = three_level(np.linspace(0, 1, 6), np.full(6, 0.1), [str(i % count) for i in range(6)], list("abcdef"))
    assert any("no general claim" in note for note in fit.notes) is not claims
    assert (claim_note(count) is None) is claims


def test_boundary_and_small_data() -> None:
    equal = three_level(np.full(6, 0.2), np.full(6, 0.1), list("aabbcc"), list("abcdef"))
    assert (equal.sigma2_cluster, equal.sigma2_level) == (0, 0)
    assert equal.coefficients == pytest.approx([0.2])
    alone = three_level(np.array([0.3]), np.array([0.1]), ["a"], ["x"])
    assert alone.coefficients == pytest.approx([0.3])
    assert np.isnan(robust_interval(alone)[0].low)
    assert np.isnan(means_t(np.array([0.3]), np.array([0.1]), ["a"]).low)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from([-1.0, 0.01, 100.0]))
def test_scaling_and_order_change_nothing_else(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    cluster = [str(number) for number in rng.integers(0, 5, 24)]
    yi, vi = rng.normal(0.3, 0.5, 24) + np.array([int(c) / 3 for c in cluster]), rng.uniform(0.02, 0.2, 24)
    level = [str(number) for number in rng.integers(0, 9, 24)]
    fit = three_level(yi, vi, cluster, level)
    order = rng.permutation(24)
    pick = lambda names: [names[at] for at in order]  # noqa: E731
    other = three_level(factor * yi[order], factor**2 * vi[order], pick(cluster), pick(level))
    assert other.coefficients / factor == pytest.approx(fit.coefficients, rel=1e-5, abs=1e-6)
    for name in ("sigma2_cluster", "sigma2_level"):
        assert getattr(other, name) / factor**2 == pytest.approx(getattr(fit, name), rel=1e-4, abs=1e-7)
    ours, theirs = robust_interval(fit)[0], robust_interval(other)[0]
    assert theirs.se / abs(factor) == pytest.approx(ours.se, rel=1e-4)


def test_ten_thousand_effects_take_a_second() -> None:
    rng = np.random.default_rng(1)
    cluster = rng.integers(0, 200, 10_000)
    yi = rng.normal(0, 0.3, 200)[cluster] + rng.normal(0, 0.2, 10_000) + rng.normal(0, 0.3, 10_000)
    started = time.process_time()
    fit = three_level(yi, np.full(10_000, 0.09), [str(c) for c in cluster], [str(row) for row in range(10_000)])
    assert time.process_time() - started < 2
    assert fit.sigma2_cluster == pytest.approx(0.09, rel=0.3)
    assert fit.sigma2_level == pytest.approx(0.04, rel=0.2)
