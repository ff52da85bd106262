import math

import pytest

from catalog.meta.effects import Estimate
from catalog.pages import paper, words
from catalog.schema import FindingTest, MechanismTest, MetricTest, TrendTest


def estimate(value, low, high, prompts=300, seeds=5):
    return Estimate(value=value, low=low, high=high, se=0.1, df=4, prompts=prompts, seeds=seeds)


def test_a_proportion_is_printed_with_interval_and_counts():
    assert words.line(words.percent(estimate(0.484, 0.412, 0.5461))) == "48 [41, 55] (300 × 5)"


def test_a_difference_is_signed_and_has_no_minus_zero():
    assert words.line(words.points(estimate(-0.1523, -0.2, -0.0004))) == "−15.2 [−20.0, 0.0] (300 × 5)"
    assert words.points(estimate(0.02, 0.01, 0.03), " points")[:2] == ("+2.0 points", "[+1.0, +3.0]")


@pytest.mark.parametrize(
    ("value", "low", "high", "printed"),
    [
        (0.334, 0.33, 0.339, "0.334 [0.330, 0.339] (5 seeds)"),
        (9834.2, 9612.0, 9990.0, "9 830 [9 610, 9 990] (5 seeds)"),
        (-0.9, -1.0, -0.8, "−0.900 [−1.000, −0.800] (5 seeds)"),
        (0.0, 0.0, 0.0, "0.00 [0.00, 0.00] (5 seeds)"),
    ],
)
def test_other_quantities_keep_three_digits(value, low, high, printed):
    assert words.line(words.number(estimate(value, low, high, prompts=0))) == printed


def test_one_seed_has_no_interval_and_says_so():
    alone = estimate(0.5, math.nan, math.nan, prompts=0, seeds=1)
    assert words.line(words.number(alone)) == "0.500 [no interval] (1 seed)"


def test_outcomes_of_tests_in_words():
    parts = ("1", "[0, 2]", "(3 seeds)")
    held, missing = (paper.Tested(claim, "", found) for claim, found in (("C1", [("", parts, "holds")]), ("C2", [])))
    unsure = paper.Tested("C3", "", [("", parts, "open"), ("", parts, "open")])
    assert paper.outcomes([held, missing, unsure]) == "tests of its claims: 1 holds, 2 are open, 1 is not measured"
    assert paper.outcomes([missing]) == paper.outcomes([]) == ""


@pytest.mark.parametrize(
    ("better", "margin", "scale", "said"),
    [
        ("smaller", 5.0, "points", "smaller by at least 5 points"),
        ("larger", -2.0, "points", "smaller by at most 2 points"),
        ("smaller", 0.0, "points", "not larger"),
        ("smaller", 0.2, "ratio", "smaller by at least 20 %"),
    ],
)
def test_the_margin_of_a_claim_in_words(better, margin, scale, said):
    test = MetricTest(metric="harmful_score", contrast="method - sft", better=better, margin=margin, scale=scale)
    assert paper.asks(test) == f"harmful score, method − sft: {said}"


def test_the_bound_of_a_finding_in_words():
    assert paper.asks(FindingTest(finding="rank_of_drift", at_most=-0.7)) == "rank of drift at most −0.7"
    drop = MechanismTest(mechanism="noise_drop", ratio=0.1, at_least=0.5)
    assert paper.asks(drop) == "noise drop, method at 10 % harmful data: at least 0.5"
    on_card = drop.model_copy(update={"task": "card"})
    assert paper.asks(on_card) == "noise drop, method at 10 % harmful data on the task card: at least 0.5"
    trend = TrendTest(metric="harmful_score", over="rho", of="bare - sft@before", at_most=-0.6)
    said = "harmful score, bare − sft before fine-tuning: rank correlation with rho at most −0.6"
    assert paper.asks(trend) == said
    some = TrendTest(metric="harmful_score", over="ratio", among=[0.05, 0.1, 0.2], at_least=0.0)
    assert paper.asks(some) == "harmful score, method: rank correlation with ratio among 0.05, 0.1, 0.2 at least 0"


def test_text_with_markup_shows_as_itself():
    assert words.markdown("a|b <i> *c* & [d]") == r"a\|b &lt;i&gt; \*c\* &amp; \[d\]"
