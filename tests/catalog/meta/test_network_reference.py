"""Networks against metafor's frozen results (reference_network.R): nine analyses of seven public data sets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalog.meta.inconsistency import inconsistency, net_heat
from catalog.meta.network import Network, Study, fitted, network
from catalog.meta.network_studies import Arm, Mean, from_counts, from_means
from catalog.meta.splitting import splits

CASES: list[dict[str, Any]] = json.loads(Path(__file__).with_name("reference_network.json").read_text())["cases"]
CLOSED, ITERATIVE = 1e-6, 1e-4


def studies(case: dict[str, Any]) -> list[Study]:
    arms = case["arms"]
    columns = [arms["study"], arms["treatment"]]
    if case["sm"] == "MD":
        rows = zip(*columns, arms["mean"], arms["sd"], arms["n"], strict=True)
        return from_means([Mean("", str(s), t, m, sd**2 / n) for s, t, m, sd, n in rows])
    return from_counts(
        [Arm("", str(s), t, k, n) for s, t, k, n in zip(*columns, arms["events"], arms["n"], strict=True)], case["sm"]
    )[0]


@pytest.fixture(params=CASES, ids=lambda case: f"{case['name']} {case['sm']}")
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.param)


def agrees(found: Network, expected: dict[str, Any], others: list[str], tolerance: float) -> None:
    order = [found.treatments.index(name) for name in others]
    estimates = [expected["estimate"][name] for name in others]
    assert found.theta[order] == pytest.approx(estimates, rel=tolerance, abs=tolerance)
    assert found.covariance[np.ix_(order, order)] == pytest.approx(np.array(expected["vcov"]), rel=tolerance, abs=1e-9)


def test_common_effect(case: dict[str, Any]) -> None:
    result = case["result"]
    found = network(studies(case), result["ref"], "common")
    assert found.q == pytest.approx(result["common"]["q"], rel=CLOSED)
    assert found.df == result["common"]["df"]
    agrees(found, result["common"], result["others"], CLOSED)


def test_moment_estimator(case: dict[str, Any]) -> None:
    result = case["result"]
    found = network(studies(case), result["ref"], "DL")
    assert found.tau2 == pytest.approx(result["dl"]["tau2"], rel=CLOSED, abs=1e-12)
    agrees(found, result["dl"], result["others"], CLOSED)


def test_restricted_likelihood(case: dict[str, Any]) -> None:
    result = case["result"]
    found = network(studies(case), result["ref"], "REML")
    assert found.tau2 == pytest.approx(result["reml"]["tau2"], rel=ITERATIVE, abs=1e-8)
    agrees(found, result["reml"], result["others"], ITERATIVE)
    agrees(fitted(found.rows, "REML", result["reml"]["tau2"]), result["reml"], result["others"], CLOSED)


def test_designs(case: dict[str, Any]) -> None:
    result, members = case["result"], studies(case)
    found = inconsistency(members, network(members, result["ref"], "DL"))
    assert (found.within.df, found.between.df) == (result["within"]["df"], result["between"]["df"])
    assert found.within.q == pytest.approx(result["within"]["q"], rel=CLOSED)
    assert found.between.q == pytest.approx(result["between"]["q"], rel=CLOSED)
    assert found.tau2_within == pytest.approx(result["within"]["tau2"], rel=CLOSED, abs=1e-12)
    assert found.between_random.q == pytest.approx(result["between"]["q_random"], rel=CLOSED)


def test_splits(case: dict[str, Any]) -> None:
    result, members = case["result"], studies(case)
    made = {frozenset((s.treat1, s.treat2)): s for s in splits(members, network(members, result["ref"], "DL"))}
    assert len(made) == len(result["splits"])
    for expected in result["splits"]:
        split = made[frozenset((expected["treat1"], expected["treat2"]))]
        sign = 1 if split.treat1 == expected["treat1"] else -1
        assert split.studies == expected["k"]
        assert sign * split.direct == pytest.approx(expected["direct"], rel=CLOSED, abs=1e-9)
        assert split.direct_se == pytest.approx(expected["direct_se"], rel=CLOSED)
        if "indirect" in expected:
            assert split.testable
            assert sign * split.indirect == pytest.approx(expected["indirect"], rel=CLOSED, abs=1e-9)
            assert split.indirect_se == pytest.approx(expected["indirect_se"], rel=CLOSED)


def test_net_heat_finds_the_design_of_the_published_plot() -> None:
    """Krahn, Binder & König (2013) find rosiglitazone against sulfonylurea alone at odds with the diabetes network.

    Their figure 6 is drawn without it (doi 10.1186/1471-2288-13-35).
    """
    members = studies(CASES[0])
    heat = net_heat(members, network(members, "placebo", "common"), 0.0)
    changes = dict(zip(heat.designs, heat.change.sum(axis=0), strict=True))
    assert max(changes, key=lambda name: changes[name]) == "rosiglitazone : sulfonylurea"
    assert changes["placebo : vildagliptin"] == pytest.approx(0, abs=1e-9)
