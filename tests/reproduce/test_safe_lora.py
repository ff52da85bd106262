"""Safe LoRA: C = V V^T / ||V||_F on the output side of the least aligned updates."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from reproduce.lab import Lab
from reproduce.model import Adapter, weights
from reproduce.papers import p2405_09055_somf as somf
from reproduce.papers.p2405_16833_safe_lora import SAYS, SafeLora, SafeLoraSelection, alignment_operator, cosine
from reproduce.protocol import Lora
from reproduce.run import Setting
from reproduce.stages import Stages
from reproduce.state import State

V = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
DIAGONAL = [1.788854, 0.447214]
Update = Callable[..., State]


class OneModule(State):
    """A single 2 x 2 module "m" with V = diag(2, 1), B = (1, 1)^T and A = (1, 0)."""

    def adapters(self) -> dict[str, Adapter]:
        return self.memo["pairs"]  # type: ignore[no-any-return]

    def delta(self, new: str, old: str) -> dict[str, torch.Tensor]:
        assert (new, old) == ("aligned", "base")
        return {"m": V}


def one_module(**fields: Any) -> OneModule:
    s = OneModule(nn.Linear(2, 2), None, None, 0)  # type: ignore[arg-type]
    a, b = nn.Parameter(torch.tensor([[1.0, 0.0]])), nn.Parameter(torch.zeros(2, 1))
    s.memo["pairs"] = {"m": Adapter(a, b, scaling=0.5)}
    method = SafeLora(**fields)
    method.start(s)
    with torch.no_grad():
        b.fill_(1.0)
    method.repair(s)
    return s


def b_of(s: State) -> list[float]:
    return s.adapters()["m"].b.flatten().tolist()


def test_example_of_the_dossier() -> None:
    c, update = alignment_operator(V), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert c.tolist() == [pytest.approx([DIAGONAL[0], 0.0]), pytest.approx([0.0, DIAGONAL[1]])]
    assert cosine(c, update) == 0.85749  # 0.857493, five decimals as the code compares them
    assert (c / V.norm()).diagonal().tolist() == pytest.approx([0.8, 0.2])  # what dividing by the squared norm gives


@pytest.mark.parametrize(
    ("fields", "b"),
    [
        ({"threshold": 0.5}, [1.0, 1.0]),
        ({"threshold": 0.86}, DIAGONAL),
        ({"threshold": 0.85749}, DIAGONAL),  # "at most" the threshold
        ({"threshold": -1.0}, [1.0, 1.0]),
        ({"threshold": 1.0}, DIAGONAL),
        ({"fraction": 1.0}, DIAGONAL),
        ({"fraction": 0.0}, [1.0, 1.0]),
        ({"fraction": 1.0, "operator": "orthogonal"}, [1.0, 1.0]),  # V has full rank
        ({"fraction": 1.0, "operator": "shrink"}, [1.3038405] * 2),  # |C B A| / |B A| = sqrt(3.4 / 2)
    ],
)
def test_example_through_repair(fields: dict[str, Any], b: list[float]) -> None:
    s = one_module(**fields)
    assert b_of(s) == pytest.approx(b, rel=1e-6)
    assert s.adapters()["m"].a.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(("out", "inside"), [(4, 4), (7, 3), (3, 7)])
def test_operator_is_symmetric_and_positive_semidefinite(out: int, inside: int) -> None:
    v = torch.randn(out, inside, generator=torch.Generator().manual_seed(out))
    c = alignment_operator(v)
    assert c.shape == (out, out)
    torch.testing.assert_close(c, c.T)
    assert float(torch.linalg.eigvalsh(c.double()).min()) > -1e-6
    singular = torch.linalg.svdvals(v)
    largest = singular[0] ** 2 / singular.square().sum().sqrt()
    torch.testing.assert_close(torch.linalg.eigvalsh(c)[-1], largest)
    torch.testing.assert_close(alignment_operator(3 * v), 3 * c)  # scales with V, while s does not
    update = torch.randn(out, inside, generator=torch.Generator().manual_seed(1))
    assert cosine(alignment_operator(3 * v), update) == pytest.approx(cosine(c, 5 * update), abs=1.1e-5)
    assert 0 <= cosine(c, update) <= 1


@pytest.fixture
def fine_tuned(stages: Stages) -> Update:
    """A state after simulated fine-tuning: random changes of what was trainable, `method` started before them."""

    def make(method: SafeLora, mode: Any = "double-lora", *, adapter: bool = True, lora: Lora | None = None) -> State:
        s = stages.ready(method, mode, adapter, lora)
        s.add_stream("user", s.pools.tasks["sentiment"].train)
        method.start(s)
        random = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for p in s.params():
                p.add_(0.05 * torch.randn(p.shape, generator=random))
        return s

    return make


def expected_weights(s: State) -> dict[str, torch.Tensor]:
    """W_aligned + C dW for every linear module of the blocks, in double precision and by this file's own formula."""
    now, aligned, base = s.effective_weights(), s.reference("aligned"), s.reference("base")
    wanted = {}
    for name in (n for n in now if n.endswith("_proj.weight")):
        v = (aligned[name] - base[name]).double()
        c = v @ v.T / v.square().sum().sqrt()
        wanted[name] = aligned[name].double() + c @ (now[name] - aligned[name]).double()
    return wanted


