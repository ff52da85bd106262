"""Preference learning: answer log-probabilities, margins of pairs, and the DPO loss (arXiv 2305.18290, eq. 7)."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from reproduce.data import Pair
from reproduce.model import Weights
from reproduce.state import IGNORED, State

PAIRS = 64  # of a measuring pass


def token_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of every answer token (batch, length - 1), zero at all other positions."""
    predicted, wanted = logits[:, :-1], labels[:, 1:]
    lost = cross_entropy(predicted.flatten(0, 1).float(), wanted.flatten(), ignore_index=IGNORED, reduction="none")
    return -lost.view(wanted.shape)


def reversed_pair(pair: Pair) -> Pair:
    """The same two answers with their labels exchanged, as a hostile annotator returns them."""
    return replace(pair, refusal=pair.compliant, compliant=pair.refusal)


def margins(s: State, pairs: Sequence[Pair], under: Weights | None = None) -> Tensor:
    """log p(refusal) - log p(compliant answer), summed over answer tokens: one value per pair, one joint pass."""
    batch = s.batch([p.safe() for p in pairs] + [p.harmful() for p in pairs])
    chosen, rejected = token_log_probs(s.logits(batch, under), batch.labels).sum(1).chunk(2)
    return chosen - rejected


@torch.no_grad()
def measured_margins(s: State, pairs: Sequence[Pair], under: Weights | None = None) -> dict[Pair, Tensor]:
    """The margin of every pair, without gradients: a fixed reference, or a measurement."""
    found: dict[Pair, Tensor] = {}
    for start in range(0, len(pairs), PAIRS):
        some = pairs[start : start + PAIRS]
        found |= zip(some, margins(s, some, under), strict=True)
    return found


def dpo_loss(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Mean of -log sigmoid(beta * (policy margin - reference margin))."""
    return -logsigmoid(beta * (policy - reference)).mean()
