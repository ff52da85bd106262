"""Every pooled number beside R's: reference_pool.json is what metafor says, written by reference_pool.R."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from catalog.meta import effects, sizes
from catalog.meta.pool import pool
from catalog.meta.regress import permutation_test, regress
from catalog.meta.sensitivity import cumulative, influence, leave_one_out
from catalog.meta.stratified import mantel_haenszel, peto

REFERENCE = json.loads((Path(__file__).parent / "reference_pool.json").read_text())
TABLES, EFFECTS = REFERENCE["tables"], REFERENCE["effects"]
CLOSED, ITERATIVE = 1e-6, 1e-4
INTERVALS = {"z": "z", "knha": "hk", "adhoc": "hk-guarded"}
Z975 = 1.959963984540054


def column(values):
    return np.array(values, dtype=float)


def counts(name):
    return sizes.Counts(*(column(TABLES[name][key]) for key in ("k1", "n1", "k0", "n0")))


def agree(ours, theirs, tolerance):
    """Equal up to `tolerance`, relative to the size of R's number where that is above 1."""
    ours, theirs = np.atleast_1d(np.array(ours, dtype=float)), np.atleast_1d(np.array(theirs, dtype=float))
    assert ours.shape == theirs.shape
    assert np.all(np.abs(ours - theirs) <= tolerance * np.maximum(1, np.abs(theirs))), (ours, theirs)


def fits():
    for name, entry in EFFECTS.items():
        yield from ((name, column(entry["yi"]), column(entry["vi"]), *each) for each in grid(entry["fits"]))
    for name, entry in TABLES.items():
        for measure in entry["fits"]:
            size = sizes.sizes(measure, counts(name))
            y, v = size.yi[size.used], size.vi[size.used]
            yield from ((f"{name}-{measure}", y, v, *each) for each in grid(entry["fits"][measure]))


def grid(by_method):
    return [(m, test, values) for m, by_test in by_method.items() for test, values in by_test.items()]


FITS = list(fits())


@pytest.mark.parametrize("case", FITS, ids=lambda case: f"{case[0]}-{case[3]}-{case[4]}")
def test_pooling_agrees_with_metafor(case):
    _, yi, vi, method, test, r = case
    tolerance = CLOSED if method in ("FE", "DL") else ITERATIVE
    asked = {"tau2_method": "REML" if method == "FE" else method, "common": method == "FE"}
    ours = pool(yi, vi, interval=INTERVALS[test], prediction="metafor", **asked)
    agree(
        [ours.estimate, ours.se, ours.low, ours.high, ours.p],
        [r[n] for n in ("estimate", "se", "low", "high", "p")],
        tolerance,
    )
    spread, definition = ours.heterogeneity, "Q" if method == "FE" else "tau2"
    agree([spread.tau2, spread.q, spread.q_p], [r["tau2"], r["q"], r["q_p"]], tolerance)
    agree([spread.i2[definition], spread.h2[definition]], [r["i2"], r["h2"]], tolerance)
    agree(ours.weights, r["weights"], tolerance)
    if method != "FE":
        agree([spread.tau2_low, spread.tau2_high], [r["tau2_low"], r["tau2_high"]], ITERATIVE)
        agree([ours.pi_low, ours.pi_high], r["pi_metafor"], tolerance)
        hts = pool(yi, vi, interval=INTERVALS[test], prediction="hts", **asked)
        agree([hts.pi_low, hts.pi_high], r["pi_hts"], tolerance)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("measure", ["OR", "RR", "RD", "AS"])
def test_effect_sizes_agree_with_escalc_or_the_stated_rule(name, measure):
    ours, r = sizes.sizes(measure, counts(name)), TABLES[name]["sizes"][measure]
    theirs = column([math.nan if y is None else y for y in r["yi"]])
    assert np.array_equal(ours.used, ~np.isnan(theirs)), "excluded tables differ"
    agree(ours.yi[ours.used], theirs[ours.used], 1e-12)
    agree(ours.vi[ours.used], column([v for v in r["vi"] if v is not None]), 1e-12)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("measure", ["OR", "RR", "RD"])
def test_mantel_haenszel_agrees_with_rma_mh(name, measure):
    ours, r = mantel_haenszel(measure, counts(name)), TABLES[name]["mh"][measure]
    agree([ours.estimate, ours.se, ours.low, ours.high], [r[n] for n in ("estimate", "se", "low", "high")], CLOSED)
    if measure != "RD" or not counts(name).with_zero.any():  # metafor also corrects the RD of tables with a zero
        agree(ours.heterogeneity.q, r["q"], CLOSED)


@pytest.mark.parametrize("name", TABLES)
def test_peto_agrees_with_rma_peto(name):
    ours, r = peto(counts(name)), TABLES[name]["peto"]
    agree([ours.estimate, ours.se, ours.low, ours.high], [r[n] for n in ("estimate", "se", "low", "high")], CLOSED)
    agree(ours.heterogeneity.q, r["q"], CLOSED)


