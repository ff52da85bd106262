"""RepNoise: refusals learned, harmful answers unlearned at every layer and turned into noise at every MLP."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from reproduce.api import sft_step
from reproduce.papers.p2405_14577_repnoise import (
    RepNoise,
    differing,
    log_lens,
    mmd,
    noise_distance,
    probe_accuracy,
    third,
)
from reproduce.probes import mean_loss
from reproduce.protocol import Schedule
from reproduce.state import Batch, State
from reproduce.train import train

Make = Callable[[], State]
MASKS = ["answer", "differing"]


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).unsqueeze(1)


def wrong_mmd(
    a: Tensor, b: Tensor, *, width: float | None = None, divisor: float = 4.0, diagonal: bool = True
) -> float:
    """MMD by loops, with the mistakes one could make."""
    both, n = [*a, *b], len(a)
    d2 = [[float((x - y).square().sum()) for y in both] for x in both]
    bandwidth = width or sum(map(sum, d2)) / ((2 * n) ** 2 - 2 * n) / divisor
    k = [[sum(math.exp(-d / (bandwidth * 2**i)) for i in range(5)) for d in row] for row in d2]
    entries = [
        (k[i][j] + k[n + i][n + j]) * (diagonal or i != j) - k[i][n + j] - k[n + i][j]
        for i in range(n)
        for j in range(n)
    ]
    return sum(entries) / n**2


@pytest.mark.parametrize(
    ("a", "b", "value"),
    [
        (column(0, 2), column(1, 3), 1.200789),
        (column(0, 2), column(0, 2), 0.0),
        (column(0, 0), column(1, -1), 3.350680),
    ],
)
def test_mmd_of_the_dossier(a: Tensor, b: Tensor, value: float) -> None:
    assert float(mmd(a, b)) == pytest.approx(value, abs=2e-6)
    assert wrong_mmd(a, b) == pytest.approx(value, abs=2e-6)


@pytest.mark.parametrize("mistake", [{"width": 1.0}, {"divisor": 1.0}, {"divisor": 16.0}, {"diagonal": False}])
def test_mmd_tells_the_wrong_variants_apart(mistake: dict[str, Any]) -> None:
    assert wrong_mmd(column(0, 2), column(1, 3), **mistake) != pytest.approx(1.200789, abs=1e-2)


def test_mmd_of_vectors_scales_itself_and_keeps_its_bounds() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(8, 500, generator=rng), torch.randn(8, 500, generator=rng)
    assert float(mmd(a, b)) == pytest.approx(wrong_mmd(a, b), abs=1e-4)
    assert float(mmd(1000 * a, 1000 * b)) == pytest.approx(float(mmd(a, b)), rel=1e-3)
    assert 0 <= float(mmd(a, b)) < float(mmd(a, b + 3)) <= 10


def test_only_the_bandwidth_is_detached() -> None:
    a, b = column(0, 2), column(1, 3)
    moved = a.clone().requires_grad_()
    (grad,) = torch.autograd.grad(mmd(moved, b), moved)
    eps = 1e-3
    step = torch.tensor([[eps], [0.0]])
    width = 5 / 6  # of the unmoved points
    numeric = (wrong_mmd(a + step, b, width=width) - wrong_mmd(a - step, b, width=width)) / (2 * eps)
    following = (wrong_mmd(a + step, b) - wrong_mmd(a - step, b)) / (2 * eps)
    assert float(grad[0]) == pytest.approx(numeric, rel=1e-3)
    assert float(grad[0]) != pytest.approx(following, rel=1e-2)


def test_mmd_of_identical_points_has_a_finite_gradient() -> None:
    a = column(1.0, 1.0).requires_grad_()
    (grad,) = torch.autograd.grad(mmd(a, column(0.0, 4.0)), a)
    assert bool(torch.isfinite(grad).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_distances_to_noise_of_half_precision_activations_are_taken_in_single_precision(dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    activations = (300 * torch.randn(8, 4, 50, generator=rng)).to(dtype)
    assert torch.isinf(activations.to(torch.float16).flatten(1).square().sum(1)).all()  # squares overflow in halves
    where = torch.ones(8, 4, dtype=torch.bool)
    found = noise_distance(activations, where, torch.Generator().manual_seed(1))
    single = noise_distance(activations.float(), where, torch.Generator().manual_seed(1))
    assert found.dtype == torch.float32
    assert torch.isfinite(found)
    assert float(found) == float(single)


def test_every_arm_estimates_a_distribution_from_eight_pairs_or_more() -> None:
    assert all(arm.pairs >= 8 for arm in RepNoise().arms().values() if arm.pairs)


def test_ascent_of_the_dossier() -> None:
    final = torch.tensor(2.0, requires_grad=True)
    lens = [torch.tensor(v, requires_grad=True) for v in (4.0, 3.0, 2.0)]
    log_s = log_lens(final, lens)
    assert log_s.item() == pytest.approx(1.540445, abs=1e-6)
    for grad in torch.autograd.grad(-log_s, [final, *lens]):
        assert grad.item() == pytest.approx(-0.071429, abs=1e-6)
    without_one, four_terms, final_only = math.log(11 / 3), math.log(11 / 4 + 1), math.log(2)
    assert all(abs(wrong - log_s.item()) > 0.1 for wrong in (without_one, four_terms, final_only))


def hand_batch(ids: list[list[int]], prompt: int, lengths: list[int]) -> Batch:
    t = torch.tensor(ids)
    real = torch.arange(t.shape[1]) < torch.tensor(lengths)[:, None]
    answer = real & (torch.arange(t.shape[1]) >= prompt)
    return Batch([], t, torch.where(answer, t, -100), real)


def test_literal_mask_is_where_tokens_differ_and_nowhere_on_padding() -> None:
    harmful = hand_batch([[5, 6, 7, 8, 9, 1], [5, 6, 9, 1, 0, 0]], 2, [6, 4])
    refusal = hand_batch([[5, 6, 4, 8, 1, 0], [5, 6, 9, 0, 3, 1]], 2, [5, 6])
    assert differing(harmful, refusal).int().tolist() == [[0, 0, 1, 0, 1, 1], [0, 0, 0, 1, 0, 0]]
    assert differing(refusal, harmful).int().tolist() == [[0, 0, 1, 0, 1, 0], [0, 0, 0, 1, 1, 1]]
    shorter = hand_batch([[5, 6, 4, 1]], 2, [4])
    longer = hand_batch([[5, 6, 7, 1, 9, 1]], 2, [6])
    assert differing(longer, shorter).int().tolist() == [[0, 0, 1, 0, 1, 1]]  # the other's missing padding differs
    assert differing(shorter, longer).int().tolist() == [[0, 0, 1, 0]]


@pytest.mark.parametrize("mask", MASKS)
def test_masks_leave_out_prompt_and_padding_and_train_the_first_answer_token(s: State, mask: Any) -> None:
    pairs = s.pools.defender_harmful[:6]
    harmful, refusal = s.batch([p.harmful() for p in pairs]), s.batch([p.safe() for p in pairs])
    for batch, other in ((harmful, refusal), (refusal, harmful)):
        where = RepNoise(mask=mask).positions(batch, other)
        assert not bool((where & ~batch.answer).any())
        first = batch.answer.int().argmax(1)
        assert bool(where[torch.arange(6), first].all())
        if mask == "answer":
            assert torch.equal(where, batch.answer)


def test_values_outside_the_mask_do_not_matter() -> None:
    rng = torch.Generator().manual_seed(0)
    a, where = torch.randn(4, 5, 3, generator=rng), torch.zeros(4, 5, dtype=torch.bool)
    where[:, 1:3] = True
    other = torch.where(where[..., None], a, torch.tensor(1e4))

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(7)

    assert torch.equal(noise_distance(a, where, seeded()), noise_distance(other, where, seeded()))
    noise = torch.randn(a.shape, generator=seeded())
    assert float(noise_distance(noise, where, seeded())) == pytest.approx(0.0, abs=1e-6)
    assert float(noise_distance(a, where, rng)) != float(noise_distance(a, where, rng))  # fresh noise each time


def expected_loss(s: State, method: RepNoise, pairs: list[Any]) -> float:
    """Algorithm 1 on these pairs, with the model library's own hidden states, token by token."""
    harmful, refusal = s.batch([p.harmful() for p in pairs]), s.batch([p.safe() for p in pairs])

    def counted(batch: Batch, other: Batch) -> list[tuple[int, int]]:
        found = []
        for i, row in enumerate(batch.ids.tolist()):
            for t, token in enumerate(row):
                partner = other.ids[i].tolist()
                same = t < len(partner) and partner[t] == token and bool(other.real[i, t])
                if batch.answer[i, t] if method.mask == "answer" else batch.real[i, t] and not same:
                    found.append((i, t))
        return found

    where = counted(harmful, refusal)
    rows, at = zip(*where, strict=True)
    targets = torch.stack([harmful.ids[i, t] for i, t in where])
    kept: list[Tensor] = []
    hooks = [layer.mlp.register_forward_hook(lambda _m, _i, out: kept.append(out)) for layer in s.model.model.layers]
    out = s.model(input_ids=harmful.ids, output_hidden_states=True)
    for hook in hooks:
        hook.remove()

    def ce(logits: Tensor) -> float:
        chosen = log_softmax(torch.stack([logits[i, t - 1] for i, t in where]), -1)
        return -float(chosen[range(len(where)), targets].mean())

    norm, head = s.model.model.norm, s.model.lm_head
    states = [head(norm(h)) for h in out.hidden_states[:-1]] + [head(out.hidden_states[-1])]  # the last is normed
    assert len(states) == 3
    log_s = math.log((ce(out.logits) + sum(map(ce, states))) / len(states) + 1)
    mask = torch.zeros(harmful.ids.shape)
    mask[list(rows), list(at)] = 1.0
    rng = s.rng("repnoise", s.step)
    distances = []
    for a in kept:
        noise = torch.randn(a.shape, generator=rng) * mask[..., None]
        distances.append(wrong_mmd((a * mask[..., None]).flatten(1), noise.flatten(1)))
    safe = s.model(input_ids=refusal.ids).logits
    picked = counted(refusal, harmful)
    stability = sum(float(cross_entropy(safe[i, t - 1], refusal.ids[i, t])) for i, t in picked) / len(picked)
    return stability + method.beta * sum(distances) / len(distances) - method.alpha * log_s


