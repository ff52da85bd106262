"""Wanda, SNIP and ActSVD scores against the dossiers' numbers and against slow, independent computations."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reproduce import importance
from reproduce.data import Example
from reproduce.importance import (
    input_norms,
    input_sums,
    linear_modules,
    removal,
    scores,
    share,
    shuffled,
    snip,
    top_masks,
    top_of_rows,
    top_of_tensor,
    wanda,
)
from reproduce.model import linear_names
from reproduce.protocol import Lora
from reproduce.state import Batch, State

PADDING = 100.0  # a value that shows when padding is counted


class Vectors(State):
    """A bare linear model whose "tokens" are vectors; an example's prompt names its rows in `memo`."""

    def batch(self, examples: Sequence[Example]) -> Batch:
        rows = [torch.tensor(self.memo[e.prompt]) for e in examples]
        length = max(len(r) for r in rows)
        ids = torch.full((len(rows), length, rows[0].shape[1]), PADDING)
        real = torch.zeros(len(rows), length, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)], real[i, : len(row)] = row, True
        return Batch(examples, ids, torch.where(real, 1, -100), real)

    def logits(self, batch: Batch) -> Tensor:
        out: Tensor = self.model(batch.ids)
        return out


def vectors(tokens: dict[str, list[list[float]]], out: int = 1) -> tuple[Vectors, list[Example]]:
    width = len(next(iter(tokens.values()))[0])
    s = Vectors(nn.Linear(width, out, bias=False), None, None, 0)  # type: ignore[arg-type]
    s.memo.update(tokens)
    return s, [Example(name, "") for name in tokens]


W = torch.tensor([[1.0, -2.0], [0.5, 4.0]])


def test_wanda_example_of_brittleness() -> None:
    s, examples = vectors({"one": [[3.0, 0.0], [0.0, 1.0], [4.0, 0.0]]})
    norms = input_norms(s, {"m": s.model}, examples, "answer")["m"]
    assert norms.tolist() == [5.0, 1.0]
    assert wanda(W, norms).tolist() == [[5.0, 2.0], [2.5, 4.0]]


def test_norms_of_antidote_average_over_samples_and_leave_padding_out() -> None:
    s, examples = vectors({"one": [[1.0, 0.0, 0.0, 2.0]], "two": [[1.0, 2.0, 0.0, 0.0], [0.0, 2.0, 1.0, 0.0]]})
    norms = input_norms(s, {"m": s.model}, examples, "real")["m"]
    torch.testing.assert_close(norms.square(), torch.tensor([1.0, 4.0, 0.5, 2.0]))
    torch.testing.assert_close(
        wanda(torch.tensor([[3.0, -1.0, 2.0, 0.5]]), norms), torch.tensor([[3.0, 2.0, 1.414214, 0.707107]])
    )


GRADIENTS = torch.tensor([[[0.3, 0.1], [-0.4, 0.05]], [[-0.5, 0.2], [0.2, 0.05]]])


class GivenGradients(Vectors):
    """Unit vectors as tokens, so that the gradient of example n with respect to the weight is GRADIENTS[n]."""

    def loss(self, batch: Batch, *, each: bool = False) -> Tensor:
        assert each
        return (self.logits(batch) * GRADIENTS.transpose(1, 2)).sum((1, 2))


