"""Lisa (arXiv 2405.18641): alternate alignment and user steps, each block held near where the other one ended."""

from dataclasses import dataclass, replace
from typing import Self

import torch

from reproduce.api import Method, Stage, sft_step
from reproduce.state import Batch, State


@dataclass(frozen=True, kw_only=True)
class Lisa(Method):
    """Bi-state optimisation with a proximal term (Algorithm 2).

    k_align steps on alignment data, then k_user on user data, and so on. Each block minimises its cross-entropy plus
    rho / 2 times the squared distance of the trainable weights to where the block began. The step budget counts both
    states and the user batch of an alignment step is dropped, as in the authors' code.
    """

    paper = "lisa"
    stage = Stage.FINE_TUNING
    knob = "rho"
    values = (1.0, 10.0, 30.0, 100.0)
    rho: float = 30.0  # proximal weight (sec. 5.1: 1; ours: reproduce/tuning)
    k_align: int = 1  # steps per alignment block (sec. 5.1: 100 of 1000; ours keeps the share and 15 cycles)
    k_user: int = 9  # steps per user block (sec. 5.1: 900 of 1000)
    prox_start: float = 0.0  # share of steps before the penalty acts (paper: 0; authors' code: 0.1)

    def arms(self) -> dict[str, Self]:
        return {"main": self, "bso": replace(self, rho=0.0), "proximal-only": replace(self, k_align=0)}

    def start(self, s: State) -> None:
        s.memo["anchor"] = s.snapshot()
        s.memo["mechanisms"] = {}

    def finetune_step(self, s: State, batch: Batch) -> float:
        aligning = self.aligning(s.step)
        loss = sft_step(s, s.draw("align", len(batch.examples)) if aligning else batch)
        if s.step > self.prox_start * s.steps:
            self._pull(s)
        return loss

    def aligning(self, step: int) -> bool:
        """Is 0-based `step` an alignment step? Every cycle begins with them."""
        return self.k_align > 0 and step % (self.k_align + self.k_user) < self.k_align

    def after_step(self, s: State) -> None:
        if self.k_align and self.aligning(s.step) != self.aligning(s.step + 1):
            ended = "align" if self.aligning(s.step) else "user"
            s.memo["mechanisms"][f"{ended}_block_drift"] = _distance(s.snapshot(), s.memo["anchor"])
            s.memo["anchor"] = s.snapshot()

    @torch.no_grad()
    def _pull(self, s: State) -> None:
        for p, anchor in zip(s.params(), s.memo["anchor"], strict=True):
            pull = self.rho * (p - anchor)
            p.grad = pull if p.grad is None else p.grad + pull


def _distance(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return float(torch.sqrt(sum(((x - y).square().sum() for x, y in zip(a, b, strict=True)), torch.zeros(()))))
