"""The worst case over conditions: how often the truth lies where the corrected numbers say."""

import numpy as np
import pytest
from scipy.stats import norm

from catalog.meta import effects, worst

CONDITIONS = [f"c{number}" for number in range(6)]


def drawn(draw, shares, prompts=80, seeds=4):
    """Outcome strings by condition and seed; conditions share how hard each prompt is."""
    hard = draw.normal(size=prompts)
    made = {}
    for name, share in shares.items():
        level = norm.ppf(share)
        made[name] = {
            seed: "".join("01"[int(mark)] for mark in (hard + draw.normal(size=prompts)) / 2**0.5 < level)
            for seed in range(seeds)
        }
    return made


def test_the_largest_of_equals_is_biased_and_the_corrected_value_is_not():
    draw, truth = np.random.default_rng(5), 0.3
    found = [worst.of_arms(drawn(draw, dict.fromkeys(CONDITIONS, truth))) for _ in range(120)]
    naive = np.mean([one.naive.value > truth for one in found])
    own_interval = np.mean([one.naive.low <= truth for one in found])
    assert naive > 0.75, "the winner's curse"
    assert 0.3 < np.mean([one.value > truth for one in found]) < 0.6, "half-median-unbiased"
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert covered >= 0.94
    assert covered > own_interval - 0.02


def test_a_condition_that_stands_out_is_not_corrected():
    shares = {**dict.fromkeys(CONDITIONS, 0.05), "c2": 0.8}
    found = worst.of_arms(drawn(np.random.default_rng(1), shares))
    assert (found.condition, found.plausible) == ("c2", ("c2",))
    assert found.value == found.naive.value
    assert found.low < found.naive.low
    assert found.high == found.naive.high


def test_one_condition_has_its_own_interval():
    strings = drawn(np.random.default_rng(2), {"only": 0.4})
    found, plain = worst.of_arms(strings), effects.arm(strings["only"])
    assert (found.value, found.high) == (plain.value, plain.high)
    assert found.low == pytest.approx(plain.low, abs=0.004)


def test_differences_are_paired_with_their_twins():
    draw = np.random.default_rng(3)
    ours, theirs = drawn(draw, {"a": 0.2, "b": 0.25}), drawn(draw, {"a": 0.7, "b": 0.4})
    found = worst.of_differences({name: (ours[name], theirs[name]) for name in ours})
    known = {name: effects.difference(ours[name], theirs[name]) for name in ours}
    assert found.condition == "b"
    assert found.naive == known["b"]
    assert found.low < known["b"].low
    assert found.high == max(one.high for one in known.values())


def test_seeds_that_conditions_do_not_share_count_as_independent():
    strings = drawn(np.random.default_rng(4), {"a": 0.3, "b": 0.3})
    strings["b"] = {seed + 10: marks for seed, marks in strings["b"].items()}
    assert worst.of_arms(strings).low < worst.of_arms(strings).naive.low


@pytest.mark.parametrize("m", [2, 6])
def test_largest_independent_error_has_the_quantile_of_a_power(m):
    """P(max ≤ q) = Φ(q)^m for independent normal errors."""
    assert worst.largest_errors(np.eye(m), np.inf, [0.5, 0.975]) == pytest.approx(
        [norm.ppf(0.5 ** (1 / m)), norm.ppf(0.975 ** (1 / m))], abs=0.05
    )


def test_fully_dependent_errors_need_no_correction():
    assert worst.largest_errors(np.ones((5, 5)), np.inf, [0.5, 0.975]) == pytest.approx([0, norm.ppf(0.975)], abs=0.05)
