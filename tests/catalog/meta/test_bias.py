"""Small-study effects beside metafor's regtest and trimfill, and the rules that keep them from running."""

import json
from pathlib import Path

import numpy as np
import pytest

from catalog.meta import bias
from catalog.meta.analysis import Data
from catalog.meta.sizes import Counts, sizes

REFERENCE = json.loads((Path(__file__).parent / "reference_bias.json").read_text())
TABLES, EFFECTS = REFERENCE["tables"], REFERENCE["effects"]
CLOSED, ITERATIVE = 1e-6, 1e-4


def column(values):
    return np.array(values, dtype=float)


def counts(name):
    return Counts(*(column(TABLES[name][key]) for key in ("k1", "n1", "k0", "n0")))


def scales():
    for name, entry in EFFECTS.items():
        yield f"{name}-GEN", column(entry["yi"]), column(entry["vi"]), entry["GEN"]
    for name, entry in TABLES.items():
        for measure in ("OR", "AS"):
            found = sizes(measure, counts(name))
            yield f"{name}-{measure}", found.yi, found.vi, entry[measure]


SCALES = list(scales())
FILLS = [
    (name, y, v, r)
    for name, y, v, _ in SCALES
    if not name.endswith("AS")
    for r in {**TABLES, **EFFECTS}[name.rpartition("-")[0]]["fills"]
]


def agree(found, r, tolerance, *names):
    for name in names:
        ours = getattr(found, name)
        assert ours == pytest.approx(r[name], rel=tolerance, abs=tolerance), name


@pytest.mark.parametrize("case", SCALES, ids=lambda case: case[0])
def test_eggers_regression_agrees_with_regtest(case):
    _, y, v, r = case
    agree(
        bias.egger(y, v), r["egger"], CLOSED, "slope", "se", "statistic", "df", "p", "limit", "limit_low", "limit_high"
    )


@pytest.mark.parametrize("case", SCALES, ids=lambda case: case[0])
def test_the_random_effects_regression_agrees_with_regtest(case):
    _, y, v, r = case
    agree(bias.thompson(y, v), r["thompson"], ITERATIVE, "statistic", "p", "limit", "limit_low", "limit_high")


@pytest.mark.parametrize("name", TABLES)
def test_peters_regression_agrees_with_weighted_least_squares_in_r(name):
    r = TABLES[name]["peters"]
    agree(
        bias.peters(counts(name)), r, CLOSED, "slope", "se", "statistic", "df", "p", "limit", "limit_low", "limit_high"
    )


def test_clustered_regression_agrees_with_clubsandwich():
    r = REFERENCE["clustered"]["konstantopoulos2011"]
    found = bias.thompson(column(r["yi"]), column(r["vi"]), clusters=r["cluster"])
    agree(found, r, ITERATIVE, "slope", "se", "df", "p", "limit")


@pytest.mark.parametrize(
    "case", FILLS, ids=lambda case: f"{case[0]}-{case[3]['method']}-{case[3]['estimator']}-{case[3]['asked']}"
)
def test_trim_and_fill_agrees_with_trimfill(case):
    _, y, v, r = case
    found = bias.trim_and_fill(
        y,
        v,
        r["estimator"],
        side=r["asked"],
        tau2_method="REML" if r["method"] == "FE" else r["method"],
        common=r["method"] == "FE",
        interval="hk" if r["test"] == "knha" else "z",
    )
    assert (found.missing, found.side) == (r["k0"], r["side"])
    tolerance = ITERATIVE if r["method"] == "REML" else CLOSED
    assert found.se == pytest.approx(r["se_k0"], rel=tolerance)
    assert (found.p == pytest.approx(r["p_k0"])) if r["estimator"] == "R0" else np.isnan(found.p)
    assert np.sort(found.yi) == pytest.approx(np.atleast_1d(column(r["added"])), rel=tolerance, abs=tolerance)
    ours = [found.pooled.estimate, found.pooled.se, found.pooled.low, found.pooled.high]
    assert ours == pytest.approx([r[n] for n in ("estimate", "se", "low", "high")], rel=tolerance, abs=tolerance)


def test_some_reference_has_missing_studies_and_some_has_none():
    assert {bool(r["k0"]) for *_, r in FILLS} == {True, False}


def made(k, largest, measure="OR", **more):
    """`k` tables of 40 answers, the last one larger."""
    n = column([40] * (k - 1) + [largest])
    found = Counts(np.round(n * np.linspace(0.2, 0.4, k)), n, np.round(n / 2), n)
    size = sizes(measure, found)
    names = [str(at) for at in range(k)]
    return Data(labels=names, yi=size.yi, vi=size.vi, measure=measure, counts=found, **more)


@pytest.mark.parametrize(("k", "largest", "says"), [(9, 400, "not run (k=9)"), (12, 120, "not run (k=12)")])
def test_too_few_or_too_similar_studies_are_not_tested(k, largest, says):
    data = made(k, largest)
    found = bias.diagnose(data, data.counts.total)
    assert not found.asymmetry
    assert not found.filled
    assert set(found.not_run) == {*bias.REGRESSIONS, "trim-and-fill"}
    assert all(reason.startswith(says) for reason in found.not_run.values())


def test_clusters_are_what_is_counted():
    data = made(30, 400, clusters=[str(at % 5) for at in range(30)])
    assert bias.diagnose(data, data.counts.total).not_run["peters"].startswith("not run (k=5)")


def test_odds_ratios_get_peters_and_arcsine_and_a_flagged_egger():
    data = made(12, 400)
    found = bias.diagnose(data, data.counts.total)
    assert [one.name for one in found.asymmetry] == ["egger", "egger-arcsine", "thompson-arcsine", "peters"]
    assert [bool(one.flagged) for one in found.asymmetry] == [True, False, False, False]
    assert "thompson" in found.not_run
    assert any("Begg" in note for note in found.notes)


def test_risk_differences_are_tested_on_the_arcsine_scale_only():
    data = made(12, 400, "RD")
    found = bias.diagnose(data, data.counts.total)
    assert "egger" in found.not_run
    assert {one.scale for one in found.asymmetry} == {"AS", "OR"}


def test_effects_in_clusters_get_the_robust_regression_only():
    data = made(30, 400, clusters=[str(at % 12) for at in range(30)])
    found = bias.diagnose(data, data.counts.total)
    (one,) = found.asymmetry
    assert one.name == "thompson-arcsine"
    assert 1 < one.df < 12
