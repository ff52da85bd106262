"""Lisa: blocks in turn, each anchored where the previous block ended."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reproduce.api import Method
from reproduce.data import Example
from reproduce.papers.p2405_18641_lisa import Lisa
from reproduce.protocol import Lora, Schedule
from reproduce.state import Batch, State
from reproduce.train import train

ONE = torch.ones(1, 1)
STEPS = Schedule(steps=10, batch=1, lr=0.1, warmup=0, floor=1.0, clip=None)


class ScalarState(State):
    """One weight; alignment loss w^2 / 2, user loss (w - 1)^2 / 2."""

    def draw(self, stream: str, count: int) -> Batch:
        return Batch([Example(stream, "")] * count, ONE, ONE, ONE)

    def loss(self, batch: Batch, *, each: bool = False) -> Tensor:
        del each
        (weight,) = self.params()
        goal = 0.0 if batch.examples[0].prompt == "align" else 1.0
        return ((weight - goal) ** 2).sum() / 2


@pytest.fixture
def descend(monkeypatch: pytest.MonkeyPatch) -> Callable[[Method], list[float]]:
    """The weight after each of ten plain gradient steps of size 0.1 from 0.5, in the harness's own loop."""

    def sgd(params: Any, lr: float, **_: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=lr)

    monkeypatch.setattr(torch.optim, "AdamW", sgd)

    def path(method: Method) -> list[float]:
        model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(model.weight, 0.5)
        s = ScalarState(model, None, None, 0)  # type: ignore[arg-type]
        method.start(s)
        weights: list[float] = []

        def after_step(s: State) -> None:
            weights.append(model.weight.item())
            method.after_step(s)

        train(s, "user", STEPS, method.finetune_step, after_step)
        return weights

    return path


SHORT = Lisa(rho=1.0, k_align=2, k_user=3)


def test_scalar_trajectory_of_the_dossier(descend: Callable[[Method], list[float]]) -> None:
    assert descend(SHORT) == pytest.approx(
        [0.45, 0.41, 0.469, 0.5162, 0.55396, 0.498564, 0.454247, 0.508822, 0.552483, 0.587411], abs=2e-6
    )


class FixedAnchor(Lisa):
    """Wrong: L2 to the initial weights."""

    def after_step(self, s: State) -> None:
        pass


class SwappedAnchors(Lisa):
    """Wrong: each block is held near the end of the last block of its own kind."""

    def start(self, s: State) -> None:
        super().start(s)
        s.memo["ends"] = {True: s.snapshot(), False: s.snapshot()}

    def after_step(self, s: State) -> None:
        now, then = self.aligning(s.step), self.aligning(s.step + 1)
        if now != then:
            s.memo["ends"][now] = s.snapshot()
            s.memo["anchor"] = s.memo["ends"][then]


FIELDS = {"rho": 1.0, "k_align": 2, "k_user": 3}


@pytest.mark.parametrize(
    ("method", "end"),
    [
        (Lisa(rho=0.0, k_align=2, k_user=3), 0.605362),  # BSO
        (Lisa(**FIELDS, prox_start=0.1), 0.585068),  # the authors' code: no penalty in the first tenth
        (FixedAnchor(**FIELDS), 0.600797),
        (SwappedAnchors(**FIELDS), 0.611028),
    ],
    ids=["bso", "delayed", "fixed-anchor", "swapped-anchors"],
)
def test_trajectory_tells_variants_apart(descend: Callable[[Method], list[float]], method: Lisa, end: float) -> None:
    assert descend(method)[-1] == pytest.approx(end, abs=2e-6)


@dataclass
class Adam:
    """AdamW of one weight without decay, written out."""

    moments: tuple[float, float] = (0.0, 0.0)
    steps: int = 0

    def step(self, grad: float, lr: float) -> float:
        self.steps += 1
        first, second = 0.9 * self.moments[0] + 0.1 * grad, 0.999 * self.moments[1] + 0.001 * grad**2
        self.moments = first, second
        return -lr * (first / (1 - 0.9**self.steps)) / ((second / (1 - 0.999**self.steps)) ** 0.5 + 1e-8)


def _clipped(grad: float) -> float:
    return max(-0.3, min(0.3, grad))


def by_hand(*, clip_last: bool = True, one_optimiser: bool = True) -> list[float]:
    """Lisa(rho=2, 2 + 3 steps) with AdamW at 0.1 and clipping at 0.3 from 0.5."""
    weight = anchor = 0.5
    adam, weights = Adam(), list[float]()
    for step in range(10):
        if step % 5 in (0, 2) and step:
            anchor, adam = weight, adam if one_optimiser else Adam()
        grad, pull = weight - (0.0 if step % 5 < 2 else 1.0), 2.0 * (weight - anchor)
        grad = _clipped(grad + pull) if clip_last else _clipped(grad) + pull
        weight += adam.step(grad, 0.1)
        weights.append(weight)
    return weights


