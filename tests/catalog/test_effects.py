import math
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import t
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from catalog.meta import effects


def strings(table):
    """One outcome string per seed from a prompts × seeds 0/1 array."""
    return {seed: "".join(str(int(mark)) for mark in column) for seed, column in enumerate(table.T)}


def anova_by_loops(table):
    """Mean squares of a two-way table without replication, by the textbook sums."""
    prompts, seeds = table.shape
    grand = sum(table[i, s] for i, s in product(range(prompts), range(seeds))) / (prompts * seeds)
    rows = [sum(table[i]) / seeds for i in range(prompts)]
    columns = [sum(table[:, s]) / prompts for s in range(seeds)]
    total = sum((table[i, s] - grand) ** 2 for i, s in product(range(prompts), range(seeds)))
    ss_rows = seeds * sum((row - grand) ** 2 for row in rows)
    ss_columns = prompts * sum((column - grand) ** 2 for column in columns)
    rest = total - ss_rows - ss_columns
    return ss_rows / (prompts - 1), ss_columns / (seeds - 1), rest / ((prompts - 1) * (seeds - 1))


def test_two_way_variance_of_a_table_worked_by_hand():
    # Row means 1, .5, .5, 0; column means .75, .25; grand mean .5.
    # SS_prompt = 2 (.25 + .25) = 1, SS_seed = 4 (.0625 + .0625) = .5, SS_total = 2, SS_rest = .5.
    # MS = 1/3, 1/2, 1/6; Var = (1/3 + 1/2 - 1/6) / 8 = 1/12.
    table = np.array([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    variance, df = effects.two_way(table)
    assert variance == pytest.approx(1 / 12)
    assert df == pytest.approx((2 / 3) ** 2 / ((1 / 9) / 3 + (1 / 4) / 1 + (1 / 36) / 3))


@pytest.mark.parametrize("seed", range(6))
def test_two_way_variance_against_loops_and_the_cluster_robust_form(seed):
    draw = np.random.default_rng(seed)
    lean = draw.normal(0, 2, (40, 1)) + draw.normal(0, 1.5, (1, 5))
    table = (draw.random((40, 5)) < 1 / (1 + np.exp(-lean))).astype(float)
    prompts, seeds = table.shape
    ms_prompt, ms_seed, ms_rest = anova_by_loops(table)
    assert min(ms_prompt, ms_seed) > ms_rest, "the example must exercise the regular branch"
    variance, _ = effects.two_way(table)
    assert variance == pytest.approx((ms_prompt + ms_seed - ms_rest) / (prompts * seeds))
    centred = table - table.mean()
    by_prompt, by_seed = (centred.sum(axis=1) ** 2).sum(), (centred.sum(axis=0) ** 2).sum()
    clustered = (by_prompt + by_seed - (centred**2).sum()) / (prompts * seeds) ** 2
    small_sample = prompts * seeds / ((prompts - 1) * (seeds - 1))
    assert variance == pytest.approx(clustered * small_sample)


def test_negative_component_falls_back_to_the_larger_mean_square():
    table = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    ms_prompt, ms_seed, ms_rest = anova_by_loops(table)
    assert ms_seed < ms_rest
    assert effects.two_way(table) == pytest.approx((max(ms_prompt, ms_seed) / 12, 3))


def test_one_seed_is_the_plain_wilson_interval():
    found = effects.arm({3: "1" * 7 + "0" * 13})
    assert (found.low, found.high) == pytest.approx(proportion_confint(7, 20, method="wilson"))
    assert (found.value, found.prompts, found.seeds) == (0.35, 20, 1)


@pytest.mark.parametrize("mark", "01")
def test_constant_outcomes_use_the_number_of_prompts_not_of_answers(mark):
    found = effects.arm(dict.fromkeys(range(5), mark * 300))
    assert (found.low, found.high) == pytest.approx(
        proportion_confint(300 * int(mark), 300, method="wilson"), abs=1e-12
    )


def test_identical_seeds_are_worth_one_seed():
    one = "1" * 60 + "0" * 40
    alone, five = effects.arm({0: one}), effects.arm(dict.fromkeys(range(5), one))
    assert five.value == alone.value
    assert five.high - five.low == pytest.approx(alone.high - alone.low, rel=0.03)


def test_wilson_with_a_fractional_size_and_t_quantile_inverts_the_score_test():
    low, high = effects.wilson(0.3, 87.5, 2.4)
    for bound in (low, high):
        assert abs(0.3 - bound) / math.sqrt(bound * (1 - bound) / 87.5) == pytest.approx(2.4)


@pytest.mark.parametrize(
    ("method", "twin", "prompts", "low", "high"),
    [
        (0.9, 0.3, 10, 0.1705, 0.8090),
        (6 / 7, 2 / 7, 7, 0.0582, 0.8062),
        (1.0, 0.0, 10, 0.6075, 1.0),
        (0.0, 0.0, 10, -0.2775, 0.2775),
    ],
)
def test_newcombe_method_10_reproduces_the_published_table(method, twin, prompts, low, high):
    """Newcombe 1998 (Statistics in Medicine 17:873-890), table II, contrasts of equal group sizes."""
    assert effects.newcombe(method, twin, prompts) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("k", "k_twin"), [(56, 48), (0, 12), (80, 79), (33, 33)])
def test_newcombe_against_statsmodels(k, k_twin):
    expected = confint_proportions_2indep(k, 80, k_twin, 80, method="newcomb", compare="diff")
    assert effects.newcombe(k / 80, k_twin / 80, 80) == pytest.approx(expected)


def test_one_seed_pair_has_the_mcnemar_variance():
    ours, twin = "1" * 5 + "0" * 45, "0" * 2 + "1" * 3 + "1" * 20 + "0" * 25
    gained, lost, prompts = 2, 20, 50
    found = effects.difference({0: ours}, {0: twin})
    assert found.value == pytest.approx((gained - lost) / prompts)
    assert found.se**2 == pytest.approx((gained + lost - (gained - lost) ** 2 / prompts) / prompts**2)


def test_pair_of_many_seeds_is_a_t_interval_on_the_table_of_gaps():
    draw = np.random.default_rng(2)
    ours, twin = draw.random((30, 4)) < 0.3, draw.random((30, 4)) < 0.7
    found = effects.difference(strings(ours), strings(twin))
    gaps = ours.astype(float) - twin
    variance, df = effects.two_way(gaps)
    reach = t.ppf(0.975, df) * math.sqrt(variance)
    assert (found.low, found.high) == pytest.approx((gaps.mean() - reach, gaps.mean() + reach))


def test_a_seed_in_one_arm_only_drops_out_and_is_counted_if_it_is_the_methods():
    ours = {0: "1100", 1: "1010", 2: "0001"}
    twin = {1: "1111", 2: "0111", 7: "1111"}
    found = effects.difference(ours, twin)
    assert (found.seeds, found.dropped) == (2, 1)
    assert found.value == pytest.approx((2 + 1 - 4 - 3) / 8)


def test_a_pair_with_no_variance_has_an_interval_all_the_same():
    found = effects.difference(dict.fromkeys(range(3), "0" * 100), dict.fromkeys(range(3), "1" * 100))
    assert found.value == -1
    assert found.low == -1 < found.high < -0.9


def test_arms_that_cannot_be_paired_are_refused():
    with pytest.raises(ValueError, match="no shared seed"):
        effects.difference({0: "01"}, {1: "01"})
    with pytest.raises(ValueError, match="3 and 2 prompts"):
        effects.difference({0: "011"}, {0: "01"})
    with pytest.raises(ValueError, match="lengths"):
        effects.arm({0: "011", 1: "01"})


def test_counts_are_never_narrower_than_one_seed_of_prompts():
    found = effects.counts([30, 40, 35], 100)
    single = effects.counts([35], 100)
    assert found.value == pytest.approx(0.35)
    assert found.high - found.low > single.high - single.low
    assert effects.counts([0, 0, 0], 300).high == pytest.approx(proportion_confint(0, 300, method="wilson")[1])


def test_mean_over_seeds_has_the_t_interval():
    found = effects.over_seeds([4.0, 6.0, 8.0])
    reach = 4.302653 * 2 / math.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((6, 6 - reach, 6 + reach))
    assert math.isnan(effects.over_seeds([4.0]).low)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 2**12 - 1).map("{:012b}".format), min_size=1, max_size=4))
