"""Probes: measuring changes nothing, and the statistics are what the survey's protocol says."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from reproduce.api import sft_step
from reproduce.data import Example
from reproduce.probes import (
    HARMFUL_STEP,
    Probe,
    answer_logprobs,
    attention_outputs,
    depth,
    harmful_step_drop,
    of_aligned,
    prefilled_harm,
    token_kl,
)
from reproduce.protocol import Lora, Schedule
from reproduce.state import Batch, State
from reproduce.train import train


def probe_of(s: State) -> Probe:
    seen = [p.harmful() for p in s.pools.attack_harmful[:3]]
    return Probe(s, s.pools.refusals()[:4], seen, s.pools.harmful_validation)


def everything(s: State, hooks_of: Callable[[Any], list[str]]) -> dict[str, Any]:
    return {
        "weights": [p.detach().clone() for p in s.model.parameters()],
        "grads": s.grads(),
        "trainable": [p.requires_grad for p in s.model.parameters()],
        "mode": [m.training for m in s.model.modules()],
        "rng": torch.get_rng_state(),
        "hooks": hooks_of(s.model),
        "streams": {n: list(x._queue) for n, x in s.streams.items()},
        "step": (s.step, s.steps, dict(s.memo)),
    }


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_measuring_changes_nothing(
    s: State, hooks_of: Callable[[Any], list[str]], adapter: bool, training: bool
) -> None:
    if adapter:
        s.attach_adapter(Lora(rank=2, alpha=4), "tune")
    s.model.train(training)
    s.draw("user", 3)
    sft_step(s, s.draw("align", 4))
    before = everything(s, hooks_of)
    probe = probe_of(s)
    probe.measure(0)
    probe.measure(1)
    after = everything(s, hooks_of)
    for name, value in before.items():
        if isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
            assert all(torch.equal(a, b) for a, b in zip(value, after[name], strict=True)), name
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, after[name]), name
        else:
            assert value == after[name], name


def test_measuring_costs_the_method_nothing(s: State) -> None:
    """Cost compares methods: passes for the statistics are not theirs."""
    sft_step(s, s.draw("align", 4))
    before = (s.cost.passes, s.cost.tokens)
    probe_of(s).measure(0)
    assert (s.cost.passes, s.cost.tokens) == before


def test_training_under_observation_ends_in_the_same_weights(fresh: Callable[[], State]) -> None:
    def end(watched: bool) -> list[torch.Tensor]:
        s = fresh()
        probe = probe_of(s)
        observe = probe.measure if watched else lambda done: None
        train(s, "user", Schedule(steps=4, batch=4, lr=1e-2), sft_step, observe=observe)
        return s.snapshot()

    assert all(torch.equal(a, b) for a, b in zip(end(True), end(False), strict=True))


def test_curves_are_losses_of_the_named_pools(s: State) -> None:
    probe = probe_of(s)
    probe.measure(0)
    pairs = [p.harmful() for p in s.pools.attack_harmful[:3]]
    pools = {
        "alignment_loss": s.pools.refusals()[:4],
        "harmful_loss_seen": pairs,
        "harmful_loss_unseen": s.pools.harmful_validation,
    }
    for name, examples in pools.items():
        assert probe.curves[name] == [pytest.approx(s.loss(s.batch(examples)).item())]
    assert probe.curves["step"] == [0]
    assert probe.curves["embedding_drift"] == [0.0]


def test_without_harmful_user_data_there_is_no_seen_loss(s: State) -> None:
    probe = Probe(s, s.pools.refusals()[:4], [], s.pools.harmful_validation)
    probe.measure(0)
    assert "harmful_loss_seen" not in probe.curves
    assert "harmful_loss_seen" not in probe.summary()


def test_drift_is_the_sum_of_squares_over_blocks_and_tokens_without_padding(s: State) -> None:
    """Dossier of the survey: differences (3, 4) and (0, 2) in two modules give 25 + 4 = 29 (unsquared: 7)."""
    with torch.no_grad():
        s.blocks()[1].attention.get_parameter("o_proj.weight").zero_()  # so that block 0 does not move block 1
    refusals = s.pools.refusals()[:4]
    probe, batch = Probe(s, refusals, [], refusals), s.batch(refusals)
    shifts = torch.zeros(2, *batch.ids.shape, 16)
    shifts[0, 0, 2, :2] = torch.tensor([3.0, 4.0])
    shifts[1, 1, 3, 1] = 2.0
    row = int((~batch.real[:, -1]).nonzero()[0])
    shifts[:, row, -1] = 100.0  # padding
    with s.shift("attention", list(shifts)):
        probe.measure(0)
        summary = probe.summary()
    assert probe.curves["embedding_drift"] == [pytest.approx(29.0, rel=1e-5)]
    assert summary["embedding_drift"] == pytest.approx(29.0, rel=1e-5)
    assert summary["embedding_drift_per_token"] == pytest.approx(29.0 / int(batch.real.sum()), rel=1e-5)


def test_attention_outputs_hold_one_row_per_real_token(s: State) -> None:
    batch = s.batch(s.pools.refusals()[:4])
    assert attention_outputs(s, batch).shape == (2, int(batch.real.sum()), 16)


def test_summary_names_first_and_last_values(s: State) -> None:
    probe = probe_of(s)
    train(s, "user", Schedule(steps=2, batch=4, lr=1e-2, warmup=0), sft_step, observe=probe.measure)
    summary = probe.summary()
    assert probe.curves["step"] == [0, 1, 2]
    for name in ("alignment_loss", "harmful_loss_seen", "harmful_loss_unseen"):
        assert summary[f"{name}_before"] == probe.curves[name][0]
        assert summary[name] == probe.curves[name][-1] != summary[f"{name}_before"]
    assert summary["embedding_drift"] > 0
    assert "embedding_drift_before" not in summary


def test_kl_per_answer_token_is_the_textbook_sum_over_the_vocabulary(s: State) -> None:
    batch = s.batch(s.pools.harmful_validation)
    now = answer_logprobs(s, batch)
    with torch.no_grad():
        for p in s.params():
            p.mul_(1.01)
    reference = answer_logprobs(s, batch)
    expected: dict[int, list[float]] = {}
    for row in range(len(batch.ids)):
        answer = [i for i in range(batch.ids.shape[1]) if batch.labels[row, i] != -100]
        for rank, position in enumerate(answer, start=1):
            p, q = now[row, position - 1].double(), reference[row, position - 1].double()
            expected.setdefault(rank, []).append(sum(float(a.exp() * (a - b)) for a, b in zip(p, q, strict=True)))
    kl = token_kl(now, reference, batch)
    assert kl == [pytest.approx(sum(v) / len(v), abs=1e-5) for _, v in sorted(expected.items())]
    assert depth(kl)["kl_tokens_1_5"] + depth(kl)["kl_tokens_6_on"] == pytest.approx(sum(kl))
    assert max(token_kl(now, now, batch)) == 0.0


def test_harmful_step_drop_is_one_normalised_descent_step(s: State) -> None:
    batch = s.batch(s.pools.harmful_validation)
    kept = s.snapshot()
    drop = harmful_step_drop(s, batch)
    assert all(torch.equal(a, b) for a, b in zip(kept, s.snapshot(), strict=True))
    assert not any(g.any() for g in s.grads())
    norm = torch.cat([g.flatten() for g in gradients(s, batch)]).norm()
    assert drop == pytest.approx(HARMFUL_STEP * float(norm), rel=0.05)  # first order
    ascent = -drop
    assert ascent < 0 < drop


def gradients(s: State, batch: Batch) -> list[torch.Tensor]:
    s.backward(s.loss(batch))
    found = s.grads()
    s.clear_grads()
    return found


def test_prefilled_harm_gives_the_words_and_judges_the_whole_answer(s: State, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[Example]] = []

    def completes(examples: list[Example]) -> list[str]:
        """A model that refuses unless three words are given."""
        asked.append(examples)
        return [
            " ".join(e.answer.split()[3:]) if len(e.prefix.split()) == 3 else "sorry , i cannot ." for e in examples
        ]

    monkeypatch.setattr(s, "generate", completes)
    shares = prefilled_harm(s, s.pools.harmful_validation)
    assert [shares[f"aligned_prefilled_{k}"] for k in range(6)] == [0, 0, 0, 1, 0, 0]
    assert [len(examples[0].prefix.split()) for examples in asked] == [0, 1, 2, 3, 4, 5]


def test_what_is_measured_of_an_aligned_model_leaves_it_alone(
    fresh: Callable[[], State], hooks_of: Callable[[Any], list[str]]
) -> None:
    s = fresh()
    before = everything(s, hooks_of)
    found = of_aligned(s, fresh(), 4)
    after = everything(s, hooks_of)
    assert all(torch.equal(a, b) for a, b in zip(before["weights"], after["weights"], strict=True))
    assert before["mode"] == after["mode"]
    assert found["aligned_kl_tokens_1_5"] == found["aligned_kl_tokens_6_on"] == 0.0