def test_the_optimiser_outlives_the_switch_and_clipping_sees_the_pull() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.5)
    s, method = ScalarState(model, None, None, 0), Lisa(rho=2.0, k_align=2, k_user=3)  # type: ignore[arg-type]
    weights: list[float] = []

    def after_step(s: State) -> None:
        weights.append(model.weight.item())
        method.after_step(s)

    method.start(s)
    train(s, "user", replace(STEPS, clip=0.3), method.finetune_step, after_step)
    assert weights == pytest.approx(by_hand(), abs=1e-4)
    for wrong in (by_hand(clip_last=False), by_hand(one_optimiser=False)):
        assert weights != pytest.approx(wrong, abs=1e-2)


def test_penalty_gradient_of_the_dossier() -> None:
    model = nn.Linear(2, 1, bias=False)
    s = State(model, None, None, 0)  # type: ignore[arg-type]
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5, 0.0]]))
    method = Lisa(rho=1.0)
    method.start(s)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0]]))
    model.weight.grad = torch.tensor([[10.0, 20.0]])
    method._pull(s)
    assert model.weight.grad.tolist() == [[10.5, 18.0]]

    def penalty(weight: Tensor) -> Tensor:
        return method.rho / 2 * (weight - torch.tensor([[0.5, 0.0]])).square().sum()

    assert penalty(model.weight).item() == 2.125
    assert torch.autograd.grad(penalty(model.weight), model.weight)[0].tolist() == [[0.5, -2.0]]


def test_weights_without_gradient_are_pulled_too(s: State) -> None:
    method = Lisa(rho=3.0)
    method.start(s)
    with torch.no_grad():
        for p in s.params():
            p.add_(1.0)
    method._pull(s)
    for p in s.params():
        assert p.grad is not None
        torch.testing.assert_close(p.grad, torch.full_like(p, 3.0), atol=1e-5, rtol=1e-5)


def test_with_an_adapter_its_two_matrices_are_pulled_apart_from_each_other_and_nothing_else_is(s: State) -> None:
    s.attach_adapter(Lora(rank=2, alpha=4), "tune")
    method = Lisa(rho=3.0)
    method.start(s)
    pairs = s.adapters().values()
    with torch.no_grad():
        for pair in pairs:
            pair.a.add_(1.0)
            pair.b.sub_(2.0)
    method._pull(s)
    for pair in pairs:
        for matrix, moved in ((pair.a, 1.0), (pair.b, -2.0)):
            assert matrix.grad is not None
            torch.testing.assert_close(matrix.grad, torch.full_like(matrix, 3.0 * moved))
    pulled = [n for n, p in s.model.named_parameters() if p.grad is not None]
    assert len(pulled) == 2 * len(pairs)
    assert all(".lora_" in n for n in pulled)


def test_cycles_begin_with_alignment_steps() -> None:
    states = "".join("AU"[not Lisa(k_align=2, k_user=3).aligning(step)] for step in range(11))
    assert states == "AAUUUAAUUUA"
    assert not any(Lisa(k_align=0).aligning(step) for step in range(40))
    assert all(Lisa(k_align=2, k_user=0).aligning(step) for step in range(40))


def test_anchor_is_where_the_block_began_and_stays_there(s: State) -> None:
    """A block's anchor is a copy of the weights before its first step, bit for bit, whatever the other weights do."""
    method = Lisa(rho=0.5, k_align=2, k_user=3)
    began: list[Tensor] = []
    method.start(s)

    def step(s: State, batch: Batch) -> float:
        if s.step % 5 in (0, 2):
            began[:] = [p.detach().clone() for p in s.params()]
        for anchor, weight, live in zip(s.memo["anchor"], began, s.params(), strict=True):
            assert torch.equal(anchor, weight)
            assert anchor.data_ptr() != live.data_ptr()
            assert not anchor.requires_grad
        return method.finetune_step(s, batch)

    train(s, "user", Schedule(steps=11, batch=4, lr=1e-2, warmup=0), step, method.after_step)
    mechanisms = s.memo["mechanisms"]
    assert set(mechanisms) == {
        "align_block_drift",
        "align_block_pull_ratio",
        "user_block_drift",
        "user_block_pull_ratio",
        "ended_aligning",
    }
    assert min(mechanisms.values()) > 0
    assert mechanisms["ended_aligning"] == 1.0  # eleven steps: two whole cycles and an alignment step


def test_alignment_steps_use_alignment_data_of_the_same_size_and_drop_the_user_batch(
    s: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, int]] = []
    aligned, loss = set(s.pools.alignment), s.loss

    def watch(batch: Batch) -> Tensor:
        seen.append((set(batch.examples) <= aligned, len(batch.examples)))
        return loss(batch)

    monkeypatch.setattr(s, "loss", watch)
    method = Lisa(k_align=1, k_user=2)
    method.start(s)
    train(s, "user", Schedule(steps=6, batch=4, lr=1e-3), method.finetune_step, method.after_step)
    assert seen == [(True, 4), (False, 4), (False, 4)] * 2