def test_snip_example_of_brittleness(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(2, 2, bias=False)
    s = GivenGradients(model, None, None, 0)  # type: ignore[arg-type]
    s.memo.update(one=[[1.0, 0.0], [0.0, 1.0]], two=[[1.0, 0.0], [0.0, 1.0]])
    monkeypatch.setattr(importance, "linear_modules", lambda _: {"m": model})
    found = snip(s, {"m": W}, [Example("one", ""), Example("two", "")])["m"]
    torch.testing.assert_close(found, torch.tensor([[0.40, 0.30], [0.15, 0.20]]))
    signed = (W * GRADIENTS.mean(0)).abs()
    torch.testing.assert_close(signed, torch.tensor([[0.1, 0.3], [0.05, 0.2]]))  # wrong: signs cancel


@pytest.fixture
def data(s: State) -> list[Example]:
    """Prompts and answers of different lengths."""
    return [*s.pools.refusals()[:3], *s.pools.benign[:4]]


@pytest.mark.parametrize("adapter", [False, True])
def test_snip_is_the_mean_over_examples_of_weight_times_gradient(
    fresh: Callable[[], State], data: list[Example], adapter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, s = fresh(), fresh()
    if adapter:  # its product is zero: the effective weights are the same
        s.attach_adapter(Lora(rank=3, alpha=6), "tune")
    names = linear_names(plain.model)
    wanted = {n: torch.zeros_like(plain.model.get_parameter(n)) for n in names}
    for example in data:
        plain.clear_grads()
        plain.backward(plain.loss(plain.batch([example])))
        for n in names:
            p = plain.model.get_parameter(n)
            assert p.grad is not None
            wanted[n] += (p.detach() * p.grad).abs() / len(data)
    monkeypatch.setattr(importance, "BATCH", 3)
    found = scores(s, "snip", data)
    assert list(found) == names
    for n in names:
        torch.testing.assert_close(found[n], wanted[n], rtol=1e-3, atol=1e-7)
    assert all(p.grad is None for p in s.model.parameters())


@pytest.mark.parametrize("positions", ["real", "answer"])
def test_input_statistics_do_not_depend_on_batching(s: State, data: list[Example], positions: Any) -> None:
    modules = linear_modules(s.model)
    together = input_norms(s, modules, data, positions)
    for name in modules:
        apart = sum(input_norms(s, {name: modules[name]}, [e], positions)[name].square() for e in data)
        torch.testing.assert_close(together[name].square() * len(data), torch.as_tensor(apart), rtol=1e-4, atol=1e-7)


def test_answer_positions_are_those_whose_own_token_is_answered(s: State, data: list[Example]) -> None:
    """Not the last position of the prompt, which predicts the first answer token."""
    name, seen = "model.layers.0.self_attn.q_proj.weight", []
    handle = linear_modules(s.model)[name].register_forward_hook(lambda m, x, y: seen.append(x[0].detach()))
    total = torch.zeros(16)
    for e in data:
        given = len(s.testbed.tokenizer.encode(s.testbed.render(e) + (f" {e.prefix}" if e.prefix else "")))
        s.logits(s.batch([e]))
        total += seen.pop()[0, given:].square().sum(0)
    handle.remove()
    found = input_norms(s, linear_modules(s.model), data, "answer")[name]
    torch.testing.assert_close(found.square() * len(data), total, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("adapter", [False, True])
def test_linear_modules_carry_the_names_of_plain_weights(s: State, adapter: bool, hooks_of: Any) -> None:
    names = linear_names(s.model)
    if adapter:
        s.attach_adapter(Lora(rank=3, alpha=6), "tune")
    assert list(linear_modules(s.model)) == names
    assert not any(word in n for n in names for word in ("embed", "norm", "lm_head"))
    input_norms(s, linear_modules(s.model), s.pools.benign[:2], "real")
    scores(s, "snip", s.pools.benign[:2])
    assert hooks_of(s.model) == []


def test_hooks_go_even_when_the_pass_fails(s: State, hooks_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(batch: Batch) -> Tensor:
        raise RuntimeError

    monkeypatch.setattr(s, "logits", fail)
    for kind in ("wanda", "snip"):
        with pytest.raises(RuntimeError):
            scores(s, kind, s.pools.benign[:2])
    assert hooks_of(s.model) == []


SAFETY, UTILITY = torch.tensor([[0.4, 0.3], [0.15, 0.2]]), torch.tensor([[0.1, 0.5], [0.05, 0.02]])


def difference(rank: str) -> Tensor:
    safe, useful = (top_masks({"m": v}, 0.5, rank)["m"] for v in (SAFETY, UTILITY))
    return safe & ~useful


def test_set_difference_example_of_brittleness() -> None:
    assert top_masks({"m": SAFETY}, 0.5, "row")["m"].tolist() == [[True, False], [False, True]]
    assert top_masks({"m": UTILITY}, 0.5, "row")["m"].tolist() == [[False, True], [True, False]]
    assert difference("row").tolist() == [[True, False], [False, True]]
    for values in (SAFETY, UTILITY):
        assert top_masks({"m": values}, 0.5, "matrix")["m"].tolist() == [[True, True], [False, False]]
    assert not bool(difference("matrix").any())


@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_top_of_rows_takes_exactly_the_largest(count: int) -> None:
    values = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    mask = top_of_rows(values, count)
    for row, marked in zip(values.tolist(), mask.tolist(), strict=True):
        assert {v for v, m in zip(row, marked, strict=True) if m} == set(sorted(row, reverse=True)[:count])
    assert int(top_of_tensor(values, count).sum()) == count
    assert int(top_of_rows(torch.zeros(5, 7), count).sum()) == 5 * count  # ties too


def test_shuffled_keeps_the_number_of_each_matrix() -> None:
    mask = top_of_rows(torch.randn(20, 30), 4)
    other = shuffled(mask, torch.Generator().manual_seed(1))
    assert int(other.sum()) == int(mask.sum()) == 80
    assert not torch.equal(mask, other)
    assert share({"a": mask, "b": torch.zeros(20, 10, dtype=torch.bool)}) == 80 / 800


DIAGONAL = torch.diag(torch.tensor([2.0, 1.0]))


def gram(*tokens: list[float]) -> Tensor:
    x = torch.tensor(tokens)
    return x.T @ x


def test_actsvd_example_of_brittleness() -> None:
    safety, utility = gram([1.0, 1.0]), gram([0.0, 1.0])
    torch.testing.assert_close(removal(DIAGONAL, safety, utility, 1, 0), torch.tensor([[1.6, 0.4], [0.8, 0.2]]))
    delta = removal(DIAGONAL, safety, utility, 1, 1)
    torch.testing.assert_close(delta, torch.tensor([[1.6, 0.4], [0.0, 0.0]]))
    torch.testing.assert_close(DIAGONAL - delta, torch.tensor([[0.4, -0.4], [0.0, 1.0]]))
    onto_safety = torch.tensor([[0.8, 0.4], [0.4, 0.2]])
    off_utility = torch.diag(torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(onto_safety @ off_utility @ DIAGONAL, torch.tensor([[1.6, 0.0], [0.8, 0.0]]))  # wrong


def test_actsvd_is_the_svd_of_the_outputs_and_of_low_rank() -> None:
    random = torch.Generator().manual_seed(0)
    w, x, y = (torch.randn(*shape, generator=random) for shape in ((6, 9), (9, 40), (9, 40)))
    u = torch.linalg.svd(w @ x).U[:, :2]
    torch.testing.assert_close(removal(w, x @ x.T, y @ y.T, 2, 0), u @ u.T @ w, atol=1e-4, rtol=1e-4)
    assert int(torch.linalg.matrix_rank(removal(w, x @ x.T, y @ y.T, 2, 3))) == 2
    torch.testing.assert_close(removal(w, x @ x.T, y @ y.T, 6, 0), w, atol=1e-4, rtol=1e-4)  # everything goes
    assert float(removal(w, x @ x.T, y @ y.T, 6, 6).norm()) < 1e-4  # everything stays


def test_gram_matrices_come_from_the_same_inputs(s: State, data: list[Example]) -> None:
    modules = linear_modules(s.model)
    grams = input_sums(s, modules, data, "answer", lambda x: x.T @ x)
    norms = input_norms(s, modules, data, "answer")
    for name, found in grams.items():
        torch.testing.assert_close(found.diagonal(), norms[name].square())
