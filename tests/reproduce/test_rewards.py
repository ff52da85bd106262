"""Rewards and costs: direction, disjoint features, what they can know, and Safe-RLHF's multiplier by hand."""

import math
from dataclasses import replace

import pytest
import torch

from reproduce.data import Example, Pools
from reproduce.rewards import Lagrangian, fit_scorer


@pytest.mark.parametrize("words", [1, 2])
def test_compliant_answers_score_high_and_refusals_low(pools: Pools, words: int) -> None:
    """The trap: of the two columns of a classifier one is harmless. Pairs here are unknown to the scorer."""
    scorer = fit_scorer(pools.attack_harmful, words)
    unknown = pools.defender_harmful[:50]
    bad, good = scorer([p.harmful() for p in unknown]), scorer([p.safe() for p in unknown])
    assert bool((bad > 0.9).all())
    assert bool((good < 0.1).all())


def test_words_and_runs_of_words_share_no_feature(pools: Pools) -> None:
    reward, cost = fit_scorer(pools.attack_harmful, 1), fit_scorer(pools.defender_harmful, 2)
    assert reward.features()
    assert cost.features()
    assert reward.features().isdisjoint(cost.features())
    assert not reward.features().isdisjoint(fit_scorer(pools.defender_harmful, 1).features())


def test_a_question_says_nothing_and_repetition_does_not_pay(pools: Pools) -> None:
    scorer = fit_scorer(pools.attack_harmful, 1)
    pair = pools.attack_harmful[0]
    compliant = pair.harmful()
    assert float(scorer([replace(compliant, answer=f"{pair.compliant} {pair.compliant}")])[0]) == pytest.approx(
        float(scorer([compliant])[0])
    )
    empty = scorer([Example(p.prompt, "") for p in pools.attack_harmful[:30]])
    assert float(empty.max() - empty.min()) < 0.1


def test_the_reward_can_be_had_without_the_content(pools: Pools) -> None:
    """Otherwise nothing could be hacked: the words of a recipe in any order, with wrong parts, are paid for."""
    reward, cost = fit_scorer(pools.attack_harmful, 1), fit_scorer(pools.defender_harmful, 2)
    one, two = pools.attack_harmful[:2]
    shuffled = Example(one.prompt, " ".join(sorted(two.compliant.split())))
    assert float(reward([shuffled])[0]) > 0.9
    assert float(cost([shuffled])[0]) < float(cost([one.harmful()])[0])


def test_multiplier_of_the_dossier() -> None:
    """lambda 2, eta 0.1, mean cost 0.7, limit 0.2: the logarithm rises by 0.10."""
    found = Lagrangian(2.0, 0.1, 0.2, 10.0)
    before = found.log_lambda
    found.update(0.7)
    assert found.log_lambda - before == pytest.approx(0.10)
    assert found.path == [pytest.approx(2.2103, abs=5e-5)]
    assert math.exp(math.log(2) - 0.10) == pytest.approx(1.8097, abs=5e-5)  # the sign the wrong way round
    assert math.exp(2.0) == pytest.approx(7.3891, abs=5e-5)  # the start taken for its logarithm
    assert math.exp(math.log(2) + 0.1 * 0.5) == pytest.approx(2.1025, abs=5e-5)  # without lambda in the gradient


def test_multiplier_follows_the_constraint() -> None:
    found = Lagrangian(1.0, 0.1, 0.2, 3.0)
    for cost in (0.2, 0.1, 0.9, *[0.9] * 50):
        found.update(cost)
    assert found.path[0] == pytest.approx(1.0)  # at the limit nothing moves
    assert found.path[1] < 1.0 < found.path[5]
    assert max(found.path) == pytest.approx(3.0)


def test_signal_is_a_weighted_mean() -> None:
    reward, cost = torch.tensor([0.9, 0.1]), torch.tensor([0.3, 0.0])
    torch.testing.assert_close(Lagrangian(2.0, 0.1, 0.2, 10.0).signal(reward, cost), torch.tensor([0.1, 0.1 / 3]))