def test_every_interval_holds_its_value_and_stays_in_range(columns):
    found = effects.arm(dict(enumerate(columns)))
    assert 0 <= found.low <= found.value <= found.high <= 1
    gap = effects.difference(dict(enumerate(columns)), dict.fromkeys(range(len(columns)), "01" * 6))
    assert -1 <= gap.low <= gap.value <= gap.high <= 1


def test_coverage_with_prompt_and_seed_variation():
    """Nominal 95 %: the crossed interval keeps it, the naive binomial one does not."""
    draw = np.random.default_rng(20261123)
    prompts, seeds, repeats = 150, 5, 400
    truth = _mean_of_logits()
    held = naive = 0
    for _ in range(repeats):
        lean = draw.normal(0, 1.5, (prompts, 1)) + draw.normal(0, 0.5, (1, seeds))
        table = draw.random((prompts, seeds)) < 1 / (1 + np.exp(-lean - 0.4))
        found = effects.arm(strings(table))
        held += found.low <= truth <= found.high
        low, high = proportion_confint(int(table.sum()), table.size, method="wilson")
        naive += low <= truth <= high
    assert held / repeats >= 0.93
    assert naive / repeats < 0.75


def _mean_of_logits():
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    lean = 0.4 + math.sqrt(1.5**2 + 0.5**2) * nodes
    return float((weights / (1 + np.exp(-lean))).sum() / weights.sum())
