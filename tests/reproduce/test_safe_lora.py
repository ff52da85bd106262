"""Safe LoRA: C = V V^T / ||V||_F on the output side of the least aligned updates."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from reproduce.model import Adapter, weights
from reproduce.papers.p2405_16833_safe_lora import SafeLora, cosine, projector
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
    c, update = projector(V), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert c.tolist() == [pytest.approx([DIAGONAL[0], 0.0]), pytest.approx([0.0, DIAGONAL[1]])]
    assert cosine(c, update) == 0.85749  # 0.857493, five decimals as the code compares them
    assert c.diagonal().tolist() != pytest.approx([0.8, 0.2], abs=0.1)  # dividing by the squared norm


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
    c = projector(v)
    assert c.shape == (out, out)
    torch.testing.assert_close(c, c.T)
    assert float(torch.linalg.eigvalsh(c.double()).min()) > -1e-6
    singular = torch.linalg.svdvals(v)
    largest = singular[0] ** 2 / singular.square().sum().sqrt()
    torch.testing.assert_close(torch.linalg.eigvalsh(c)[-1], largest)
    torch.testing.assert_close(projector(3 * v), 3 * c)  # scales with V, while s does not
    update = torch.randn(out, inside, generator=torch.Generator().manual_seed(1))
    assert cosine(projector(3 * v), update) == pytest.approx(cosine(c, 5 * update), abs=1.1e-5)
    assert 0 <= cosine(c, update) <= 1


@pytest.fixture
def fine_tuned(stages: Stages) -> Update:
    """A state after simulated fine-tuning: random changes of what was trainable, `method` started before them."""

    def make(method: SafeLora, mode: Any = "double-lora", *, adapter: bool = True) -> State:
        s = stages.ready(method, mode, adapter)
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