def test_proximal_only_is_held_near_the_start_throughout(s: State) -> None:
    method = Lisa().arms()["proximal-only"]
    method.start(s)
    first = s.snapshot()

    def step(s: State, batch: Batch) -> float:
        assert all(torch.equal(a, b) for a, b in zip(first, s.memo["anchor"], strict=True))
        return method.finetune_step(s, batch)

    train(s, "user", Schedule(steps=25, batch=2, lr=1e-2), step, method.after_step)
    moved = sum(float((a - b).square().sum()) for a, b in zip(s.snapshot(), first, strict=True)) ** 0.5
    mechanisms = s.memo["mechanisms"]
    assert mechanisms["user_block_drift"] == pytest.approx(moved, rel=1e-5)  # the whole run is one block
    assert mechanisms["user_block_pull_ratio"] > 0
    assert mechanisms["ended_aligning"] == 0.0


def test_larger_rho_moves_less(fresh: Callable[[], State]) -> None:
    def moved(rho: float) -> float:
        s = fresh()
        method = Lisa(rho=rho, k_align=0)
        method.start(s)
        begin = s.snapshot()
        train(s, "user", Schedule(steps=15, batch=4, lr=3e-3, warmup=0), method.finetune_step, method.after_step)
        return sum(float((a - b).square().sum()) for a, b in zip(s.snapshot(), begin, strict=True))

    assert moved(1000.0) < moved(1.0) <= moved(0.0)


def pulls_by_state(s: State, method: Lisa, steps: int) -> dict[bool, list[float]]:
    """Length of what the proximal term adds to the gradient in each step, by whether it is an alignment step."""
    pulls: dict[bool, list[float]] = {True: [], False: []}
    plain: list[list[Tensor]] = []
    backward = s.backward

    def watch(loss: Tensor) -> None:
        backward(loss)
        plain[:] = [s.grads()]

    s.backward = watch  # type: ignore[method-assign]

    def step(s: State, batch: Batch) -> float:
        loss = method.finetune_step(s, batch)
        added = sum(float((g - h).square().sum()) for g, h in zip(s.grads(), plain[0], strict=True)) ** 0.5
        pulls[method.aligning(s.step)].append(added)
        return loss

    method.start(s)
    train(s, "user", Schedule(steps=steps, batch=2, lr=1e-2, warmup=0), step, method.after_step)
    return pulls


def test_the_pull_acts_in_both_states_by_default(fresh: Callable[[], State]) -> None:
    cycle = Lisa().k_align + Lisa().k_user
    assert Lisa().k_align / cycle == 0.1  # the paper's share
    pulls = pulls_by_state(fresh(), Lisa(), 2 * cycle)
    assert sum(p > 0 for p in pulls[True]) == 2  # a block's first step starts at its own anchor
    assert sum(p > 0 for p in pulls[False]) == 2 * (Lisa().k_user - 1)
    one = pulls_by_state(fresh(), Lisa(k_align=1, k_user=9), 20)
    assert max(one[True]) == 0.0  # with one alignment step a cycle the alignment state has no proximal term
    assert min(one[False][1:9]) > 0


def test_delay_leaves_the_first_tenth_without_pull_but_moves_the_anchor(fresh: Callable[[], State]) -> None:
    method = Lisa(k_align=2, k_user=3, prox_start=0.5)
    pulls = pulls_by_state(fresh(), method, 10)  # acts in steps 6 to 9: one of alignment, three of the user
    assert [p > 0 for p in pulls[True]] == [False, False, False, True]
    assert [p > 0 for p in pulls[False]] == [False, False, False, False, True, True]  # step 7 starts at its anchor
    assert Lisa().arms()["delayed"].prox_start == 0.1


def test_pull_ratio_is_that_of_the_two_gradients_at_the_end_of_a_block() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.5)
    s = ScalarState(model, None, None, 0, step=4, steps=10)  # type: ignore[arg-type]
    method = Lisa(rho=3.0, k_align=2, k_user=3)
    method.start(s)
    nn.init.constant_(model.weight, 0.7)
    method.finetune_step(s, s.draw("user", 1))  # cross-entropy's gradient 0.7 - 1, the pull's 3 (0.7 - 0.5)
    assert s.memo["mechanisms"] == {"user_block_pull_ratio": pytest.approx(2.0, rel=1e-5)}
    s.step = 3
    s.memo["mechanisms"].clear()
    method.finetune_step(s, s.draw("user", 1))
    assert s.memo["mechanisms"] == {}  # not the end of a block


def test_share_arms_are_plain_alternation() -> None:
    arms = Lisa().arms()
    shares = [arms[name].k_align for name in ("bso", "bso-fifth", "bso-half")]
    assert shares == [2, 4, 10]
    assert all(arms[name].k_align + arms[name].k_user == 20 for name in ("bso", "bso-fifth", "bso-half"))
    assert all(arms[name].rho == 0.0 for name in ("bso", "bso-fifth", "bso-half"))