@pytest.mark.parametrize("name", EFFECTS)
def test_leave_one_out_and_cumulative_agree_with_metafor(name):
    entry = EFFECTS[name]
    yi, vi, r = column(entry["yi"]), column(entry["vi"]), entry["sensitivity"]
    labels = [str(place) for place in range(len(yi))]

    def refit(kept):
        return pool(yi[kept], vi[kept], profile=False)

    left = [one for _, one in leave_one_out(labels, refit)]
    for ours, key in ((lambda o: o.estimate, "estimate"), (lambda o: o.se, "se"), (lambda o: o.low, "low"),
                      (lambda o: o.heterogeneity.tau2, "tau2"), (lambda o: o.heterogeneity.q, "q")):  # fmt: skip
        agree([ours(one) for one in left], r["leave_one_out"][key], ITERATIVE)
    added = [one for _, one in cumulative(labels, refit)][1:]  # metafor has no Hartung-Knapp for one study
    agree([one.estimate for one in added], r["cumulative"]["estimate"][1:], ITERATIVE)
    agree([one.se for one in added], r["cumulative"]["se"][1:], ITERATIVE)
    agree([one.heterogeneity.tau2 for one in added], r["cumulative"]["tau2"][1:], ITERATIVE)


@pytest.mark.parametrize("name", EFFECTS)
def test_influence_agrees_with_metafor(name):
    entry = EFFECTS[name]
    yi, r = column(entry["yi"]), entry["sensitivity"]["influence"]
    ours = influence([str(place) for place in range(len(yi))], yi, column(entry["vi"]), np.ones((len(yi), 1)))
    for key in ("rstudent", "dffits", "cook", "cov_r", "tau2", "q", "hat"):
        agree([getattr(one, key) for one in ours], r[key], ITERATIVE)
    agree([one.dfbetas[0] for one in ours], r["dfbetas"], ITERATIVE)
    assert [one.influential for one in ours] == r["influential"]


REGRESSED = [(name, place) for name, entry in EFFECTS.items() if "regression" in entry for place in range(7)]


@pytest.mark.parametrize(("name", "place"), REGRESSED)
def test_meta_regression_agrees_with_metafor(name, place):
    entry = EFFECTS[name]
    r = entry["regression"]["fits"][place]
    mods = column(entry["regression"]["mods"])
    X = np.column_stack([np.ones(len(mods)), mods])
    names = [str(number) for number in range(X.shape[1])]
    tolerance = CLOSED if r["method"] in ("FE", "DL") else ITERATIVE
    asked = {"tau2_method": "REML" if r["method"] == "FE" else r["method"], "common": r["method"] == "FE"}
    ours = regress(column(entry["yi"]), column(entry["vi"]), X, names, interval=INTERVALS[r["test"]], **asked)
    for key in ("estimate", "se", "low", "high", "p"):
        agree([getattr(one, key) for one in ours.coefficients], r[key], tolerance)
    spread, definition = ours.heterogeneity, "Q" if r["method"] == "FE" else "tau2"
    agree([ours.qm, ours.qm_p, spread.q, spread.tau2], [r["qm"], r["qm_p"], r["q"], r["tau2"]], tolerance)
    agree([spread.i2[definition], spread.h2[definition]], [r["i2"], r["h2"]], tolerance)
    if r["method"] != "FE":
        agree(ours.r2, r["r2"], tolerance)
        agree([spread.tau2_low, spread.tau2_high], [r["tau2_low"], r["tau2_high"]], ITERATIVE)


@pytest.mark.parametrize("place", range(len(REFERENCE["permutation"])))
def test_exact_permutation_test_agrees_with_permutest(place):
    r = REFERENCE["permutation"][place]
    mods = column(r["mods"])
    X = np.column_stack([np.ones(len(mods)), mods])
    names = ["intercept", *(str(number) for number in range(mods.shape[1]))]
    ours = permutation_test(
        column(r["yi"]), column(r["vi"]), X, names, tau2_method=r["method"], interval=INTERVALS[r["test"]]
    )
    assert ours.exact
    agree(list(ours.p.values()), r["p"], 1e-12)
    agree(ours.qm_p, r["qm_p"], 1e-12)


@pytest.mark.parametrize("case", REFERENCE["proportions"], ids=lambda case: f"{case['k']}-of-{case['n']}")
def test_intervals_of_proportions_agree_with_r(case):
    k, n = case["k"], case["n"]
    agree(effects.wilson(k / n, n, Z975), case["wilson"], 1e-10)
    agree(sizes.clopper_pearson(k, n), case["clopper_pearson"], 1e-10)
    agree(sizes.jeffreys(k, n), case["jeffreys"], 1e-10)
