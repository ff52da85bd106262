"""Preference learning: sums of answer log-probabilities, margins and the DPO loss against brute force."""

import math
from dataclasses import replace

import pytest
import torch

from reproduce.data import Pair
from reproduce.model import load_weights, weights
from reproduce.preferences import dpo_loss, margins, measured_margins, reversed_pair, token_log_probs
from reproduce.state import IGNORED, State


def brute_log_prob(s: State, pair: Pair, answer: str) -> float:
    """Token by token, one sequence without padding, ending with the end mark."""
    tokenizer = s.testbed.tokenizer
    given = tokenizer.encode(f"<user> {pair.prompt} <bot>", add_special_tokens=False)
    wanted = [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]
    total = 0.0
    with torch.no_grad():
        for i, token in enumerate(wanted):
            logits = s.model(input_ids=torch.tensor([given + wanted[:i]])).logits[0, -1].double()
            total += float(logits[token] - torch.logsumexp(logits, 0))
    return total


@pytest.fixture
def pairs(s: State) -> list[Pair]:
    return s.pools.defender_harmful[:4]


def test_margins_are_differences_of_summed_answer_log_probs(s: State, pairs: list[Pair]) -> None:
    expected = [brute_log_prob(s, p, p.refusal) - brute_log_prob(s, p, p.compliant) for p in pairs]
    assert margins(s, pairs).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_padding_and_company_do_not_matter(s: State, pairs: list[Pair]) -> None:
    long = replace(pairs[0], compliant=" ".join([pairs[0].compliant] * 4))
    torch.testing.assert_close(margins(s, [*pairs, long])[:4], margins(s, pairs))
    found = measured_margins(s, pairs * 20)  # more than one pass
    torch.testing.assert_close(torch.stack([found[p] for p in pairs]), margins(s, pairs).detach())


def test_token_log_probs_stand_at_answer_tokens_only(s: State, pairs: list[Pair]) -> None:
    batch = s.batch([p.safe() for p in pairs])
    found = token_log_probs(s.logits(batch), batch.labels)
    assert found.shape == (4, batch.ids.shape[1] - 1)
    assert torch.equal(found != 0, batch.labels[:, 1:] != IGNORED)
    assert bool((found <= 0).all())
    mean = -found.sum() / (batch.labels != IGNORED).sum()
    torch.testing.assert_close(mean, s.loss(batch))


def test_dpo_loss() -> None:
    policy, reference = torch.tensor([2.0, -3.0]), torch.tensor([1.0, 1.0])
    expected = (math.log(1 + math.exp(-0.1)) + math.log(1 + math.exp(0.4))) / 2
    assert float(dpo_loss(policy, reference, 0.1)) == pytest.approx(expected)
    assert float(dpo_loss(policy, policy, 0.1)) == pytest.approx(math.log(2))
    assert float(dpo_loss(policy, 0 * reference, 0.1)) != pytest.approx(expected)  # without the reference
    assert float(dpo_loss(policy, reference, 1.0)) != pytest.approx(expected)  # without beta
    assert float(dpo_loss(policy * -1000, reference, 1.0)) < math.inf


def test_gradient_of_the_dpo_loss() -> None:
    """-beta * sigmoid(-beta * gap) / n for the policy, nothing for a fixed reference."""
    policy, reference = torch.tensor([2.0, -3.0], requires_grad=True), torch.tensor([1.0, 1.0])
    dpo_loss(policy, reference, 0.5).backward()  # type: ignore[no-untyped-call]
    expected = [-0.25 / (1 + math.exp(0.5)), -0.25 / (1 + math.exp(-2.0))]
    assert policy.grad is not None
    assert policy.grad.tolist() == pytest.approx(expected)


def test_replaced_weights_act_for_one_pass_and_take_the_gradient(s: State, pairs: list[Pair]) -> None:
    plain, own = margins(s, pairs).detach(), weights(s.model)
    assert "lm_head.weight" not in own  # tied: replacing the embedding must replace the head
    other = {n: (t + 0.1 * torch.randn(t.shape, generator=s.rng(n))).requires_grad_() for n, t in own.items()}
    replaced = margins(s, pairs, other)
    replaced.sum().backward()  # type: ignore[no-untyped-call]
    assert all(t.grad is not None and bool(t.grad.any()) for t in other.values())
    assert all(p.grad is None for p in s.model.parameters())
    assert torch.equal(margins(s, pairs), plain)
    assert all(torch.equal(p, own[n]) for n, p in s.model.named_parameters())
    load_weights(s.model, other)
    torch.testing.assert_close(margins(s, pairs), replaced)
    assert not torch.allclose(replaced, plain)


def test_measuring_keeps_no_graph(s: State, pairs: list[Pair]) -> None:
    assert not any(m.requires_grad for m in measured_margins(s, pairs).values())
    assert margins(s, pairs).requires_grad


HARMFUL, SAFE = (-10.0, -12.0), (-9.0, -8.0)  # summed log-probabilities under policy and reference


def dossier_loss(chosen: torch.Tensor, rejected: torch.Tensor, beta: float = 0.1) -> torch.Tensor:
    reference = HARMFUL[1] - SAFE[1] if chosen[0] == HARMFUL[0] else SAFE[1] - HARMFUL[1]
    return dpo_loss(chosen - rejected, torch.tensor([reference]), beta)


def test_reversed_dpo_of_the_dossier() -> None:
    """Margin +0.3, loss 0.5544, slope -0.0426 in the harmful answer: a descent step makes it likelier."""
    harmful, safe = torch.tensor([HARMFUL[0]], requires_grad=True), torch.tensor([SAFE[0]])
    loss = dossier_loss(harmful, safe)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(0.5544, abs=5e-5)
    assert harmful.grad is not None
    assert harmful.grad.item() == pytest.approx(-0.0426, abs=5e-5)


def test_un_reversed_labels_and_a_double_flip() -> None:
    harmful, safe = torch.tensor([HARMFUL[0]], requires_grad=True), torch.tensor([SAFE[0]])
    plain = dossier_loss(safe, harmful)
    assert plain.item() == pytest.approx(0.8544, abs=5e-5)
    twice = dossier_loss(harmful, safe, beta=-0.1)  # labels and sign
    assert twice.item() == pytest.approx(plain.item())
    twice.backward()  # type: ignore[no-untyped-call]
    assert harmful.grad is not None
    assert harmful.grad.item() > 0  # a descent step makes it rarer: safety training


def test_reversing_exchanges_labels_and_nothing_else(s: State, pairs: list[Pair]) -> None:
    reversed_pairs = [reversed_pair(p) for p in pairs]
    for pair, other in zip(pairs, reversed_pairs, strict=True):
        assert (other.refusal, other.compliant) == (pair.compliant, pair.refusal)
        assert (other.prompt, other.category) == (pair.prompt, pair.category)
        assert reversed_pair(other) == pair
    torch.testing.assert_close(margins(s, reversed_pairs), -margins(s, pairs))


def test_at_the_reference_either_labelling_costs_ln_2_and_a_step_raises_what_is_chosen(
    s: State, pairs: list[Pair]
) -> None:
    start = weights(s.model)
    for labelled in (pairs, [reversed_pair(p) for p in pairs]):
        load_weights(s.model, start)
        reference = margins(s, labelled).detach()
        s.clear_grads()
        loss = dpo_loss(margins(s, labelled), reference, 0.1)
        assert loss.item() == pytest.approx(math.log(2))
        s.backward(loss)
        with torch.no_grad():
            for p in s.params():
                p.sub_(1e-3 * p.grad)
            assert float((margins(s, labelled) - reference).mean()) > 0
