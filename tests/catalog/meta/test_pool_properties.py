"""What must hold of every pooled number whatever the data: units, order, signs, the boundary, one and two studies."""

import math
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalog.meta.heterogeneity import heterogeneity
from catalog.meta.pool import pool, tau2
from catalog.meta.regress import permutation_test, regress
from catalog.meta.sizes import Counts, sizes
from catalog.meta.stratified import mantel_haenszel, peto

METHODS = ["DL", "PM", "ML", "REML"]
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def effects(draw, fewest=2):
    k = draw(st.integers(fewest, 8))
    yi = draw(st.lists(st.floats(-3, 3), min_size=k, max_size=k))
    vi = draw(st.lists(st.floats(0.01, 2), min_size=k, max_size=k))
    return np.array(yi), np.array(vi)


@st.composite
def counts(draw):
    k = draw(st.integers(1, 6))
    n = [draw(st.lists(st.integers(1, 60), min_size=k, max_size=k)) for _ in range(2)]
    events = [[draw(st.integers(0, total)) for total in totals] for totals in n]
    return Counts(*(np.array(side, dtype=float) for side in (events[0], n[0], events[1], n[1])))


def numbers(found):
    return np.array([found.estimate, found.se, found.low, found.high, found.pi_low, found.pi_high])


@FEW
@given(effects(), st.sampled_from(METHODS), st.floats(0.01, 100))
def test_a_change_of_unit_changes_only_the_unit(data, method, factor):
    yi, vi = data
    one, other = pool(yi, vi, tau2_method=method), pool(factor * yi, factor**2 * vi, tau2_method=method)
    close = {"rel": 1e-4, "abs": 1e-5}
    assert other.estimate / factor == pytest.approx(one.estimate, **close)
    assert other.heterogeneity.tau2 / factor**2 == pytest.approx(one.heterogeneity.tau2, rel=1e-3, abs=1e-5)
    assert other.heterogeneity.q == pytest.approx(one.heterogeneity.q, **close)
    assert other.weights == pytest.approx(one.weights, **close)


@FEW
@given(effects(), st.sampled_from(METHODS), st.randoms())
def test_order_does_not_matter_and_signs_mirror(data, method, random):
    yi, vi = data
    places = list(range(len(yi)))
    random.shuffle(places)
    one = numbers(pool(yi, vi, tau2_method=method))
    assert numbers(pool(yi[places], vi[places], tau2_method=method)) == pytest.approx(one, abs=1e-6, nan_ok=True)
    mirrored = numbers(pool(-yi, vi, tau2_method=method))[[0, 1, 3, 2, 5, 4]] * [-1, 1, -1, -1, -1, -1]
    assert mirrored == pytest.approx(one, abs=1e-6, nan_ok=True)


@FEW
@given(effects(), st.floats(-5, 5))
def test_a_shift_of_all_effects_shifts_the_pooled_one(data, shift):
    yi, vi = data
    one, other = pool(yi, vi), pool(yi + shift, vi)
    assert other.estimate - shift == pytest.approx(one.estimate, abs=1e-6)
    assert other.heterogeneity.tau2 == pytest.approx(one.heterogeneity.tau2, abs=1e-6)


@FEW
@given(effects(fewest=3), st.sampled_from(METHODS))
def test_equal_effects_give_tau2_zero_and_the_common_effect(data, method):
    vi = data[1]
    yi = np.full(len(vi), 0.7)
    assert tau2(method, yi, vi, np.ones((len(vi), 1))) == 0
    found = pool(yi, vi, tau2_method=method, interval="hk-guarded")
    assert found.estimate == pytest.approx(0.7)
    assert found.se == pytest.approx(math.sqrt(1 / (1 / vi).sum()))
    assert (found.heterogeneity.tau2_low, found.heterogeneity.tau2_high) == (0, 0)


@FEW
@given(effects(fewest=3))
def test_reml_is_nowhere_beaten_by_another_tau2(data):
    yi, vi = data
    X = np.ones((len(yi), 1))

    def likelihood(candidate):
        w = 1 / (vi + candidate)
        mu = w @ yi / w.sum()
        return 0.5 * (np.log(w).sum() - np.log(w.sum()) - w @ (yi - mu) ** 2)

    best = likelihood(tau2("REML", yi, vi, X))
    assert all(likelihood(candidate) <= best + 1e-7 for candidate in [0.0, *np.geomspace(1e-4, 50, 40)])


@FEW
@given(effects(fewest=3))
def test_paule_mandel_with_hartung_knapp_has_scale_one(data):
    yi, vi = data
    plain, scaled = (pool(yi, vi, tau2_method="PM", interval=i) for i in ("z", "hk"))
    if plain.heterogeneity.tau2 > 0:
        assert scaled.se == pytest.approx(plain.se, rel=1e-6)


@FEW
@given(effects(fewest=3))
def test_the_guarded_interval_is_never_narrower(data):
    plain, guarded = (pool(*data, interval=i) for i in ("hk", "hk-guarded"))
    assert guarded.high - guarded.low >= plain.high - plain.low - 1e-12


