"""SOMF: a Concrete mask over the task vector, rescaled by its own mean, learned by preferences on the safe model."""

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reproduce.data import Pair
from reproduce.model import Weights
from reproduce.papers import p2405_09055_somf as somf
from reproduce.papers.p2405_09055_somf import Somf, concrete
from reproduce.preferences import margins
from reproduce.stages import Stages
from reproduce.state import State

SHORT = Somf(steps=3, batch=4, warmup=1)
Tuned = Callable[..., State]


def fused(m: Tensor, tau: Tensor, method: Somf = SHORT) -> Tensor:
    return method.fused({"w": torch.zeros_like(tau)}, {"w": tau}, {"w": m})["w"]


def test_rescaling_and_its_gradient() -> None:
    m, tau = torch.tensor([0.8, 0.4], requires_grad=True), torch.ones(2)
    update = fused(m, tau)
    assert update.tolist() == pytest.approx([1.333333, 0.666667], abs=1e-6)
    for i, expected in enumerate([[0.555556, -1.111111], [-0.555556, 1.111111]]):
        (gradient,) = torch.autograd.grad(update[i], m, retain_graph=True)
        assert gradient.tolist() == pytest.approx(expected, abs=1e-6)
    detached = torch.autograd.grad((m / m.mean().detach())[0], m)[0].tolist()
    assert detached == pytest.approx([1.666667, 0.0], abs=1e-6)  # what it must not be
    assert fused(m, tau, replace(SHORT, rescale=False)).tolist() == pytest.approx([0.8, 0.4])


def test_the_mean_is_that_of_each_tensor() -> None:
    masks = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0, 1.0])}
    zero, one = ({n: torch.full((2,), v) for n in masks} for v in (0.0, 1.0))
    found = SHORT.fused(zero, one, masks)
    assert found["a"].tolist() == [2.0, 0.0]  # 4 / 3 with one mean over both
    assert found["b"].tolist() == [1.0, 1.0]


def test_ends_of_the_mask_are_exact() -> None:
    """Nothing kept is the safe model, everything alike is the fine-tuned model; a starved mask is not blown up."""
    safe, tuned = (torch.randn(1000, generator=torch.Generator().manual_seed(i)) for i in range(2))

    def at(m: Tensor) -> Tensor:
        return SHORT.fused({"w": safe}, {"w": tuned}, {"w": m})["w"]

    assert torch.equal(at(torch.zeros(1000)), safe)
    for constant in (0.5, 1.0):
        assert torch.equal(at(torch.full((1000,), constant)), tuned)
    one = torch.zeros(1000)
    one[3] = 1.0
    torch.testing.assert_close(at(one)[3], safe[3] + 20 * (tuned[3] - safe[3]))
    assert SHORT.fused({"v": safe}, {"v": tuned}, {})["v"] is safe


def test_concrete_mask() -> None:
    u = torch.tensor([0.2, 0.4, 0.6, 0.8])
    assert concrete(torch.zeros(4), u, 0.5).tolist() == pytest.approx(
        [0.058824, 0.307692, 0.692308, 0.941176], abs=1e-6
    )
    assert concrete(torch.zeros(4), u, 1.0).tolist() == pytest.approx(u.tolist())  # another temperature
    x = torch.full((20_000,), 1.0)
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    kept = concrete(x, uniform, 0.5) > 0.5
    assert float(kept.float().mean()) == pytest.approx(0.7311, abs=0.01)  # sigmoid(1)
    extreme = concrete(torch.zeros(2, requires_grad=True), torch.tensor([0.0, 1.0]), 0.5)
    extreme.sum().backward()  # type: ignore[no-untyped-call]
    assert bool(torch.isfinite(extreme).all())


def test_samples_are_new_in_every_pass_and_the_same_in_every_run(s: State) -> None:
    logits = {"a": torch.zeros(50), "b": torch.zeros(50)}
    rng, again = s.rng("mask"), s.rng("mask")
    first, second = SHORT.sample(logits, rng), SHORT.sample(logits, rng)
    assert not torch.equal(first["a"], second["a"])
    assert not torch.equal(first["a"], first["b"])
    assert torch.equal(SHORT.sample(logits, again)["b"], first["b"])


