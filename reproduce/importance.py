"""Importance of weights (Wanda, SNIP) and directions (ActSVD) of linear modules; masks of the most important ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reproduce.data import Example
from reproduce.model import Weights, blocks, has_adapter
from reproduce.state import Batch, State

BATCH = 32  # examples of a calibration pass; scores do not depend on it

Positions = Literal["real", "answer"]  # everything but padding, or the answer with its end mark
Masks = dict[str, Tensor]


def linear_modules(model: Any) -> dict[str, nn.Module]:
    """The linear modules of the decoder layers by weight name; with an adapter, the modules that carry it."""
    plain = model.get_base_model() if has_adapter(model) else model
    inside = {id(m) for block in blocks(model) for m in block.layer.modules()}
    within = {name: m for name, m in plain.named_modules() if id(m) in inside}
    carriers = tuple(f"{name}." for name, m in within.items() if hasattr(m, "lora_A"))
    return {
        f"{name}.weight": m
        for name, m in within.items()
        if hasattr(m, "lora_A") or (isinstance(m, nn.Linear) and not name.startswith(carriers))
    }


@contextmanager
def inputs(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Collect what goes into each module in the next forward pass."""
    seen: dict[str, Tensor] = {}

    def keep(_module: nn.Module, given: tuple[Tensor, ...], *, name: str) -> None:
        seen[name] = given[0].detach()

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.callback(module.register_forward_pre_hook(partial(keep, name=name)).remove)
        yield seen


def _batches(s: State, examples: Sequence[Example]) -> Iterator[Batch]:
    for i in range(0, len(examples), BATCH):
        yield s.batch(examples[i : i + BATCH])


@torch.no_grad()
def input_sums(
    s: State,
    modules: Mapping[str, nn.Module],
    examples: Sequence[Example],
    positions: Positions,
    statistic: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Mean over examples of `statistic` of each module's inputs, given as float32 (tokens, features).

    `statistic` must add up over tokens; only `positions` count, never padding.
    """
    sums: dict[str, Tensor] = {}
    for batch in _batches(s, examples):
        counted: Tensor = getattr(batch, positions)
        with inputs(modules) as seen:
            s.logits(batch)
        for name, given in seen.items():
            value = statistic(given[counted].float())
            sums[name] = sums[name] + value if name in sums else value
    return {name: total / len(examples) for name, total in sums.items()}


def input_norms(
    s: State, modules: Mapping[str, nn.Module], examples: Sequence[Example], positions: Positions
) -> dict[str, Tensor]:
    """L2 norm of every input feature, squares summed over tokens and averaged over examples."""
    sums = input_sums(s, modules, examples, positions, lambda x: x.square().sum(0))
    return {name: total.sqrt() for name, total in sums.items()}


def wanda(weight: Tensor, norms: Tensor) -> Tensor:
    """Change of a linear module's output when one weight goes: |W_ij| times the norm of input feature j."""
    return weight.detach().float().abs() * norms


def snip(s: State, weights: Mapping[str, Tensor], examples: Sequence[Example]) -> dict[str, Tensor]:
    """Change of the loss when one weight goes: mean over examples of |W * gradient|, without touching `.grad`.

    The gradient is that of one example's mean answer loss, made of the module's inputs and the gradients of its
    outputs; the absolute value comes before the mean, else signs cancel. `weights` are the effective ones, by name.
    """
    modules = {n: m for n, m in linear_modules(s.model).items() if n in weights}
    sums = {name: torch.zeros_like(w, dtype=torch.float32) for name, w in weights.items()}
    for batch in _batches(s, examples):
        outputs: dict[str, Tensor] = {}
        with inputs(modules) as seen, ExitStack() as hooks:
            for name, module in modules.items():
                hooks.callback(module.register_forward_hook(partial(_keep_output, kept=outputs, name=name)).remove)
            losses = s.loss(batch, each=True)
        s.cost.passes += 1
        slopes = torch.autograd.grad(losses.sum(), list(outputs.values()))
        for name, slope in zip(outputs, slopes, strict=True):
            for g, x in zip(slope.float(), seen[name].float(), strict=True):
                sums[name] += (g.T @ x).abs()
    return {name: weights[name].float().abs() * total / len(examples) for name, total in sums.items()}


def _keep_output(_module: nn.Module, _given: Any, output: Tensor, *, kept: dict[str, Tensor], name: str) -> None:
    kept[name] = output


def scores(s: State, score: str, examples: Sequence[Example], names: Sequence[str] | None = None) -> Weights:
    """SNIP or Wanda scores of linear weights over answer positions."""
    modules = {n: m for n, m in linear_modules(s.model).items() if names is None or n in names}
    effective = s.effective_weights()
    weights = {n: effective[n] for n in modules}
    if score == "snip":
        return snip(s, weights, examples)
    norms = input_norms(s, modules, examples, "answer")
    return {n: wanda(w, norms[n]) for n, w in weights.items()}


def top_of_rows(scores: Tensor, count: int) -> Tensor:
    """True at the `count` largest scores of every row; of equal scores the later columns."""
    order = scores.argsort(dim=1, stable=True)
    chosen = order[:, scores.shape[1] - count :]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, chosen, value=True)


def top_of_tensor(scores: Tensor, count: int) -> Tensor:
    """True at the `count` largest scores of the whole matrix."""
    return top_of_rows(scores.reshape(1, -1), count).view(scores.shape)


def top_masks(found: Mapping[str, Tensor], fraction: float, rank: str) -> Masks:
    """True at the top `fraction` of every row, or of every matrix, rounded down."""
    if rank == "row":
        return {n: top_of_rows(v, int(fraction * v.shape[1])) for n, v in found.items()}
    return {n: top_of_tensor(v, int(fraction * v.numel())) for n, v in found.items()}


def shuffled(mask: Tensor, rng: torch.Generator) -> Tensor:
    """As many marks as in `mask`, anywhere in the matrix."""
    order = torch.randperm(mask.numel(), generator=rng).to(mask.device)
    return mask.flatten()[order].view(mask.shape)


def share(masks: Masks) -> float:
    """Marked entries over all entries."""
    return sum(int(m.sum()) for m in masks.values()) / max(1, sum(m.numel() for m in masks.values()))


def removal(weight: Tensor, safety: Tensor, utility: Tensor, cut: int, kept: int) -> Tensor:
    """ActSVD: (I - P_u) P_s W, the part of W that serves safety and not utility (sec. 3).

    P_s and P_u project onto the first `cut` / `kept` left singular vectors of W X, uncentred; `safety` and `utility`
    are the Gram matrices X X^T of the module's inputs.
    """
    w = weight.detach().double()
    gone = _onto(w, safety, cut) @ w
    return (gone - _onto(w, utility, kept) @ gone).to(weight.dtype)


def _onto(w: Tensor, gram: Tensor, count: int) -> Tensor:
    _, vectors = torch.linalg.eigh(w @ gram.double() @ w.T)
    first = vectors.flip(1)[:, :count]
    projector: Tensor = first @ first.T
    return projector