@pytest.mark.parametrize(
    ("mode", "adapter"), [("double-lora", True), ("full", False), ("single-lora", True), ("full", True)]
)
def test_merged_weights_are_aligned_plus_projected_update(fine_tuned: Update, mode: str, adapter: bool) -> None:
    """In single-LoRA mode the user's update is the difference of adapters, not the adapter."""
    method = SafeLora(fraction=1.0)
    s = fine_tuned(method, mode, adapter=adapter)
    untouched, wanted = s.effective_weights(), expected_weights(s)
    method.repair(s)
    s.merge_adapter()
    found = weights(s.model)
    assert len(wanted) == 14
    for name, value in found.items():
        if name in wanted:
            torch.testing.assert_close(value.double(), wanted[name], atol=1e-5, rtol=1e-4)
            assert not torch.allclose(value, untouched[name])
        else:
            torch.testing.assert_close(value, untouched[name], atol=1e-6, rtol=1e-5)


def test_a_stays_and_b_changes_only_where_chosen(fine_tuned: Update) -> None:
    method = SafeLora(fraction=0.5)
    s = fine_tuned(method)
    before = {n: (p.a.detach().clone(), p.b.detach().clone()) for n, p in s.adapters().items()}
    similarity = {}
    for name, pair in s.adapters().items():
        v, update = s.delta("aligned", "base")[name], (pair.b @ pair.a).detach()
        similarity[name] = float(torch.cosine_similarity((v @ v.T @ update).flatten(), update.flatten(), dim=0))
    lowest = sorted(similarity, key=lambda n: similarity[n])[:7]
    method.repair(s)
    changed = {n for n, p in s.adapters().items() if not torch.equal(p.b, before[n][1])}
    assert changed == set(lowest)
    assert all(torch.equal(p.a, before[n][0]) for n, p in s.adapters().items())
    assert s.memo["mechanisms"]["projected_modules"] == 7
    assert s.memo["mechanisms"]["similarity_min"] == pytest.approx(min(similarity.values()), abs=1e-5)


def test_pairs_are_told_apart_by_name_when_the_rank_is_the_width(fine_tuned: Update) -> None:
    """With a rank of 16 = out, lora_B of q_proj is square and looks like a lora_A."""
    method = SafeLora(fraction=1.0)
    s = fine_tuned(method, lora=Lora(rank=16, alpha=16))
    before = {n: (p.a.detach().clone(), p.b.detach().clone()) for n, p in s.adapters().items()}
    assert any(a.shape == b.shape for a, b in before.values())
    wanted = expected_weights(s)
    method.repair(s)
    for name, pair in s.adapters().items():
        assert torch.equal(pair.a, before[name][0])
        assert not torch.equal(pair.b, before[name][1])
    found = s.effective_weights()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name].double(), value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("threshold", "projected"), [(-1.0, 0), (1.0, 14)])
