"""Vaccine (arXiv 2402.01109): align under the worst bounded shift of all attention outputs."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch

from reproduce.api import Method, Stage, sft_step
from reproduce.state import Batch, State


@dataclass(frozen=True, kw_only=True)
class Vaccine(Method):
    """Alignment whose loss stays low when every attention output moves by a joint perturbation (sec. 4, Algorithm 1).

    Two passes on the same batch: the first finds the gradients g_l of the loss with respect to the attention outputs
    and is discarded; the second runs with the shift eps_l = rho * g_l / ||(g_1, ..., g_L)||_2 on all layers at once.
    """

    paper = "vaccine"
    version: ClassVar[int] = 2
    stage = Stage.ALIGNMENT
    knob = "rho"
    values = (1.0, 2.0, 5.0, 10.0)
    rho: float = 2.0  # radius of one L2 ball over all layers, rows and positions (sec. 5.1; reproduce/tuning)
    direction: Literal["gradient", "random"] = "gradient"  # random: the noise control of Table 7, at the same norm
    every: int = 1  # tau: other steps are plain alignment (App. A: accelerated with 100, of about 20000 steps)

    def arms(self) -> dict[str, Self]:
        random = replace(self, direction="random")
        return {
            "main": self,
            "random-direction": random,
            "random-tenfold": replace(random, rho=10 * self.rho),
            "accelerated": replace(self, every=10),
            "rho=0.1": replace(self, rho=0.1),
            "rho=0.5": replace(self, rho=0.5),
        }

    def align_step(self, s: State, batch: Batch) -> float:
        if s.step % self.every:
            return sft_step(s, batch)
        with s.shift("attention", self.perturbation(s, batch)):
            loss = s.loss(batch)
            s.backward(loss)
        return float(loss.detach())

    def perturbation(self, s: State, batch: Batch) -> list[torch.Tensor]:
        """The worst shift to first order, one tensor per block, shaped as its attention output; joint norm rho."""
        with s.read("attention", grads=True) as outputs:
            s.backward(s.loss(batch))
        s.clear_grads()
        grads = [o.grad for o in outputs if o.grad is not None]
        if self.direction == "random":
            rng = s.rng("vaccine", s.step)
            grads = [torch.randn(g.shape, generator=rng).to(g) * batch.real.unsqueeze(-1) for g in grads]
        norm = torch.sqrt(sum((g.square().sum() for g in grads), torch.zeros((), device=batch.ids.device)))
        shifts = [self.rho / (norm + 1e-7) * g for g in grads]
        self._note(s, batch, shifts, outputs)
        return shifts

    @torch.no_grad()
    def _note(self, s: State, batch: Batch, shifts: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        """Remember ||eps_l|| / ||e_l|| at answer positions, averaged over blocks: of the last search, and of all."""
        at = batch.answer
        ratios = [float(e[at].norm() / o[at].norm()) for e, o in zip(shifts, outputs, strict=True)]
        seen = s.memo.setdefault("relative shifts", [])
        seen.append(sum(ratios) / len(ratios))
        mean = {"relative_shift": sum(seen) / len(seen), "relative_shift_last": seen[-1]}
        s.memo.setdefault("mechanisms", {}).update(mean)
