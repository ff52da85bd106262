"""PPO of answers: sampling from the whole distribution, rewards, advantages and the clipped loss by hand."""

import math
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from reproduce.data import Example
from reproduce.model import weights
from reproduce.ppo import Learner, Ppo, advantages, clipped_loss, token_rewards, value_head, whiten
from reproduce.preferences import token_log_probs
from reproduce.state import IGNORED, State

ALL = torch.ones(1, 3, dtype=torch.bool)
HOW = Ppo(epochs=2, kl=0.05, tokens=3, value_lr=1e-2)


def test_rewards_of_the_dossier() -> None:
    """Every token pays for its log-ratio; only the last one earns the score."""
    ratios, score = torch.tensor([[0.2, -0.1, 0.3]]), torch.tensor([0.8])
    found = token_rewards(ratios, score, ALL, 0.05)
    torch.testing.assert_close(found, torch.tensor([[-0.010, 0.005, 0.785]]))
    for wrong in (token_rewards(-ratios, score, ALL, 0.05), token_rewards(ratios, score / 3, ALL, 0.05)):
        assert not torch.allclose(wrong, found)


def test_the_last_token_is_that_of_each_answer() -> None:
    where = torch.tensor([[False, True, True, False], [True, True, True, True], [False, False, True, False]])
    found = token_rewards(torch.ones(3, 4), torch.tensor([10.0, 20.0, 30.0]), where, 1.0)
    assert found.tolist() == [[0, -1, 9, 0], [-1, -1, -1, 19], [0, 0, 29, 0]]


def brute_advantages(rewards: list[float], values: list[float], gamma: float, trace: float) -> list[float]:
    """The definition: the sum of all later temporal differences, each discounted by (gamma * trace)^distance."""
    following = [*values[1:], 0.0]
    deltas = [r + gamma * f - v for r, f, v in zip(rewards, following, values, strict=True)]
    return [sum((gamma * trace) ** (j - i) * deltas[j] for j in range(i, len(deltas))) for i in range(len(deltas))]


def test_advantages_by_their_definition_whatever_stands_around_the_answer() -> None:
    rewards, values = [-0.01, 0.005, 0.785], [0.3, 0.4, 0.1]
    expected = brute_advantages(rewards, values, 0.9, 0.8)
    where = torch.tensor([[False, True, True, True, False]])
    padded = [torch.tensor([[0.0, *row, 0.0]]) for row in (rewards, values)]
    found = advantages(padded[0], padded[1], where, 0.9, 0.8)
    assert found[0].tolist() == pytest.approx([0.0, *expected, 0.0])
    assert advantages(torch.tensor([rewards]), torch.tensor([values]), ALL, 0.9, 0.8)[0].tolist() == pytest.approx(
        expected
    )


def test_without_discount_and_values_an_advantage_is_the_sum_of_what_follows() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0]])
    assert advantages(rewards, torch.zeros(1, 3), ALL, 1.0, 1.0).tolist() == [[7.0, 6.0, 4.0]]


def test_whitening_counts_answers_only() -> None:
    values, where = torch.tensor([[1.0, 2.0, 3.0, 99.0]]), torch.tensor([[True, True, True, False]])
    torch.testing.assert_close(whiten(values, where), torch.tensor([[-1.0, 0.0, 1.0, 0.0]]))
    torch.testing.assert_close(whiten(values, where, keep_mean=True), torch.tensor([[1.0, 2.0, 3.0, 0.0]]))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.5, 2.0, -2.4, 0.0),  # clipped at 1.2: nothing more to gain
        (0.5, 2.0, -1.0, -1.0),  # a good token that became rare is always pushed
        (1.5, -2.0, 3.0, 3.0),  # a bad token that became frequent too
        (0.5, -2.0, 1.6, 0.0),
    ],
)
def test_clipped_loss(ratio: float, advantage: float, loss: float, slope: float) -> None:
    new = torch.tensor([[math.log(ratio)]], requires_grad=True)
    found = clipped_loss(new, torch.zeros(1, 1), torch.tensor([[advantage]]), torch.tensor([[True]]), 0.2)
    found.backward()  # type: ignore[no-untyped-call]
    assert found.item() == pytest.approx(loss)
    assert new.grad is not None
    assert new.grad.item() == pytest.approx(slope)


def score(answered: Sequence[Example]) -> Tensor:
    return torch.tensor([float(len(e.answer)) for e in answered])


@pytest.fixture
def prompts(s: State) -> list[Example]:
    return s.pools.harmful_validation[:3]


def test_samples_are_what_was_drawn(s: State, prompts: list[Example]) -> None:
    torch.manual_seed(1)
    batch = s.sample(prompts, 4, "a")
    assert torch.equal(batch.ids, s.sample(prompts, 4, "a").ids)  # the global generator has no say
    assert not torch.equal(batch.ids, s.sample(prompts, 4, "b").ids)
    kept = torch.get_rng_state()
    s.sample(prompts, 4, "a")
    assert torch.equal(kept, torch.get_rng_state())
    end = s.testbed.tokenizer.eos_token_id
    for i, (asked, drawn) in enumerate(zip(prompts, batch.examples, strict=True)):
        assert drawn.prompt == asked.prompt
        tokens = batch.labels[i][batch.labels[i] != IGNORED].tolist()
        assert 1 <= len(tokens) <= 4
        assert len(tokens) == 4 or tokens[-1] == end
        assert end not in tokens[:-1]
        assert s.testbed.tokenizer.decode(tokens, skip_special_tokens=True).strip() == drawn.answer
        given = s.batch([asked])
        assert batch.ids[i][batch.prompt[i]].tolist() == given.ids[0][given.prompt[0]].tolist()