@FEW
@given(effects(), st.sampled_from(METHODS))
def test_the_q_profile_interval_holds_paule_mandel(data, method):
    yi, vi = data
    X = np.ones((len(yi), 1))
    spread = heterogeneity(yi, vi, X, tau2("PM", yi, vi, X))
    assert spread.tau2_low <= spread.tau2_high
    if 0.05 < spread.q_p < 0.95:
        assert spread.tau2_low <= spread.tau2 <= spread.tau2_high + 1e-9


def test_one_study_is_returned_as_it_is():
    found = pool(np.array([0.4]), np.array([0.09]))
    assert (found.estimate, found.se, found.heterogeneity.tau2, found.heterogeneity.q) == (0.4, 0.3, 0, 0)
    assert math.isnan(found.pi_low)
    assert found.high == pytest.approx(0.4 + 1.959964 * 0.3)
    assert any("normal interval" in note for note in found.notes)


def test_two_studies_have_one_degree_of_freedom_and_no_prediction_interval():
    found = pool(np.array([0.1, 0.5]), np.array([0.04, 0.04]))
    assert found.high - found.estimate == pytest.approx(12.7062 * found.se, rel=1e-5)
    assert math.isnan(found.pi_high)
    assert any("one degree of freedom" in note for note in found.notes)


@FEW
@given(counts(), st.sampled_from(["RD", "OR", "RR", "AS"]))
def test_swapping_the_arms_flips_the_sign(tables, measure):
    swapped = Counts(tables.reference_events, tables.reference_total, tables.events, tables.total)
    one, other = sizes(measure, tables), sizes(measure, swapped)
    assert other.yi == pytest.approx(-one.yi, nan_ok=True)
    assert other.vi == pytest.approx(one.vi, nan_ok=True)
    assert np.all(one.vi[one.used] > 0)


@FEW
@given(counts())
def test_empty_tables_add_nothing_to_mantel_haenszel_and_peto(tables):
    if not (~tables.uninformative).any():
        return
    more = Counts(*(np.append(side, last) for side, last in zip(vars(tables).values(), (0, 20, 0, 30), strict=True)))
    assert peto(more).estimate == pytest.approx(peto(tables).estimate)
    a, b, c, d = tables.cells.T
    if (a * d).any() and (b * c).any():
        assert mantel_haenszel("OR", more).estimate == pytest.approx(mantel_haenszel("OR", tables).estimate)
    else:
        with pytest.raises(ValueError, match="undefined"):
            mantel_haenszel("OR", more)


def test_zero_cells_follow_the_stated_rules():
    tables = Counts(*(np.array(side, dtype=float) for side in ([0, 0, 5], [10, 10, 10], [3, 0, 2], [12, 12, 12])))
    rd, odds = sizes("RD", tables), sizes("OR", tables)
    assert rd.yi[0] == pytest.approx(-3 / 12), "the estimate is not corrected"
    share = (0.5 / 11, 3.5 / 13)
    assert rd.vi[0] == pytest.approx(share[0] * (1 - share[0]) / 11 + share[1] * (1 - share[1]) / 13)
    assert rd.vi[2] == pytest.approx(0.25 / 10 + (2 / 12) * (10 / 12) / 12), "no zero, no correction"
    assert odds.yi[0] == pytest.approx(math.log(0.5 * 9.5 / (10.5 * 3.5)))
    assert odds.used.tolist() == [True, False, True]
    assert any("zero cell" in note for note in odds.notes)


@FEW
@given(effects(fewest=5), st.floats(0.1, 10))
def test_a_moderator_in_another_unit_gives_the_same_test(data, factor):
    yi, vi = data
    x = np.arange(len(yi), dtype=float)
    one, other = (regress(yi, vi, np.column_stack([np.ones(len(x)), z]), ["1", "x"]) for z in (x, factor * x))
    assert other.coefficients[1].estimate * factor == pytest.approx(one.coefficients[1].estimate, abs=1e-4)
    assert other.coefficients[1].p == pytest.approx(one.coefficients[1].p, abs=1e-3, nan_ok=True)


def test_a_drawn_permutation_test_repeats_and_comes_near_the_exact_one():
    draw = np.random.default_rng(5)
    yi, vi = draw.normal(0, 1, 12), np.full(12, 0.1)
    X = np.column_stack([np.ones(12), np.arange(12)])
    one, two = (permutation_test(yi, vi, X, ["1", "x"], orderings=200, seed=4, tau2_method="DL") for _ in range(2))
    assert one == two
    assert not one.exact
    assert one.p["x"] == pytest.approx(regress(yi, vi, X, ["1", "x"], tau2_method="DL").coefficients[1].p, abs=0.15)


def test_reml_of_ten_thousand_effects_takes_less_than_a_second():
    draw = np.random.default_rng(1)
    vi = draw.gamma(2, 0.1, 10_000)
    yi = draw.normal(0.3, np.sqrt(vi + 0.2))
    start = time.process_time()
    found = pool(yi, vi)
    assert time.process_time() - start < 1
    assert found.heterogeneity.tau2 == pytest.approx(0.2, abs=0.02)