def test_extreme_thresholds(fine_tuned: Update, threshold: float, projected: int) -> None:
    method = SafeLora(threshold=threshold)
    s = fine_tuned(method)
    before = {n: p.b.detach().clone() for n, p in s.adapters().items()}
    method.repair(s)
    assert sum(not torch.equal(p.b, before[n]) for n, p in s.adapters().items()) == projected


def test_shrinking_keeps_the_direction_and_matches_the_norm(fine_tuned: Update) -> None:
    paper, shrink = SafeLora(fraction=1.0), SafeLora(fraction=1.0, operator="shrink")
    plain = {n: p.update().detach() for n, p in fine_tuned(paper).adapters().items()}
    projected, shrunk = fine_tuned(paper), fine_tuned(shrink)
    paper.repair(projected)
    shrink.repair(shrunk)
    for name, pair in shrunk.adapters().items():
        update = pair.update().detach()
        torch.testing.assert_close(update.norm(), projected.adapters()[name].update().detach().norm())
        torch.testing.assert_close(update / update.norm(), plain[name] / plain[name].norm())


def test_orthogonal_operator_projects_onto_the_column_space_of_v() -> None:
    v = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)) @ torch.randn(2, 6)
    p = SafeLora(operator="orthogonal").matrix(v, v)
    torch.testing.assert_close(p @ p, p)
    torch.testing.assert_close(p @ v, v, atol=1e-4, rtol=1e-4)
    assert float(p.trace()) == pytest.approx(2.0, abs=1e-4)


def test_low_rank_shift_reaches_few_output_dimensions(fine_tuned: Update) -> None:
    """The operator is then that of the leading singular directions of V alone."""
    method = SafeLora(fraction=1.0, rank=2)
    s = fine_tuned(method)
    before = {n: p.b.detach().double() for n, p in s.adapters().items()}
    method.repair(s)
    for name, pair in s.adapters().items():
        v = s.delta("aligned", "base")[name].double()
        values, vectors = torch.linalg.eigh(v @ v.T)
        lead, size = vectors[:, -2:], values[-2:]
        wanted = lead @ torch.diag(size) @ lead.T / size.sum().sqrt() @ before[name]
        torch.testing.assert_close(pair.b.detach().double(), wanted, atol=1e-6, rtol=1e-3)
        assert int(torch.linalg.matrix_rank(pair.b.detach().double(), rtol=1e-4)) <= 2
    assert SafeLora().arms()["low-rank-shift"].rank == 16


@pytest.mark.parametrize(("mode", "adapter"), [("double-lora", True), ("full", False)])
def test_interpolation_is_the_least_factor_that_serves_the_task_as_well(
    fine_tuned: Update, monkeypatch: pytest.MonkeyPatch, mode: str, adapter: bool
) -> None:
    """The first question is what projecting reached; then a score that jumps at half of the update."""
    method = SafeLora(fraction=1.0, operator="interpolate")
    s = fine_tuned(method, mode, adapter=adapter)
    tuned, aligned, projected = s.effective_weights(), s.reference("aligned"), expected_weights(s)
    name = next(iter(projected))
    asked: list[torch.Tensor] = []

    def accuracy(s: State) -> float:
        asked.append(s.model.get_parameter(name).detach().clone())
        factor = float((asked[-1] - aligned[name]).norm() / (tuned[name] - aligned[name]).norm())
        return 0.7 if len(asked) == 1 or factor >= 0.52 else 0.2

    monkeypatch.setattr(somf, "accuracy", accuracy)
    method.repair(s)
    torch.testing.assert_close(asked[0].double(), projected[name], atol=1e-5, rtol=1e-4)
    factor = s.memo["mechanisms"]["interpolation"]
    assert factor == 67 / 128  # the first of 128 steps beyond 0.52
    for n, value in s.effective_weights().items():
        torch.testing.assert_close(value, aligned[n] + factor * (tuned[n] - aligned[n]), atol=1e-5, rtol=1e-4)


