"""What data attribution compares: the gradient of each example, and the model's last state of it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, normalize

from reproduce.data import Example
from reproduce.generate import BATCH
from reproduce.state import IGNORED, Batch, State

ROOM = 2**24  # gradient values held at a time


def first_tokens(batch: Batch, count: int) -> Batch:
    """The batch with loss on the first `count` answer tokens only."""
    late = batch.answer.cumsum(1) > count
    return replace(batch, labels=batch.labels.masked_fill(late, IGNORED))


def gradients(s: State, examples: Sequence[Example], tokens: int | None = None) -> Iterator[Tensor]:
    """Gradient of each example's mean answer loss by all trainable parameters, float32 rows, a few examples at a time.

    With `tokens` the loss stops after so many answer tokens. The model is left as it was, `.grad` included.
    """
    trained = {n: p.detach() for n, p in s.model.named_parameters() if p.requires_grad}
    rows = max(1, ROOM // sum(p.numel() for p in trained.values()))

    def loss(values: dict[str, Tensor], ids: Tensor, labels: Tensor) -> Tensor:
        asked = {"input_ids": ids[None], "use_cache": False}
        logits: Tensor = functional_call(s.model, values, kwargs=asked).logits[0, :-1]
        total = cross_entropy(logits.float(), labels[1:], ignore_index=IGNORED, reduction="sum")
        return total / (labels[1:] != IGNORED).sum()

    each = vmap(grad(loss), in_dims=(None, 0, 0))
    for start in range(0, len(examples), rows):
        batch = s.batch(examples[start : start + rows])
        if tokens is not None:
            batch = first_tokens(batch, tokens)
        with sdpa_kernel(SDPBackend.MATH):  # the others have no rule for vmap
            found = each(trained, batch.ids, batch.labels)
        yield torch.cat([found[n].flatten(1).float() for n in trained], dim=1)


def mean_direction(s: State, examples: Sequence[Example], tokens: int | None = None) -> Tensor:
    """Mean of the examples' unit-norm gradients; shorter than 1 the less they agree."""
    total = sum(normalize(g, dim=1).sum(0) for g in gradients(s, examples, tokens))
    assert isinstance(total, Tensor)
    return total / len(examples)


def alignment(s: State, examples: Sequence[Example], directions: Tensor) -> Tensor:
    """Dot products (examples, directions) of each example's unit-norm gradient with each row of `directions`."""
    return torch.cat([normalize(g, dim=1) @ directions.T for g in gradients(s, examples)])


@torch.no_grad()
def end_states(s: State, examples: Sequence[Example]) -> Tensor:
    """Last-layer states (examples, width) after the final norm, at the end mark of each answer, in float32."""
    found = []
    for start in range(0, len(examples), BATCH):
        batch = s.batch(examples[start : start + BATCH])
        states = s.model.get_decoder()(input_ids=batch.ids, use_cache=False).last_hidden_state
        found.append(states[torch.arange(len(states)), batch.real.sum(1) - 1].float())
    return torch.cat(found)


def cosines(rows: Tensor, columns: Tensor) -> Tensor:
    """Cosines (rows, columns) of all pairs of vectors."""
    return normalize(rows, dim=1) @ normalize(columns, dim=1).T
