"""LDIFS: the feature distance of the authors' code, padding left out, and the variants it must not be confused with."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from reproduce.api import sft_step
from reproduce.papers.p2308_13320_ldifs import Ldifs, Norm, depths, distance
from reproduce.protocol import Lora, Schedule
from reproduce.state import Batch, State
from reproduce.train import train

THEN = torch.tensor([[[3.0, 0.0], [4.0, 1.0]]])  # one example, rows are tokens
NOW = torch.tensor([[[4.0, 0.0], [3.0, 1.0]]])
BOTH = torch.ones(1, 2, dtype=torch.bool)
FEW = Schedule(steps=12, batch=4, lr=3e-3, warmup=0)


@pytest.mark.parametrize(
    ("norm", "expected", "tolerance"), [("token", 0.02, 1e-7), ("channel", 0.001473, 1e-6), ("none", 0.5, 0)]
)
def test_numbers_of_the_dossier(norm: Norm, expected: float, tolerance: float) -> None:
    assert float(distance(NOW, THEN, BOTH, norm)) == pytest.approx(expected, abs=tolerance)


def test_port_of_the_dossier_is_gated(s: State) -> None:
    batch = s.batch(s.pools.benign[:1])
    s.memo["active"] = []
    port = Ldifs(alpha=0.05, total=True, norm="none", gate=0.1)
    assert float(port.penalty(s, [NOW], [THEN], batch)) == pytest.approx(0.05)
    assert float(replace(port, alpha=0.2).penalty(s, [NOW], [THEN], batch)) == 0.0
    assert float(replace(port, alpha=0.2, gate=None).penalty(s, [NOW], [THEN], batch)) == pytest.approx(0.2)
    assert s.memo["active"] == [1.0, 0.0, 1.0]


def test_the_port_counts_padding_and_gates_each_layer_by_itself(s: State) -> None:
    batch = s.batch([replace(s.pools.benign[0], answer="."), s.pools.benign[1]])
    assert not batch.real.all()
    s.memo["active"] = []
    shape = (*batch.real.shape, 2)
    then, near, far = torch.zeros(shape), torch.full(shape, 0.01), torch.ones(shape)
    port = Ldifs(alpha=0.05, total=True, norm="none", gate=0.1)
    kept = 0.05 / 2 * near.square().sum()
    assert float(port.penalty(s, [near, far], [then, then], batch)) == pytest.approx(float(kept))
    assert float(port.penalty(s, [near, near], [then, then], batch)) == pytest.approx(2 * float(kept))
    padding = near * ~batch.real[:, :, None]
    assert float(port.penalty(s, [padding], [then], batch)) > 0
    assert s.memo["active"] == [0.5, 1.0, 1.0]


def wrong_root(now: Tensor, then: Tensor) -> float:
    return float((now - then).square().sum().sqrt())


def wrong_half(now: Tensor, then: Tensor) -> float:
    return float((now - then).square().mean() / 2)


def wrong_joint(now: Tensor, then: Tensor) -> float:
    """One norm for both models instead of one each."""
    norm = then.norm(dim=1, keepdim=True)
    return float(((now - then) / norm).square().mean())


@pytest.mark.parametrize("wrong", [wrong_root, wrong_half])
def test_wrong_plain_distances_differ(wrong: Callable[[Tensor, Tensor], float]) -> None:
    assert float(distance(NOW, THEN, BOTH, "none")) != pytest.approx(wrong(NOW, THEN), rel=0.1)


def test_wrong_normalised_distance_differs() -> None:
    found = float(distance(2 * NOW, THEN, BOTH, "token"))
    assert found == pytest.approx(0.02)  # each model has its own norm
    assert found != pytest.approx(wrong_joint(2 * NOW, THEN), rel=0.1)


def test_normalised_distance_is_bounded_by_four_over_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    for tokens in (1, 3, 8):
        a, b = (torch.randn(2, tokens, 5, generator=generator) for _ in range(2))
        real = torch.ones(2, tokens, dtype=torch.bool)
        assert float(distance(a, b, real, "token")) <= 4 / tokens
        assert float(distance(a, -a, real, "token")) == pytest.approx(4 / tokens, rel=1e-5)


@pytest.mark.parametrize("norm", ["token", "channel", "none"])
def test_padding_enters_neither_norms_nor_means(norm: Norm) -> None:
    generator = torch.Generator().manual_seed(1)
    now, then = (torch.randn(2, 5, 3, generator=generator) for _ in range(2))
    real = torch.tensor([[True] * 5, [True, True, False, False, False]])
    alone = [distance(now[:1], then[:1], real[:1], norm), distance(now[1:, :2], then[1:, :2], real[1:, :2], norm)]
    assert float(distance(now, then, real, norm)) == pytest.approx(float(torch.stack(alone).mean()), rel=1e-5)
    now[1, 2:] = 1e3
    assert float(distance(now, then, real, norm)) == pytest.approx(float(torch.stack(alone).mean()), rel=1e-5)
    careless = distance(now, then, torch.ones_like(real), norm)
    assert float(careless) != pytest.approx(float(torch.stack(alone).mean()), rel=1e-3)


@pytest.mark.parametrize("norm", ["token", "channel", "none"])
def test_no_distance_and_no_gradient_at_the_start_even_with_padding(norm: Norm) -> None:
    then = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(2))
    real = torch.tensor([[True] * 4, [True, False, False, False]])
    now = then.clone().requires_grad_()
    found = distance(now, then, real, norm)
    (grad,) = torch.autograd.grad(found, now)
    assert float(found.detach()) == 0.0
    assert torch.equal(grad, torch.zeros_like(grad))


def test_depths_are_evenly_spaced() -> None:
    assert depths(12) == [3, 6, 9, 12]
    assert depths(4) == [1, 2, 3, 4]
    assert depths(30) == [8, 15, 23, 30]
    assert depths(2) == [1, 2]


def test_features_are_the_embedding_and_the_residual_stream(s: State) -> None:
    batch = s.draw("user", 3)
    with torch.no_grad():
        logits, found = Ldifs().features(s, batch, s.logits)
        theirs = s.model(input_ids=batch.ids, output_hidden_states=True)
    assert torch.equal(logits, theirs.logits)
    assert len(found) == len(theirs.hidden_states) == 3
    for ours, hidden in zip(found[:-1], theirs.hidden_states[:-1], strict=True):
        assert torch.equal(ours, hidden)
    torch.testing.assert_close(s.model.model.norm(found[-1]), theirs.hidden_states[-1])  # the library's last is normed


def test_the_port_reads_the_outputs_of_every_mlp(s: State) -> None:
    batch, outputs = s.draw("user", 3), list[Tensor]()
    hooks = [layer.mlp.register_forward_hook(lambda *seen: outputs.append(seen[2])) for layer in s.model.model.layers]
    with torch.no_grad():
        _, found = Ldifs(tap="mlp").features(s, batch, s.logits)
    for hook in hooks:
        hook.remove()
    assert len(found) == len(outputs) == 2
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, outputs, strict=True))


def test_each_fine_tuning_job_is_held_to_the_model_it_begins_with(s: State) -> None:
    method = Ldifs()
    for _ in range(2):
        method.start(s)
        train(s, "user", FEW, method.finetune_step)
        begun = s.memo["reference"]
        assert all(not torch.equal(a, b) for a, b in zip(begun.model.parameters(), s.params(), strict=True))
        ended = s.snapshot()
    method.start(s)
    assert all(torch.equal(a, b) for a, b in zip(s.memo["reference"].model.parameters(), ended, strict=True))


def gradients(s: State, method: Ldifs, batch: Batch, shift: float = 0.0) -> list[Tensor]:
    method.start(s)
    with torch.no_grad():
        for i, p in enumerate(s.params()):
            p.add_(shift * (i % 3 - 1))
    s.clear_grads()
    method.finetune_step(s, batch)
    return s.grads()


ARMS = list(Ldifs().arms().values())


@pytest.mark.parametrize("method", ARMS, ids=list(Ldifs().arms()))
def test_the_first_step_is_that_of_plain_fine_tuning(method: Ldifs, fresh: Callable[[], State]) -> None:
    plain, ours = fresh(), fresh()
    sft_step(plain, plain.draw("user", 4))
    for a, b in zip(gradients(ours, method, ours.draw("user", 4)), plain.grads(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_gradient_is_that_of_task_plus_weighted_distance(fresh: Callable[[], State]) -> None:
    """Against finite differences of an independently written loss."""
    s = fresh()
    batch = s.batch([s.pools.benign[0], s.pools.tasks["sentiment"].train[0]])
    method = Ldifs(alpha=50.0, norm="none")
    start = s.snapshot()
    with torch.no_grad():
        before = s.model(input_ids=batch.ids, output_hidden_states=True).hidden_states

    def loss() -> float:
        last: list[Tensor] = []
        hook = s.model.model.norm.register_forward_pre_hook(lambda _m, args: last.append(args[0]))
        with torch.no_grad():
            hidden = s.model(input_ids=batch.ids, output_hidden_states=True).hidden_states
            s.restore(start_weights)
        hook.remove()
        total = 0.0
        for now, then in zip([*hidden[:-1], last[0]], [*before[:-1], before_last], strict=True):
            each = [((now - then)[i][batch.real[i]]).square().mean() for i in range(2)]
            total += float(sum(each)) / 2
        return total / 3

    keep: list[Tensor] = []
    hook = s.model.model.norm.register_forward_pre_hook(lambda _m, args: keep.append(args[0]))
    with torch.no_grad():
        s.model(input_ids=batch.ids)
    hook.remove()
    before_last = keep[0]
    grads = gradients(s, method, batch, shift=0.01)
    start_weights = s.snapshot()
    plain = sft_step_grads(s, batch)
    penalty = [(g - p) / method.alpha for g, p in zip(grads, plain, strict=True)]
    direction = [torch.randn(p.shape, generator=s.rng("direction", i)) for i, p in enumerate(start)]
    slope = sum(float((g * d).sum()) for g, d in zip(penalty, direction, strict=True))
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(s.params(), direction, strict=True):
                p.add_(sign * 1e-3 * d)
        values.append(loss())
    assert slope == pytest.approx((values[0] - values[1]) / 2e-3, rel=0.02)


def sft_step_grads(s: State, batch: Batch) -> list[Tensor]:
    s.clear_grads()
    sft_step(s, batch)
    return s.grads()


def trained(s: State, method: Ldifs, schedule: Schedule = FEW) -> dict[str, float]:
    method.start(s)
    train(s, "user", schedule, method.finetune_step, method.after_step)
    found: dict[str, float] = s.memo["mechanisms"]
    return found


def test_features_stay_the_nearer_the_larger_the_weight(fresh: Callable[[], State]) -> None:
    found = [trained(fresh(), Ldifs(alpha=alpha)) for alpha in (0.0, 10.0, 1000.0)]
    for name in ("alignment", "harmful", "benign", "user"):
        values = [f[f"feature_distance_{name}"] for f in found]
        assert values[0] > values[1] > values[2] > 0, name
    assert found[2]["feature_distance_user"] < 0.5 * found[0]["feature_distance_user"]


def test_l2_sp_pulls_weights_to_the_start_and_no_features(s: State) -> None:
    batch = s.draw("user", 4)
    method = Ldifs(held="weights", alpha=2.0)
    start = s.snapshot()
    grads = gradients(s, method, batch, shift=0.1)
    for g, p, now, then in zip(grads, sft_step_grads(s, batch), s.params(), start, strict=True):
        torch.testing.assert_close(g, p + 2.0 * (now.detach() - then), atol=1e-5, rtol=1e-5)


def test_the_gate_switches_the_port_off_as_features_move(fresh: Callable[[], State]) -> None:
    port = Ldifs().arms()["gated-port"]
    open_, shut = (trained(fresh(), replace(port, alpha=alpha)) for alpha in (1e-9, 1e6))
    assert open_["gate_active"] == 1.0
    assert shut["gate_active"] < 0.2  # only where nothing has moved yet
    assert trained(fresh(), Ldifs().arms()["ungated-port"])["gate_active"] == 1.0
    assert "gate_active" not in trained(fresh(), Ldifs())


@pytest.mark.parametrize("lora", [None, Lora(rank=3, alpha=6)], ids=["full", "lora"])
def test_the_reference_stays_and_no_trace_is_left(
    lora: Lora | None, s: State, hooks_of: Callable[[Any], list[str]]
) -> None:
    if lora:
        s.attach_adapter(lora, "tune")
    batch = s.batch(s.pools.benign[:3])
    with torch.no_grad():
        before = s.model(input_ids=batch.ids).logits
    trained(s, Ldifs(alpha=1.0))
    reference = s.memo["reference"]
    with torch.no_grad():
        assert torch.equal(reference.model(input_ids=batch.ids).logits, before)
        assert not torch.equal(s.model(input_ids=batch.ids).logits, before)
    assert not any(p.requires_grad or p.grad is not None for p in reference.model.parameters())
    assert hooks_of(s.model) == hooks_of(reference.model) == []


def test_both_forward_passes_are_paid_for_and_the_measurement_is_not(fresh: Callable[[], State]) -> None:
    plain, ours = fresh(), fresh()
    trained(plain, Ldifs(alpha=0.0))
    trained(ours, Ldifs(alpha=1.0))
    assert (plain.cost.passes, ours.cost.passes) == (2 * FEW.steps, 3 * FEW.steps)
    assert ours.cost.tokens == 2 * plain.cost.tokens


def test_only_the_users_batch_is_seen(s: State, monkeypatch: pytest.MonkeyPatch) -> None:
    method = Ldifs()
    method.start(s)
    s.steps = 3
    batch, seen = s.draw("user", 4), []
    monkeypatch.setattr(State, "logits", lambda _s, b, run=State.logits: (seen.append(b), run(_s, b))[1])
    method.finetune_step(s, batch)
    assert len(seen) == 2
    assert all(b is batch for b in seen)