def test_modules_that_alignment_left_alone_are_left_alone(fine_tuned: Update) -> None:
    method = SafeLora(fraction=1.0)
    s = fine_tuned(method)
    first = next(iter(s.adapters()))
    s.references["base"] = {**s.reference("base"), first: s.reference("aligned")[first].clone()}
    before = s.adapters()[first].b.detach().clone()
    method.repair(s)
    assert torch.equal(s.adapters()[first].b, before)
    assert s.memo["mechanisms"]["modules"] == 13


SIMILARITY = {"a": 0.3, "b": 0.1, "c": 0.9, "d": 0.3, "e": 0.5}


def test_choice_of_modules(s: State) -> None:
    assert SafeLora(fraction=0.2).choose(SIMILARITY, s) == ["b"]
    assert set(SafeLora(fraction=0.4).choose(SIMILARITY, s)) == {"b", "a", "d"}  # ties come along
    assert SafeLora(fraction=0.4, select="highest").choose(SIMILARITY, s) == ["c", "e"]
    assert SafeLora(fraction=0.0).choose(SIMILARITY, s) == []
    random = SafeLora(fraction=0.6, select="random")
    assert len(set(random.choose(SIMILARITY, s))) == 3
    assert random.choose(SIMILARITY, s) == random.choose(SIMILARITY, s)
    assert {tuple(random.choose(SIMILARITY, other)) for other in seeds(s)} != {tuple(random.choose(SIMILARITY, s))}
    draws = {tuple(replace(random, draw=i).choose(SIMILARITY, s)) for i in range(10)}
    assert len(draws) > 5  # of the 60 orders of three among five


def seeds(s: State) -> list[State]:
    return [replace(s, seed=seed) for seed in range(1, 6)]


def test_repair_needs_no_data_and_no_passes(fine_tuned: Update) -> None:
    method = SafeLora()
    s = fine_tuned(method)
    s.streams.clear()
    passes = s.cost.passes
    method.repair(s)
    assert s.cost.passes == passes
    assert all(p.grad is None for p in s.model.parameters())


def test_study_compares_with_the_mean_of_many_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[SafeLora] = []

    def point(self: SafeLoraSelection, lab: Lab, method: SafeLora) -> tuple[float, float]:
        asked.append(method)
        if method.select == "random":
            return 80.0 + method.draw, 60.0 + 2 * method.draw  # means 84.5 and 69 of ten
        return {0.1: (99.0, 90.0), 0.25: (99.0, 90.0), 0.5: (90.0, 50.0), 1.0: (40.0, 1.0)}[method.fraction]

    monkeypatch.setattr(SafeLoraSelection, "_point", point)
    lab: Any = None
    found = SafeLoraSelection().measure(lab).findings
    assert {m.draw for m in asked if m.select == "random"} == set(range(10))
    assert {name: f.value for name, f in found.items()} == {
        "harm_gain_over_random_modules": pytest.approx(19.0),
        "accuracy_gain_over_random_modules": pytest.approx(5.5),
        "harm_fraction_gamma": -1.0,
        "accuracy_fraction_gamma": -1.0,
    }


@pytest.mark.slow
def test_study_in_miniature(setting: Setting, tmp_path: Path) -> None:
    found = SafeLoraSelection(draws=2, n=20, ratio=0.2).measure(Lab(setting, 0, tmp_path))
    assert set(found.findings) == set(SAYS)
    figure = found.figures["fraction"]
    assert all(len(y) == len(figure.x) == 4 for y in figure.y.values())