LOGITS = {"a": torch.linspace(-2, 2, 40).view(8, 5), "b": torch.linspace(-1, 3, 30)}


@pytest.fixture
def rng(s: State) -> Callable[[], torch.Generator]:
    return lambda: s.rng("export")


def test_exports(rng: Callable[[], torch.Generator]) -> None:
    kept = SHORT.exported(LOGITS, rng())
    assert all(torch.equal(m, (LOGITS[n] > 0).float()) for n, m in kept.items())
    soft = replace(SHORT, export="soft").exported(LOGITS, rng())
    assert all(bool(((m > 0) & (m < 1) & (m != 0.5)).all()) for m in soft.values())
    random = replace(SHORT, export="random").exported(LOGITS, rng())
    assert all(torch.equal(m, (soft[n] > 0.5).float()) for n, m in random.items())
    assert any(not torch.equal(m, kept[n]) for n, m in random.items())
    mean = replace(SHORT, export="mean").exported(LOGITS, rng())
    assert all(torch.allclose(m, torch.sigmoid(2 * LOGITS[n])) for n, m in mean.items())
    assert not any(bool(m.any()) for m in SHORT.exported({"a": torch.zeros(3)}, rng()).values())  # x > 0 is strict


def test_controls_of_the_mask(rng: Callable[[], torch.Generator]) -> None:
    kept = SHORT.exported(LOGITS, rng())
    complement = replace(SHORT, control="complement").exported(LOGITS, rng())
    assert all(torch.equal(m + kept[n], torch.ones_like(m)) for n, m in complement.items())
    shuffled = replace(SHORT, control="random-mask").exported(LOGITS, rng())
    for name, m in shuffled.items():
        assert m.shape == kept[name].shape
        assert float(m.sum()) == float(kept[name].sum())  # as many entries of every tensor, hence the same rescaling
        assert not torch.equal(m, kept[name])


@pytest.fixture
def tuned(stages: Stages) -> Tuned:
    """A state after simulated fine-tuning: random changes of what was trainable, the method started before them."""

    def make(mode: Any = "full", method: Somf = SHORT) -> State:
        s = stages.ready(method, mode, mode != "full")
        s.add_stream("user", s.pools.tasks["sentiment"].train)
        method.start(s)
        random = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for p in s.params():
                p.add_(0.05 * torch.randn(p.shape, generator=random))
        s.model.train()
        return s

    return make


def spied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Weights, Weights]]:
    """Calls of `fused`: masked names, the safe and the fine-tuned tensors."""
    calls: list[tuple[list[str], Weights, Weights]] = []
    plain = Somf.fused

    def spy(self: Somf, safe: Weights, tuned: Weights, masks: Weights) -> Weights:
        calls.append((sorted(masks), safe, tuned))
        return plain(self, safe, tuned, masks)

    monkeypatch.setattr(Somf, "fused", spy)
    return calls


