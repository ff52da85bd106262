"""Booster (arXiv 2409.01586): align where one step on harmful data lowers the harmful loss as little as possible."""

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from reproduce.api import Method, Stage, sft_step
from reproduce.papers.p2402_01109_vaccine import Vaccine
from reproduce.state import Batch, State


@dataclass(frozen=True, kw_only=True)
class Booster(Method):
    """Alignment that attenuates the harmful perturbation (Algorithm 1, from the authors' code and second-hand notes).

    Minimises f(w) + lambda * (h(w) - h(w~)) with w~ = w - alpha * grad h(w) / ||grad h(w)||, f the loss on alignment
    data and h that on harmful data. The inner step, its normalisation included, counts as the identity when
    differentiated: grad f(w) + lambda * (grad h(w) - grad h(w~)), both harmful gradients on one batch.
    """

    paper = "booster"
    stage = Stage.ALIGNMENT
    knob = "lam"
    values = (0.03, 0.1, 0.3, 1.0)
    lam: float = 0.3  # lambda (paper: 5; ours: reproduce/tuning)
    alpha: float = 0.03  # length of the step over all trainable tensors (paper: 0.1); ours: h falls by an eighth
    direction: Literal["gradient", "random"] = "gradient"  # of the simulated step; random: a control
    rho: float = 0.0  # above 0: f under Vaccine's perturbation of that radius (the paper's Vaccine+Booster)

    def arms(self) -> dict[str, Self]:
        return {
            "main": self,
            "random-direction": replace(self, direction="random"),
            "small-alpha": replace(self, alpha=self.alpha / 10),
            "large-alpha": replace(self, alpha=self.alpha * 10),
            "no-step": replace(self, alpha=0.0),
            "with-vaccine": replace(self, rho=Vaccine().rho),
        }

    def start(self, s: State) -> None:
        s.add_stream("harmful", [pair.harmful() for pair in s.pools.defender_harmful])
        s.memo["mechanisms"] = {}

    def align_step(self, s: State, batch: Batch) -> float:
        extra = self.attenuation(s, s.draw("harmful", len(batch.examples)))
        loss = Vaccine(rho=self.rho).align_step(s, batch) if self.rho else sft_step(s, batch)
        self._log_balance(s, norm(extra))
        for p, term in zip(s.params(), extra, strict=True):
            p.grad = term if p.grad is None else p.grad + term
        return loss

    def attenuation(self, s: State, harmful: Batch) -> list[Tensor]:
        """lambda * (grad h(w) - grad h(w~)), one tensor per trainable parameter; these are back at w afterwards."""
        here, before = _gradient(s, harmful)
        kept = s.snapshot()
        ahead = self._direction(s, here)
        scale = self.alpha / (norm(ahead) + 1e-7)
        s.restore([w - scale * step for w, step in zip(kept, ahead, strict=True)])
        there, after = _gradient(s, harmful)
        s.restore(kept)
        drop = (before - after) / before
        s.memo["mechanisms"].setdefault("simulated_drop_first", drop)
        s.memo["mechanisms"]["simulated_drop_last"] = drop
        return [self.lam * (a - b) for a, b in zip(here, there, strict=True)]

    def _direction(self, s: State, gradient: list[Tensor]) -> list[Tensor]:
        if self.direction == "gradient":
            return gradient
        rng = s.rng("booster", s.step)
        return [torch.randn(g.shape, generator=rng).to(g) for g in gradient]

    def _log_balance(self, s: State, extra: Tensor) -> None:
        """Norm of the weighted difference over that of the alignment gradient, a mean over the steps so far."""
        ratio = float(extra / norm(s.grads()).clamp_min(1e-12))
        mean = s.memo["mechanisms"].get("gradient_ratio", 0.0)
        s.memo["mechanisms"]["gradient_ratio"] = mean + (ratio - mean) / (s.step + 1)


def _gradient(s: State, batch: Batch) -> tuple[list[Tensor], float]:
    """Gradient and value of the loss of `batch`; `.grad` is empty before and after."""
    s.clear_grads()
    loss = sft_step(s, batch)
    grads = s.grads()
    s.clear_grads()
    return grads, loss


def norm(tensors: list[Tensor]) -> Tensor:
    """Joint L2 norm of a list of tensors."""
    return torch.sqrt(sum((t.square().sum() for t in tensors), torch.zeros((), device=tensors[0].device)))
