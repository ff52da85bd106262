"""The survey's mechanism statistics over the steps of fine-tuning: forgetting, revitalisation, embedding drift."""

from collections.abc import Sequence

import torch
from torch import Tensor

from reproduce.data import Example
from reproduce.state import Batch, State


@torch.no_grad()
def mean_loss(s: State, batch: Batch) -> float:
    return float(s.loss(batch))


@torch.no_grad()
def attention_outputs(s: State, batch: Batch) -> Tensor:
    """Outputs of all attention parts at real positions, (blocks, tokens, width)."""
    with s.read("attention") as outputs:
        s.logits(batch)
    return torch.stack([o[batch.real] for o in outputs]).float()


class Probe:
    """Fixed batches on which the statistics are measured, with the attention outputs from before fine-tuning.

    - alignment_loss: mean cross-entropy on refusals of the alignment data (its growth is forgetting);
    - harmful_loss_seen / _unseen: the same on harmful pairs of the user's data / of nobody's (its fall is
      revitalisation);
    - embedding_drift: sum over blocks and tokens of the squared distance of attention outputs from before
      fine-tuning, on alignment data, padding left out (Vaccine's callback); embedding_drift_per_token divides by the
      tokens.
    """

    def __init__(
        self, s: State, refusals: Sequence[Example], seen: Sequence[Example], unseen: Sequence[Example]
    ) -> None:
        self._s = s
        self._batches = {"alignment_loss": s.batch(refusals), "harmful_loss_unseen": s.batch(unseen)}
        if seen:
            self._batches["harmful_loss_seen"] = s.batch(seen)
        self._before = attention_outputs(s, self._batches["alignment_loss"])
        self.curves: dict[str, list[float]] = {"step": []}

    def measure(self, step: int) -> None:
        """Add one point to every curve; the model's mode, gradients and cost counters stay as they were."""
        s, cost = self._s, (self._s.cost.passes, self._s.cost.tokens)
        for name, batch in self._batches.items():
            self.curves.setdefault(name, []).append(mean_loss(s, batch))
        moved = attention_outputs(s, self._batches["alignment_loss"]) - self._before
        self.curves["step"].append(step)
        self.curves.setdefault("embedding_drift", []).append(float(moved.square().sum()))
        s.cost.passes, s.cost.tokens = cost

    def summary(self) -> dict[str, float]:
        """First and last value of every curve."""
        result = {}
        for name, values in self.curves.items():
            if name != "step":
                result[name] = values[-1]
                result[f"{name}_before"] = values[0]
        result["embedding_drift_per_token"] = result["embedding_drift"] / self._before.shape[1]
        del result["embedding_drift_before"]
        return result
