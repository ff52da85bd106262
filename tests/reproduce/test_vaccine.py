"""Vaccine: one joint worst-case shift of all attention outputs, two passes, gradients of the second only."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reproduce.api import sft_step
from reproduce.papers.p2402_01109_vaccine import Vaccine
from reproduce.stages import Stages
from reproduce.state import Batch, State


class ScalarAttention(nn.Module):
    """e = w * x, in a tuple as attention modules return it."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.weight * x, None


class PlainMLP(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Layer(nn.Module):
    def __init__(self, weight: float) -> None:
        super().__init__()
        self.attention, self.mlp = ScalarAttention(weight), PlainMLP()

    def forward(self, x: Tensor) -> Any:
        return self.mlp(self.attention(x)[0])


class Chain(nn.Module):
    """Two layers without residual connection: e1 = w1 x, e2 = w2 e1."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Module()
        self.decoder.layers = nn.ModuleList([Layer(4.0), Layer(0.75)])

    def get_decoder(self) -> nn.Module:
        return self.decoder

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.decoder.layers:  # type: ignore[union-attr]
            x = layer(x)
        return x


class ChainState(State):
    """Loss (e2 - y)^2 / 2 with x = y = 1."""

    def loss(self, batch: Batch, *, each: bool = False) -> Tensor:
        del batch, each
        loss: Tensor = ((self.model(torch.ones(1, 1, 1)) - 1) ** 2).sum() / 2
        return loss


@pytest.fixture
def chain() -> ChainState:
    return ChainState(Chain(), None, None, 0)  # type: ignore[arg-type]


ONE = torch.ones(1, 1)
BATCH = Batch([], ONE, ONE, ONE)


def chain_grads(s: State) -> list[float]:
    return [float(g) for g in s.grads()]


def test_scalar_example_of_the_dossier(chain: ChainState) -> None:
    method = Vaccine(rho=2.5)
    shifts = [float(e) for e in method.perturbation(chain, BATCH)]
    assert shifts == pytest.approx([1.5, 2.0], rel=1e-6)
    assert (shifts[0] ** 2 + shifts[1] ** 2) ** 0.5 == pytest.approx(2.5, rel=1e-6)  # one joint ball
    assert method.align_step(chain, BATCH) == pytest.approx(13.1328125, rel=1e-6)  # the shifted loss is logged
    assert chain_grads(chain) == pytest.approx([3.84375, 28.1875], rel=1e-6)


def test_the_example_tells_the_wrong_variants_apart(chain: ChainState) -> None:
    assert sft_step(chain, BATCH) == 2.0  # the first pass, unshifted
    assert chain_grads(chain) == [1.5, 8.0]
    chain.clear_grads()
    one_ball_per_layer = [torch.tensor(2.5), torch.tensor(2.5)]
    with chain.shift("attention", one_ball_per_layer):
        sft_step(chain, BATCH)
    assert chain_grads(chain) == [4.78125, 41.4375]


@pytest.fixture
def batch(s: State) -> Batch:
    return s.draw("align", 6)


def test_joint_norm_is_rho_over_layers_rows_and_positions(s: State, batch: Batch) -> None:
    shifts = Vaccine(rho=2.0).perturbation(s, batch)
    assert len(shifts) == len(s.blocks())
    squares = [float(e.double().square().sum()) for e in shifts]
    assert sum(squares) == pytest.approx(4.0, rel=1e-5)
    assert max(squares) < 3.999  # no layer has a ball of its own
    assert all(e.shape == (*batch.ids.shape, 16) for e in shifts)


def test_shift_raises_the_loss_and_its_opposite_lowers_it(s: State, batch: Batch) -> None:
    shifts = Vaccine(rho=0.05).perturbation(s, batch)
    plain = s.loss(batch).item()
    with s.shift("attention", shifts):
        raised = s.loss(batch).item()
    with s.shift("attention", [-e for e in shifts]):
        lowered = s.loss(batch).item()
    assert lowered < plain < raised


def test_shift_follows_the_gradient_of_every_position(s: State, batch: Batch) -> None:
    shifts = Vaccine(rho=1.0).perturbation(s, batch)
    assert all(not e.requires_grad for e in shifts)
    assert all(bool((e[~batch.real] == 0).all()) for e in shifts)  # padding is not shifted
    assert bool(shifts[0][batch.prompt].any())  # prompts are: the answer sees them through later layers
    used = batch.real.clone()  # the last layer's output matters only where the next token carries loss
    used[:, :-1] = batch.answer[:, 1:]
    used[:, -1] = False
    assert not bool(shifts[-1][~used].any())
    assert bool((shifts[-1][used] != 0).any(-1).all())


def test_shift_is_along_the_gradient_of_the_attention_outputs(s: State, batch: Batch) -> None:
    """Against autograd on outputs caught right behind the output projection, before the residual is added."""
    caught: list[Tensor] = []
    handles = [
        s.model.get_submodule(f"model.layers.{i}.self_attn.o_proj").register_forward_hook(
            lambda module, inputs, output: caught.append(output)
        )
        for i in range(2)
    ]
    gradients = torch.autograd.grad(s.loss(batch), caught)
    for handle in handles:
        handle.remove()
    norm = sum(g.square().sum() for g in gradients) ** 0.5
    for shift, gradient in zip(Vaccine(rho=3.0).perturbation(s, batch), gradients, strict=True):
        torch.testing.assert_close(shift, 3.0 * gradient / norm)


def test_only_gradients_of_the_shifted_pass_remain(
    s: State, batch: Batch, hooks_of: Callable[[Any], list[str]]
) -> None:
    method = Vaccine(rho=2.0)
    shifts = method.perturbation(s, batch)
    assert all(p.grad is None for p in s.params())
    with s.shift("attention", shifts):
        wanted = torch.autograd.grad(s.loss(batch), s.params())
    s.clear_grads()
    method.align_step(s, batch)
    for found, expected in zip(s.grads(), wanted, strict=True):
        torch.testing.assert_close(found, expected)
    assert hooks_of(s.model) == []


def test_accumulated_gradients_of_an_earlier_pass_do_not_leak(s: State, batch: Batch) -> None:
    Vaccine().align_step(s, batch)
    once = s.grads()
    s.clear_grads()
    sft_step(s, batch)  # left in .grad by someone; zeroing before pass 2 is part of the method
    Vaccine().align_step(s, batch)
    for a, b in zip(s.grads(), once, strict=True):
        torch.testing.assert_close(a, b)


def test_costs_two_forward_and_two_backward_passes(s: State, batch: Batch) -> None:
    Vaccine().align_step(s, batch)
    assert s.cost.passes == 4


def test_random_direction_has_the_norm_but_not_the_direction(s: State, batch: Batch) -> None:
    assert not bool(batch.real.all())  # there is padding to leave alone
    gradient, random = (Vaccine(rho=3.0, direction=d).perturbation(s, batch) for d in ("gradient", "random"))
    assert sum(float(e.double().square().sum()) for e in random) == pytest.approx(9.0, rel=1e-5)
    assert all(bool((e[~batch.real] == 0).all()) and bool((e[batch.real] != 0).any(-1).all()) for e in random)
    cosine = sum(float((a * b).sum()) for a, b in zip(gradient, random, strict=True)) / 9.0
    assert abs(cosine) < 0.2
    assert all(p.grad is None for p in s.params())


def test_random_direction_is_new_every_step_and_repeats_with_the_seed(s: State, batch: Batch) -> None:
    method = Vaccine(direction="random")
    first, again = method.perturbation(s, batch), method.perturbation(s, batch)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    s.step = 1
    assert not torch.equal(method.perturbation(s, batch)[0], first[0])
    assert not torch.equal(first[0], first[1])  # blocks do not share one draw


def test_relative_shift_is_recorded_at_answer_positions(s: State, batch: Batch) -> None:
    with torch.no_grad(), s.read("attention") as outputs:
        s.logits(batch)
    shares = []
    for rho in (1.0, 3.0):
        shifts = Vaccine(rho=rho).perturbation(s, batch)
        answers = [(e[batch.labels != -100], o[batch.labels != -100]) for e, o in zip(shifts, outputs, strict=True)]
        shares.append(sum(float((e.square().sum() / o.square().sum()) ** 0.5) for e, o in answers) / 2)
        assert s.memo["mechanisms"]["relative_shift_last"] == pytest.approx(shares[-1], rel=1e-5)
    assert shares[1] == pytest.approx(3 * shares[0], rel=1e-4)
    assert s.memo["mechanisms"]["relative_shift"] == pytest.approx(sum(shares) / 2, rel=1e-5)


def test_relative_shift_stays_with_the_aligned_model(stages: Stages) -> None:
    kept = stages.aligned(Vaccine(rho=0.7), "full").info["mechanisms"]
    assert kept["relative_shift"] > 0
    assert kept["relative_shift_last"] > 0


def test_accelerated_shifts_every_tau_steps_and_is_plain_alignment_between(s: State, batch: Batch) -> None:
    sft_step(s, batch)
    plain = s.grads()
    s.clear_grads()
    shifted = []
    for s.step in range(5):
        s.cost.passes = 0
        Vaccine(rho=2.0, every=2).align_step(s, batch)
        shifted.append(s.cost.passes == 4)
        same = all(torch.equal(a, b) for a, b in zip(s.grads(), plain, strict=True))
        assert same != shifted[-1]
        s.clear_grads()
    assert shifted == [True, False, True, False, True]


def test_weaker_radii_are_arms_named_like_those_of_the_sweep() -> None:
    sweep, arms = Vaccine().sweep(), Vaccine().arms()
    assert {name: m.rho for name, m in arms.items() if "=" in name} == {"rho=0.1": 0.1, "rho=0.5": 0.5}
    assert all(m == Vaccine(rho=m.rho) for name, m in [*sweep.items(), *arms.items()] if "=" in name)
    assert sweep.keys() & arms.keys() == {"main"}
    assert len(sweep) == 4  # the tuning budget of every defense