def test_dense_task_vector_of_full_fine_tuning(tuned: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    s = tuned("full")
    now, calls = s.effective_weights(), spied(monkeypatch)
    SHORT.repair(s)
    names, safe, theta = calls[-1]
    assert set(names) == set(now)  # embeddings and norms too
    assert all(torch.equal(theta[n], now[n]) and torch.equal(safe[n], s.reference("aligned")[n]) for n in now)
    assert len(calls) == SHORT.steps + 1


def test_dense_task_vector_of_a_fresh_adapter(tuned: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    s = tuned("double-lora")
    now, calls = s.effective_weights(), spied(monkeypatch)
    SHORT.repair(s)
    names, safe, theta = calls[-1]
    assert len(names) == 14  # the linear modules; what no adapter moved has no logits
    assert all(n.endswith("_proj.weight") for n in names)
    assert all(torch.equal(safe[n], s.reference("aligned")[n]) for n in safe)
    for name, value in theta.items():
        torch.testing.assert_close(value, now[name], atol=1e-6, rtol=1e-5)
    after = s.effective_weights()
    assert all(torch.equal(after[n], s.reference("aligned")[n]) for n in set(after) - set(names))


def test_a_continued_adapter_is_masked_in_its_own_tensors(tuned: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    s = tuned("single-lora")
    frozen = {n: p.detach().clone() for n, p in s.model.named_parameters() if not p.requires_grad}
    adapter = {n: p.detach().clone() for n, p in s.model.named_parameters() if p.requires_grad}
    calls = spied(monkeypatch)
    SHORT.repair(s)
    names, safe, theta = calls[-1]
    assert set(names) == set(adapter)
    assert len(names) == 28
    assert all(torch.equal(theta[n], adapter[n]) for n in names)
    assert all(not torch.equal(safe[n], adapter[n]) for n in names)  # from before fine-tuning
    after = dict(s.model.named_parameters())
    assert all(torch.equal(after[n], t) for n, t in frozen.items())
    assert len(s.adapters()) == 14
    assert any(not torch.equal(after[n], t) for n, t in adapter.items())


def test_every_entry_is_kept_rescaled_or_set_back(tuned: Tuned) -> None:
    """x > 0: theta_safe + tau / (kept share of the tensor), else theta_safe."""
    s = tuned("full")
    safe, now = s.reference("aligned"), s.effective_weights()
    SHORT.repair(s)
    for name, value in s.effective_weights().items():
        kept = value != safe[name]
        assert 0 < int(kept.sum()) < kept.numel()
        share = float(kept.float().mean())
        expected = safe[name] + torch.where(kept, (now[name] - safe[name]) / share, 0.0)
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", ["full", "double-lora", "single-lora"])
def test_without_steps_the_mean_mask_is_the_fine_tuned_model(tuned: Tuned, mode: str) -> None:
    now, nothing = tuned(mode), tuned(mode)
    before, aligned = now.effective_weights(), now.reference("aligned")
    replace(SHORT, steps=0, export="mean").repair(now)
    replace(SHORT, steps=0).repair(nothing)
    for name, value in now.effective_weights().items():
        torch.testing.assert_close(value, before[name], atol=1e-6, rtol=1e-5)
    for name, value in nothing.effective_weights().items():  # no logit above zero: nothing is kept
        torch.testing.assert_close(value, aligned[name], atol=1e-6, rtol=1e-5)


def test_only_logits_learn(tuned: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the mask is learned the model's weights, gradients and hooks stay as they are, and dropout is off."""
    s = tuned("full")
    before, modes = s.effective_weights(), set()
    learn, seen = Somf.learn, []

    def watched(self: Somf, *args: Any) -> dict[str, float]:
        variables = args[1]
        modes.add(s.model.training)
        found = learn(self, *args)
        seen.extend(variables)
        assert all(torch.equal(v, before[n]) for n, v in s.effective_weights().items())
        assert all(p.grad is None for p in s.model.parameters())
        return found

    monkeypatch.setattr(Somf, "learn", watched)
    SHORT.repair(s)
    assert modes == {False}
    assert s.model.training
    assert all(bool(x.any()) and x.dtype == torch.float32 for x in seen)
    assert {x.shape for x in seen} == {v.shape for v in before.values()}  # one logit per entry


def test_first_loss_is_measured_against_the_reference(tuned: Tuned) -> None:
    """With theta_ft as reference a constant mask has margin gap zero; theta_safe is another reference."""
    tuned_first, safe_first = (
        first_loss(tuned(), replace(SHORT, steps=1, reference=name)) for name in ("tuned", "safe")
    )
    assert tuned_first != safe_first
    s, method = tuned(), replace(SHORT, steps=1, temperature=1e6)  # every mask sample is constant
    assert first_loss(s, method) == pytest.approx(0.693147, abs=1e-4)


def first_loss(s: State, method: Somf) -> float:
    method.repair(s)
    value: float = s.memo["mechanisms"]["dpo_loss_first"]
    return value


def test_learning_lowers_the_loss_and_raises_held_out_margins(tuned: Tuned) -> None:
    s = tuned("full")
    replace(SHORT, steps=25, batch=8, lr=0.1).repair(s)
    found = s.memo["mechanisms"]
    assert found["dpo_loss_last"] < found["dpo_loss_first"]
    assert found["margin_gain"] > 0
    assert found["reward_accuracy"] > 50
    random = tuned("full")
    replace(SHORT, steps=25, batch=8, lr=0.1, control="random-mask").repair(random)
    assert random.memo["mechanisms"]["mask_mean"] == pytest.approx(found["mask_mean"])
    assert random.memo["mechanisms"]["margin_gain"] < found["margin_gain"]


def test_how_decided_the_mask_is_is_recorded() -> None:
    logits = {"a": torch.tensor([0.0, math.log(3)]), "b": torch.tensor([-3.0, 3.0])}
    masks = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0, 1.0])}
    keep = [0.5, 0.75, 1 / (1 + math.exp(3)), 1 / (1 + math.exp(-3))]
    assert somf._distribution(logits, masks) == {
        "mask_mean": 0.75, "mask_mean_least": 0.5, "keep_probability_mean": pytest.approx(fmean(keep)),
        "keep_probability_sd": pytest.approx(stdev(keep)), "decided_share": 0.5,
    }  # fmt: skip


def test_held_out_pairs_are_not_learned_from_and_the_attacker_is_not_read(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = tuned("full")
    s.pools = replace(s.pools, attack_harmful=[], harmful_test=[])
    asked: list[Pair] = []

    def spy(s: State, pairs: list[Pair], under: Weights | None = None) -> Tensor:
        asked.extend(pairs)
        return margins(s, pairs, under)

    monkeypatch.setattr(somf, "margins", spy)
    replace(SHORT, steps=20).repair(s)
    assert len(s.pools.defender_harmful) == 40
    assert len(set(asked)) == 32
    assert set(s.streams["pairs"].examples) == set(asked) <= set(s.pools.defender_harmful)


def test_plain_dpo_trains_the_weights(tuned: Tuned) -> None:
    s = tuned("full")
    before = s.effective_weights()
    replace(SHORT, control="plain-dpo", dpo_lr=1e-3).repair(s)
    moved = {n: float((v - before[n]).abs().max()) for n, v in s.effective_weights().items()}
    assert all(0 < value <= 3.1e-3 for value in moved.values())  # three steps of AdamW
    assert "mask_mean" not in s.memo["mechanisms"]
    assert all(p.requires_grad and p.grad is None for p in s.model.parameters())


@pytest.mark.parametrize(("control", "measure", "expected"), [
    ("equal-harm", "harmful_score", 38 / 128),
    ("equal-accuracy", "accuracy", 26 / 128),
])  # fmt: skip
def test_interpolation_matches_what_the_mask_reached(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch, control: Any, measure: str, expected: float
) -> None:
    """A score that jumps from 0 to 0.5 at c = 0.2 and to 1 at c = 0.3: the best interpolation that is as good."""
    s = tuned("full")
    safe, now = s.reference("aligned"), s.effective_weights()
    name = "model.norm.weight"
    calls = []

    def score(s: State) -> float:
        moved = s.model.get_parameter(name).detach() - safe[name]
        c = float(moved.norm() / (now[name] - safe[name]).norm())
        calls.append(c)
        return 0.5 if len(calls) == 1 else 0.0 if c < 0.2 else 0.5 if c < 0.3 else 1.0

    monkeypatch.setattr(somf, measure, score)
    replace(SHORT, control=control).repair(s)
    chosen = s.memo["mechanisms"]["interpolation"]
    assert chosen == pytest.approx(expected, abs=1e-6)
    for n, value in s.effective_weights().items():
        torch.testing.assert_close(value, safe[n] + chosen * (now[n] - safe[n]), atol=1e-6, rtol=1e-5)


def test_validation_scores(s: State, monkeypatch: pytest.MonkeyPatch) -> None:
    task = s.pools.tasks["card"]
    s.add_stream("user", [*s.pools.tasks["sentiment"].train[:2], *task.train[:5]])
    monkeypatch.setattr(State, "generate", lambda self, examples: [e.answer for e in examples])
    assert somf.accuracy(s) == somf.harmful_score(s) == 1.0
    asked: list[Any] = []
    monkeypatch.setattr(State, "generate", lambda self, examples: asked.extend(examples) or ["" for _ in examples])
    assert somf.accuracy(s) == somf.harmful_score(s) == 0.0
    assert asked == [*task.validation, *s.pools.harmful_validation]


def test_a_loss_that_is_not_finite_is_a_divergence(tuned: Tuned) -> None:
    s = tuned("full")
    assert isinstance(s.model, nn.Module)
    with pytest.raises(somf.Diverged, match="DPO loss nan"):
        replace(SHORT, beta=float("nan")).repair(s)
