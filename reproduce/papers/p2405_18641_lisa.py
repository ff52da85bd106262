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
    version = 2
    knob = "rho"
    values = (1.0, 10.0, 30.0, 100.0)
    rho: float = 100.0  # proximal weight (sec. 5.1: 1; ours: reproduce/tuning)
    k_align: int = 2  # steps per alignment block (sec. 5.1: 100 of 1000); the first one starts at its anchor, unpulled
    k_user: int = 18  # steps per user block (sec. 5.1: 900 of 1000)
    prox_start: float = 0.0  # share of steps before the penalty acts (paper: 0; authors' code: 0.1)

    def arms(self) -> dict[str, Self]:
        bso = replace(self, rho=0.0)
        return {
            "main": self,
            "bso": bso,
            "bso-fifth": replace(bso, k_align=4, k_user=16),
            "bso-half": replace(bso, k_align=10, k_user=10),
            "proximal-only": replace(self, k_align=0),
            "delayed": replace(self, prox_start=0.1),
        }

    def start(self, s: State) -> None:
        s.memo["anchor"] = s.snapshot()
        s.memo["mechanisms"] = {}

    def finetune_step(self, s: State, batch: Batch) -> float:
        loss = sft_step(s, s.draw("align", len(batch.examples)) if self.aligning(s.step) else batch)
        if s.step > self.prox_start * s.steps:
            self._pull(s)
        return loss

    def aligning(self, step: int) -> bool:
        """Is 0-based `step` an alignment step? Every cycle begins with them."""
        return self.k_align > 0 and step % (self.k_align + self.k_user) < self.k_align

    def ends_block(self, s: State) -> bool:
        """Is this the last step of a whole block? Without a second state the run is one block."""
        if self.k_align and self.k_user:
            return self.aligning(s.step) != self.aligning(s.step + 1)
        return s.step + 1 == s.steps

    def after_step(self, s: State) -> None:
        s.memo["mechanisms"]["ended_aligning"] = float(self.aligning(s.step))
        if self.ends_block(s):
            now = s.snapshot()
            self._note(s, "drift", _norm([w - a for w, a in zip(now, s.memo["anchor"], strict=True)]))
            s.memo["anchor"] = now

    @torch.no_grad()
    def _pull(self, s: State) -> None:
        pulls = [self.rho * (p - anchor) for p, anchor in zip(s.params(), s.memo["anchor"], strict=True)]
        if self.ends_block(s):
            self._note(s, "pull_ratio", _norm(pulls) / max(_norm(s.grads()), 1e-12))
        for p, pull in zip(s.params(), pulls, strict=True):
            p.grad = pull if p.grad is None else p.grad + pull

    def _note(self, s: State, name: str, value: float) -> None:
        """Remember a statistic of the block that ends; the last whole block of each state stays."""
        s.memo["mechanisms"][f"{'align' if self.aligning(s.step) else 'user'}_block_{name}"] = value


def _norm(tensors: list[torch.Tensor]) -> float:
    return float(torch.sqrt(sum((t.square().sum() for t in tensors), torch.zeros(()))))
