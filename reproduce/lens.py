"""Logit lens: what each part of a model adds to a difference of logits at the last prompt token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reproduce.model import final_norm
from reproduce.state import Batch, State

EXACT = 1e-4  # by how much the contributions of an example may miss its logit difference


@dataclass(frozen=True)
class Contrast:
    """Mean logit of one set of tokens minus that of another."""

    toward: tuple[int, ...]
    away: tuple[int, ...]

    def of(self, logits: Tensor) -> Tensor:
        """The difference along the last dimension."""
        return logits[..., self.toward].mean(-1) - logits[..., self.away].mean(-1)

    def direction(self, unembedding: Tensor) -> Tensor:
        """The same difference as a direction of the hidden space, from a (vocabulary, width) matrix."""
        return unembedding[list(self.toward)].mean(0) - unembedding[list(self.away)].mean(0)


@dataclass(frozen=True)
class Lens:
    """Seen at the last prompt token, over examples: `parts` add up to `total`, the model's own logit difference.

    `parts` by name (embedding, "attention 1", "mlp 1", ...) take the scale of the final stream; `residual` (layers,
    examples) is the stream after each layer under its own scale; `states` (layers, examples, width) are these streams.
    """

    parts: dict[str, Tensor]
    residual: Tensor
    total: Tensor
    states: Tensor


def last_prompt_token(values: Tensor, batch: Batch) -> Tensor:
    """What `values` (batch, length, ...) holds at the last token before the answer."""
    return values[torch.arange(len(values)), batch.prompt.sum(1) - 1]


def scale(stream: Tensor, epsilon: float) -> Tensor:
    """Root mean square over the last dimension, as RMS norm divides by it."""
    return (stream.square().mean(-1) + epsilon).sqrt()


def contributions(parts: Tensor, direction: Tensor, epsilon: float) -> Tensor:
    """What each part (parts, ..., width) of a stream adds along `direction`, all under the scale of their sum."""
    added: Tensor = parts @ direction / scale(parts.sum(0), epsilon)
    return added


@torch.no_grad()
def look(s: State, batch: Batch, contrast: Contrast) -> Lens:
    """Decompose the logit difference of every example. Raises ValueError where it is no sum of the parts' shares."""
    with s.read("attention") as attention, s.read("mlp") as mlp, s.read("layer") as layers, s.uncounted():
        total = contrast.of(last_prompt_token(s.logits(batch), batch).double())
    embedding = s.model.get_input_embeddings()(batch.ids)
    pairs = zip(attention, mlp, strict=True)
    named = {"embedding": embedding, **{f"{n} {i}": h for i, (a, m) in enumerate(pairs, 1)
                                        for n, h in (("attention", a), ("mlp", m))}}  # fmt: skip
    norm: Any = final_norm(s.model)
    direction = norm.weight.double() * contrast.direction(s.model.get_output_embeddings().weight.double())
    epsilon = norm.variance_epsilon
    parts = contributions(_stacked(list(named.values()), batch), direction, epsilon)
    missed = float((parts.sum(0) - total).abs().max())
    if not missed <= EXACT:
        raise ValueError(f"logit lens: parts miss the logits by {missed:.3g}; it needs float32 and a plain RMS norm")
    states = _stacked(layers, batch)
    return Lens(
        parts=dict(zip(named, parts, strict=True)), residual=states @ direction / scale(states, epsilon), total=total,
        states=states,
    )  # fmt: skip


def _stacked(hidden: Sequence[Tensor], batch: Batch) -> Tensor:
    return torch.stack([last_prompt_token(h, batch).double() for h in hidden])