@pytest.mark.parametrize("mask", MASKS)
def test_loss_is_algorithm_1(fresh: Make, mask: Any) -> None:
    method = RepNoise(alpha=0.7, beta=0.3, mask=mask, pairs=8)
    s, twin = fresh(), fresh()
    method.start(s)
    method.start(twin)
    with torch.no_grad():
        found = float(method.immunisation(s))
        assert found == pytest.approx(expected_loss(s, method, twin.streams["pairs"].take(8)), abs=1e-4)


def test_alpha_weighs_the_ascent_and_beta_the_noise(fresh: Make) -> None:
    """The paper's equations 4 and 5 swap the letters; its Algorithm 1 and code do not."""

    def loss(**fields: Any) -> float:
        s = fresh()
        method = RepNoise(pairs=8, **fields)
        method.start(s)
        return float(method.immunisation(s).detach())

    stability = loss(alpha=0.0, beta=0.0)
    log_s, noise = stability - loss(alpha=1.0, beta=0.0), loss(alpha=0.0, beta=1.0) - stability
    assert log_s > 0
    assert 0 < noise < 10
    assert loss(alpha=2.0, beta=4.0) == pytest.approx(stability - 2 * log_s + 4 * noise, abs=1e-4)


def test_noise_is_fresh_in_each_step(fresh: Make) -> None:
    method = RepNoise(alpha=0.0, beta=1.0, pairs=8)

    def loss(step: int) -> float:
        s = fresh()
        s.step = step
        method.start(s)
        return float(method.immunisation(s).detach())  # a fresh stream: the same pairs

    assert loss(0) == loss(0)
    assert abs(loss(0) - loss(1)) > 1e-4