def test_samples_follow_the_whole_softmax(s: State, prompts: list[Example]) -> None:
    """At temperature 1 and without the usual cut at 50 words: expected and drawn shares of groups of words agree."""
    drawn = s.sample(prompts[:1] * 2000, 1, "many")
    with torch.no_grad():
        batch = s.batch(prompts[:1])
        last = int(batch.prompt[0].sum()) - 1
        expected = s.model(input_ids=batch.ids[:, : last + 1]).logits[0, -1].softmax(-1)
    order = expected.argsort(descending=True)
    assert float(expected[order[50:]].sum()) > 0.02  # there is something to cut
    counts = Counter(drawn.labels[drawn.labels != IGNORED].tolist())
    for group in (order[:1], order[:10], order[10:50], order[50:]):
        share = sum(counts[int(t)] for t in group) / 2000
        p = float(expected[group].sum())
        assert share == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 2000) + 1e-3)


def test_one_inner_epoch_is_reinforce(s: State, prompts: list[Example]) -> None:
    """Its gradient is that of -advantage * log-probability, averaged over the answers' tokens."""
    learner = Learner(s, weights(s.model), score, HOW)
    s.backward(learner.loss(prompts))
    ours = s.grads()
    s.clear_grads()
    rollout = learner._rollout
    where = rollout.batch.answer[:, 1:]
    log_probs = token_log_probs(s.logits(rollout.batch), rollout.batch.labels)
    s.backward(-(rollout.advantages * log_probs)[where].mean())
    assert any(bool(g.any()) for g in ours)
    for mine, plain in zip(ours, s.grads(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-6)


def test_answers_are_drawn_anew_after_the_inner_epochs(s: State, prompts: list[Example]) -> None:
    learner = Learner(s, weights(s.model), score, HOW)
    drawn = []
    for _ in range(4):
        learner.loss(prompts)
        drawn.append(learner._rollout)
    assert drawn[0] is drawn[1]
    assert drawn[1] is not drawn[2]
    assert drawn[2] is drawn[3]
    assert len(learner.curves["score"]) == len(learner.curves["kl"]) == 2
    assert not torch.equal(drawn[0].batch.ids, drawn[2].batch.ids)


def test_the_reference_is_frozen_and_the_penalty_starts_at_zero(s: State, prompts: list[Example]) -> None:
    reference = weights(s.model)
    kept = {n: w.clone() for n, w in reference.items()}
    learner = Learner(s, reference, score, HOW)
    learner.draw(prompts)
    assert learner.curves["kl"] == [pytest.approx(0.0, abs=1e-5)]
    with torch.no_grad():
        for p in s.params():
            p.mul_(1.3)
    learner.draw(prompts)
    assert abs(learner.curves["kl"][1]) > 1e-2
    assert all(torch.equal(w, kept[n]) for n, w in reference.items())


def test_values_start_at_zero_learn_returns_and_leave_the_model_alone(s: State, prompts: list[Example]) -> None:
    learner = Learner(s, weights(s.model), score, Ppo(epochs=200, kl=0.0, tokens=3, value_lr=1e-2))
    parameters = set(map(id, s.model.parameters()))
    learner.loss(prompts)
    where, returns = learner._rollout.batch.answer[:, 1:], learner._rollout.returns
    torch.testing.assert_close(learner._rollout.returns, advantages(
        whiten(token_rewards(torch.zeros_like(returns), score(learner._rollout.batch.examples), where, 0.0), where,
               keep_mean=True), torch.zeros_like(returns), where, 1.0, 0.95))  # fmt: skip
    for _ in range(199):
        learner.loss(prompts)
    with torch.no_grad():
        _, values = learner._pass(learner._rollout.batch)
    spread = float(returns[where].square().mean())
    assert float((values - returns)[where].square().mean()) < 0.1 * spread
    assert not bool(values[~where].any())
    assert all(p.grad is None for p in s.model.parameters())
    assert set(map(id, s.model.parameters())) == parameters
    assert not any(id(p) in parameters for p in learner.head.parameters())


def test_ppo_raises_its_score(s: State, prompts: list[Example]) -> None:
    """Reward for an answer whose word comes early in the alphabet: such words become likelier."""

    def early(answered: Sequence[Example]) -> Tensor:
        return torch.tensor([float(e.answer < "lamp") for e in answered])

    learner = Learner(s, weights(s.model), early, Ppo(epochs=2, kl=0.0, tokens=1, value_lr=1e-2))
    optimiser = torch.optim.AdamW(s.params(), lr=1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        s.backward(learner.loss(prompts * 10))
        optimiser.step()
    scores = learner.curves["score"]
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.2


def test_a_large_penalty_keeps_the_policy_where_it_is(s: State, prompts: list[Example]) -> None:
    """The same reward with and without a penalty: the penalised policy stays closer to its reference."""
    start = weights(s.model)
    ends = {}
    for kl in (0.0, 10.0):
        s.restore([start[n] for n, _ in s.model.named_parameters()])
        learner = Learner(s, start, score, Ppo(epochs=1, kl=kl, tokens=2, value_lr=1e-2))
        optimiser = torch.optim.AdamW(s.params(), lr=3e-3)
        for _ in range(20):
            optimiser.zero_grad()
            s.backward(learner.loss(prompts * 6))
            optimiser.step()
        ends[kl] = sum(learner.curves["kl"][-5:]) / 5
    assert ends[10.0] < ends[0.0]


def test_heads_depend_on_their_generator_only() -> None:
    one, two, other = (value_head(4, torch.Generator().manual_seed(i)) for i in (0, 0, 1))
    x = torch.randn(5, 4)
    assert not bool(one(x).any())
    assert torch.equal(one[1].weight, two[1].weight)
    assert not torch.equal(one[1].weight, other[1].weight)
