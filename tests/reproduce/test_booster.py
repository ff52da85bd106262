"""Booster: two harmful gradients on one batch, one joint step apart; the alignment gradient at the restored weights."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reproduce.api import sft_step
from reproduce.papers.p2402_01109_vaccine import Vaccine
from reproduce.papers.p2409_01586_booster import Booster, norm
from reproduce.state import Batch, State

ONE = torch.ones(1, 1)
ALIGNMENT, HARMFUL = Batch([], ONE, ONE, ONE), Batch([], ONE, ONE, ONE)


class Plane(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0, 1.0]))


def harm(w: Tensor) -> Tensor:
    return (w[0] ** 2 + 4 * w[1] ** 2) / 2


class PlaneState(State):
    """f = ((w1 - 1)^2 + (w2 - 1)^2) / 2 on alignment data, h = (w1^2 + 4 w2^2) / 2 on harmful data."""

    def loss(self, batch: Batch, *, each: bool = False) -> Tensor:
        del each
        w = self.model.w
        return harm(w) if batch is HARMFUL else ((w - 1) ** 2).sum() / 2

    def draw(self, stream: str, count: int) -> Batch:
        del count
        assert stream == "harmful"
        return HARMFUL


@pytest.fixture
def plane() -> PlaneState:
    return PlaneState(Plane(), None, None, 0, memo={"mechanisms": {}})  # type: ignore[arg-type]


def test_example_of_the_dossier(plane: PlaneState) -> None:
    loss = Booster(lam=5.0, alpha=0.5).align_step(plane, ALIGNMENT)
    assert loss == 2.0  # f alone is logged
    assert plane.model.w.tolist() == [3.0, 1.0]
    assert plane.grads()[0].tolist() == pytest.approx([3.5, 8.0], rel=1e-6)
    assert plane.memo["mechanisms"]["simulated_drop_last"] == pytest.approx((6.5 - 4.365) / 6.5, rel=1e-6)
    assert plane.memo["mechanisms"]["gradient_ratio"] == pytest.approx((1.5**2 + 8.0**2) ** 0.5 / 2, rel=1e-6)
    torch.nn.utils.clip_grad_norm_(plane.params(), 1.0)
    assert plane.grads()[0].tolist() == pytest.approx([0.4008, 0.9162], abs=1e-4)


def test_the_example_tells_the_wrong_variants_apart(plane: PlaneState) -> None:
    w = torch.tensor([3.0, 1.0], requires_grad=True)
    (here,) = torch.autograd.grad(harm(w), w, create_graph=True)
    ahead = w - 0.5 * here / here.norm()
    (through,) = torch.autograd.grad(((w - 1) ** 2).sum() / 2 + 5 * (harm(w) - harm(ahead)), w)
    assert through.tolist() == pytest.approx([3.788, 7.136], abs=1e-3)  # differentiated through the normalised step
    there = torch.tensor([2.7, 2.4])
    flipped = torch.tensor([2.0, 0.0]) - 5 * (here.detach() - there)
    assert flipped.tolist() == pytest.approx([0.5, -8.0])
    ascent = torch.tensor([2.0, 0.0]) - 5 * here.detach()
    assert ascent.tolist() == pytest.approx([-13.0, -20.0])
    Booster(lam=5.0, alpha=0.5).align_step(plane, ALIGNMENT)
    (found,) = plane.grads()
    assert not any(torch.allclose(found, wrong, rtol=0.05) for wrong in (through, flipped, ascent))


@pytest.fixture
def ready(s: State) -> State:
    Booster().start(s)
    return s


@pytest.fixture
def batch(ready: State) -> Batch:
    return ready.draw("align", 6)


def gradient_of(s: State, batch: Batch) -> list[Tensor]:
    return list(torch.autograd.grad(s.loss(batch), s.params()))


def test_gradient_is_that_of_alignment_plus_the_weighted_difference(
    ready: State, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against autograd at weights moved by hand: same harmful batch at both, one norm over all tensors."""
    harmful, following = ready.draw("harmful", 6), ready.draw("harmful", 6)
    kept = ready.snapshot()
    plain, here = gradient_of(ready, batch), gradient_of(ready, harmful)
    length = torch.cat([g.flatten() for g in here]).norm()
    with torch.no_grad():
        for p, g in zip(ready.params(), here, strict=True):
            p.sub_(0.2 * g / length)
    moved = torch.cat([(p - w).flatten() for p, w in zip(ready.params(), kept, strict=True)]).norm()
    assert moved.item() == pytest.approx(0.2, rel=1e-4)
    there = gradient_of(ready, harmful)
    ready.restore(kept)
    draws = [harmful, following]
    monkeypatch.setattr(ready, "draw", lambda stream, count: draws.pop(0))
    Booster(lam=0.7, alpha=0.2).align_step(ready, batch)
    assert draws == [following]
    for found, f, a, b in zip(ready.grads(), plain, here, there, strict=True):
        torch.testing.assert_close(found, f + 0.7 * (a - b), rtol=1e-5, atol=1e-6)


def test_one_ball_per_tensor_is_another_method(ready: State, batch: Batch) -> None:
    extra = Booster(lam=1.0, alpha=0.2).attenuation(ready, batch)
    kept, here = ready.snapshot(), gradient_of(ready, batch)
    ready.restore([w - 0.2 * g / g.norm().clamp_min(1e-12) for w, g in zip(kept, here, strict=True)])
    wrong = [a - b for a, b in zip(here, gradient_of(ready, batch), strict=True)]
    assert not any(torch.allclose(x, y, rtol=0.1) for x, y in zip(extra, wrong, strict=True) if x.any())