def test_pairs_share_a_prompt_unless_unpaired(fresh: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    batch = State.batch

    def watch(self: State, examples: Any) -> Batch:
        seen.append([e.prompt for e in examples])
        return batch(self, examples)

    monkeypatch.setattr(State, "batch", watch)
    for paired in (True, False):
        s = fresh()
        method = RepNoise(pairs=8, paired=paired, mask="differing")
        method.start(s)
        seen.clear()
        method.immunisation(s)
        harmful, refusal = seen
        assert (harmful == refusal) == paired


def test_held_out_pairs_are_never_trained_on(s: State) -> None:
    RepNoise().start(s)
    held_out = set(s.pools.defender_harmful[::8])
    for name in ("pairs", "refusals"):
        assert held_out.isdisjoint(s.streams[name].take(200))
    assert len(held_out) + len(s.streams["pairs"].examples) == len(s.pools.defender_harmful)


def test_without_pairs_it_is_plain_alignment(fresh: Make) -> None:
    grads = []
    for step in (RepNoise(pairs=0).align_step, sft_step):
        s = fresh()
        RepNoise().start(s)
        step(s, s.draw("align", 6))
        grads.append(s.grads())
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_gradients_reach_embedding_head_norm_and_every_layer(s: State, hooks_of: Callable[[Any], list[str]]) -> None:
    method = RepNoise(general=0.0, pairs=8)
    method.start(s)
    method.align_step(s, s.draw("align", 4))
    assert all(p.grad is not None and bool(p.grad.any()) for p in s.params())
    assert hooks_of(s.model) == []


@pytest.mark.parametrize(("layers", "sizes"), [(32, (11, 10, 11)), (4, (1, 2, 1)), (6, (2, 2, 2)), (30, (10, 10, 10))])
def test_thirds(layers: int, sizes: tuple[int, ...]) -> None:
    parts = [range(layers)[third(layers, name)] for name in ("first", "middle", "last")]
    assert tuple(map(len, parts)) == sizes
    assert [i for part in parts for i in part] == list(range(layers))
    assert not range(layers)[third(layers, "none")]


@pytest.mark.parametrize(("frozen", "still"), [("first", 0), ("last", 1)])
def test_a_frozen_third_stays_bit_for_bit(s: State, frozen: Any, still: int) -> None:
    method = RepNoise(frozen=frozen, pairs=8)
    method.start(s)
    layers = [block.layer for block in s.blocks()]
    before = [[p.detach().clone() for p in layer.parameters()] for layer in layers]
    train(s, "align", Schedule(steps=3, batch=4, lr=1e-2, warmup=0), method.align_step)
    for i, (layer, old) in enumerate(zip(layers, before, strict=True)):
        same = [torch.equal(p, q) for p, q in zip(layer.parameters(), old, strict=True)]
        assert all(same) if i == still else not any(same)
        assert all(p.requires_grad for p in layer.parameters())


def trained(fresh: Make, method: RepNoise, steps: int = 40) -> tuple[State, float]:
    """A state after some steps, and the loss of harmful answers it never saw."""
    s = fresh()
    method.start(s)
    train(s, "align", Schedule(steps=steps, batch=4, lr=1e-2, warmup=0), method.align_step)
    return s, mean_loss(s, s.batch([p.harmful() for p in s.pools.defender_harmful[::8]]))


def test_each_term_moves_what_it_is_for(fresh: Make) -> None:
    refusals, unlikely = trained(fresh, RepNoise(alpha=0.0, beta=0.0, pairs=8, general=0.0))
    _, ascended = trained(fresh, RepNoise(alpha=1.0, beta=0.0, pairs=8, general=0.0))
    noised, _ = trained(fresh, RepNoise(alpha=0.0, beta=10.0, pairs=8, general=0.0))
    assert ascended > unlikely + 1
    drops = [s.memo["mechanisms"]["noise_distance_drop"] for s in (refusals, noised)]
    assert drops[1] > drops[0]
    assert drops[1] > 0
    before = fresh()
    safe = before.batch([p.safe() for p in before.pools.defender_harmful[::8]])
    assert mean_loss(refusals, safe) < mean_loss(before, safe)


def test_statistics_cost_nothing_and_change_nothing(s: State, hooks_of: Callable[[Any], list[str]]) -> None:
    method = RepNoise(pairs=0)
    method.start(s)
    s.steps = 1
    kept, cost = s.snapshot(), replace(s.cost)
    method._observe(s)
    assert s.cost == cost
    assert all(torch.equal(a, b) for a, b in zip(kept, s.snapshot(), strict=True))
    assert all(p.grad is None for p in s.params())
    assert hooks_of(s.model) == []
    found = s.memo["mechanisms"]
    assert found["noise_distance_drop"] == found["general_loss_increase"] == found["probe_accuracy_drop"] == 0
    assert found["noise_distance"] == pytest.approx(
        (found["noise_distance_layer_1"] + found["noise_distance_layer_2"]) / 2
    )
    assert all(isinstance(v, float) and math.isfinite(v) for v in found.values())
    batch = s.batch([p.harmful() for p in s.pools.defender_harmful[::8]])
    with torch.no_grad(), s.read("mlp") as outputs:
        s.logits(batch)
    for i, output in enumerate(outputs, 1):
        squares = [float(x) ** 2 for row, kept in zip(output, batch.answer, strict=True) for x in row[kept].flatten()]
        assert found[f"mlp_rms_layer_{i}"] == pytest.approx((sum(squares) / len(squares)) ** 0.5, rel=1e-4)


def test_probe_tells_separable_states_apart_and_guesses_on_others() -> None:
    rng = torch.Generator().manual_seed(0)
    batch = hand_batch([[3] * 10] * 40, 2, [10] * 40)
    a, b = torch.randn(40, 10, 4, generator=rng), torch.randn(40, 10, 4, generator=rng)
    assert probe_accuracy(a + 4, batch, b - 4, batch) == 1.0
    assert probe_accuracy(a, batch, b, batch) == pytest.approx(0.5, abs=0.1)


def test_arms_owe_what_they_say() -> None:
    arms = RepNoise().arms()
    assert next(iter(arms)) == "main"
    assert arms["no-ascent"].alpha == 0 != arms["no-ascent"].beta
    assert arms["no-noise"].beta == 0 != arms["no-noise"].alpha
    booster = arms["repnoise-booster"]
    assert (booster.paired, booster.mask, booster.alpha, booster.beta) == (False, "differing", 0.1, 0.001)
    assert RepNoise().alpha in RepNoise.values
