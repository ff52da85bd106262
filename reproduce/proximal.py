"""Two alternating states, each held near where the other one ended, for any loss (Lisa, arXiv 2405.18641)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from reproduce.state import State


@dataclass
class Proximal:
    """Whose turn it is, and the pull of rho / 2 times the squared distance to the anchor."""

    rho: float
    k_align: int
    k_user: int
    anchor: list[Tensor] = field(default_factory=list)

    def aligning(self, step: int) -> bool:
        """Is 0-based `step` one on the defender's data? Every cycle begins with them."""
        return step % (self.k_align + self.k_user) < self.k_align

    @torch.no_grad()
    def pull(self, s: State) -> None:
        """Add rho * (weights - anchor) to the gradients; a block that begins is anchored where it is."""
        if s.step == 0 or self.aligning(s.step) != self.aligning(s.step - 1):
            self.anchor = s.snapshot()
        for p, anchor in zip(s.params(), self.anchor, strict=True):
            away = self.rho * (p - anchor)
            p.grad = away if p.grad is None else p.grad + away