def test_step_goes_down_the_harmful_loss_by_alpha(ready: State, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[float] = []
    restore, kept = ready.restore, ready.snapshot()

    def watch(values: list[Tensor]) -> None:
        moves.append(float(norm([v - w for v, w in zip(values, kept, strict=True)])))
        restore(values)

    monkeypatch.setattr(ready, "restore", watch)
    Booster(alpha=0.05).attenuation(ready, batch)
    Booster(alpha=0.05, direction="random").attenuation(ready, batch)
    assert moves == pytest.approx([0.05, 0.0, 0.05, 0.0], rel=1e-3)
    assert ready.memo["mechanisms"]["simulated_drop_first"] > 0
    assert abs(ready.memo["mechanisms"]["simulated_drop_last"]) < ready.memo["mechanisms"]["simulated_drop_first"]


def test_parameters_come_back_bit_for_bit_and_nothing_is_left(
    ready: State, batch: Batch, hooks_of: Callable[[Any], list[str]]
) -> None:
    kept = ready.snapshot()
    Booster(lam=5.0, alpha=0.37, rho=1.0).align_step(ready, batch)
    assert all(torch.equal(p, w) for p, w in zip(ready.params(), kept, strict=True))
    assert hooks_of(ready.model) == []


def test_gradients_of_an_earlier_pass_do_not_leak(fresh: Callable[[], State]) -> None:
    found = []
    for dirty in (False, True):
        s = fresh()
        Booster().start(s)
        batch = s.draw("align", 6)
        if dirty:
            sft_step(s, batch)
        Booster().align_step(s, batch)
        found.append(s.grads())
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("null", [Booster(lam=0.0), Booster(alpha=0.0), Booster(alpha=0.0, lam=3.0)])
def test_without_weight_or_step_the_gradient_is_plain(ready: State, batch: Batch, null: Booster) -> None:
    sft_step(ready, batch)
    plain = ready.grads()
    ready.clear_grads()
    null.align_step(ready, batch)
    assert all(torch.equal(a, b) for a, b in zip(ready.grads(), plain, strict=True))


def test_with_vaccine_the_alignment_gradient_is_the_perturbed_one(ready: State, batch: Batch) -> None:
    shifted = Vaccine(rho=2.0).align_step(ready, batch)
    perturbed = ready.grads()
    ready.clear_grads()
    logged = Booster(lam=0.0, rho=2.0).align_step(ready, batch)
    assert logged == pytest.approx(shifted, rel=1e-6) != pytest.approx(float(ready.loss(batch).detach()), rel=1e-4)
    for a, b in zip(ready.grads(), perturbed, strict=True):
        torch.testing.assert_close(a, b)


def test_every_statistic_of_both_methods_survives_the_steps_with_vaccine(ready: State) -> None:
    method, shares, drops = Booster(rho=1.0), [], []
    for ready.step in range(2):
        batch = ready.draw("align", 6)
        Vaccine(rho=1.0).align_step(ready, batch)
        plain = ready.grads()
        ready.clear_grads()
        method.align_step(ready, batch)
        extra = [both - one for both, one in zip(ready.grads(), plain, strict=True)]
        shares.append(float(norm(extra) / norm(plain)))
        drops.append(ready.memo["mechanisms"]["simulated_drop_last"])
        ready.clear_grads()
    kept = ready.memo["mechanisms"]
    assert kept.keys() == {
        "simulated_drop_first", "simulated_drop_last", "gradient_ratio", "relative_shift", "relative_shift_last",
    }  # fmt: skip
    assert kept["gradient_ratio"] == pytest.approx(sum(shares) / 2, rel=1e-3)
    assert [kept["simulated_drop_first"], kept["simulated_drop_last"]] == drops
    assert drops[0] != drops[1]


def test_costs_three_passes_each_way_and_four_with_vaccine(ready: State, batch: Batch) -> None:
    Booster().align_step(ready, batch)
    assert ready.cost.passes == 6
    Booster(rho=1.0).align_step(ready, batch)
    assert ready.cost.passes == 6 + 8  # Vaccine's two pairs in place of one


def test_harmful_data_are_the_defenders_own(ready: State) -> None:
    stream = ready.streams["harmful"].take(40)
    assert {e.prompt for e in stream} == {p.prompt for p in ready.pools.defender_harmful}
    pools = ready.pools
    held_out = {e.prompt for e in [*pools.harmful_validation, *pools.harmful_test]}
    assert not {e.prompt for e in stream} & (held_out | {p.prompt for p in pools.attack_harmful})


@pytest.mark.parametrize("seed", range(2))
def test_the_extra_gradient_leads_to_weights_with_a_smaller_drop(fresh: Callable[[], State], seed: int) -> None:
    """Descent on the difference term alone: one step on the same harmful batch buys less and less."""
    s = fresh()
    method = Booster(lam=1.0, alpha=0.3)
    method.start(s)
    s.streams["harmful"].take(5 * seed)
    harmful = s.draw("harmful", 8)
    for _ in range(20):
        extra = method.attenuation(s, harmful)
        s.restore([w - 0.05 * g / norm(extra) for w, g in zip(s.snapshot(), extra, strict=True)])
    assert s.memo["mechanisms"]["simulated_drop_last"] < 0.9 * s.memo["mechanisms"]["simulated_drop_first"]


def test_grid_holds_the_default_and_arms_are_its_neighbours() -> None:
    assert Booster().lam in Booster.values
    assert len(Booster.values) >= 4
    arms = Booster().arms()
    assert arms["large-alpha"].alpha / arms["main"].alpha == pytest.approx(10.0)
    assert arms["main"] == replace(arms["random-direction"], direction="gradient")
