"""The survey's mechanism statistics over the steps of fine-tuning: forgetting, revitalisation, embedding drift."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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
        with self._uncounted():
            self._before = attention_outputs(s, self._batches["alignment_loss"])
        self.curves: dict[str, list[float]] = {"step": []}

    @contextmanager
    def _uncounted(self) -> Iterator[None]:
        """Passes made in here are the measurement's, not the method's."""
        cost = self._s.cost.passes, self._s.cost.tokens
        yield
        self._s.cost.passes, self._s.cost.tokens = cost

    def now(self) -> dict[str, float]:
        """All statistics of the model as it is; its mode, gradients and cost counters stay as they were."""
        with self._uncounted():
            values = {name: mean_loss(self._s, batch) for name, batch in self._batches.items()}
            moved = attention_outputs(self._s, self._batches["alignment_loss"]) - self._before
        return {**values, "embedding_drift": float(moved.square().sum())}

    def measure(self, step: int) -> None:
        """Add one point to every curve."""
        self.curves["step"].append(step)
        for name, value in self.now().items():
            self.curves.setdefault(name, []).append(value)

    def summary(self) -> dict[str, float]:
        """The statistics now, after any repair, and the losses from before fine-tuning."""
        values = self.now()
        before = {f"{n}_before": self.curves[n][0] for n in self._batches}
        return {**values, **before, "embedding_drift_per_token": values["embedding_drift"] / self._before.shape[1]}
