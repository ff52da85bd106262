"""Safe LoRA (arXiv 2405.16833): project the updates that leave the alignment subspace, after fine-tuning."""

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from reproduce.api import Method, Stage
from reproduce.model import linear_names
from reproduce.state import State

NEVER_ALIGNED = 1e-8  # modules whose alignment shift is smaller than this are left alone


@dataclass(frozen=True, kw_only=True)
class SafeLora(Method):
    """Training- and data-free repair of a LoRA adapter with the weights of the base and the aligned model (sec. 3).

    For each linear module, V = W_aligned - W_base and C = V V^T / ||V||_F. Modules are ranked by the cosine s between
    C B A and B A; the least aligned ones get B <- C B (output side), A stays. Without an adapter of the user's own
    (full fine-tuning, single-LoRA) the same operator acts on the module's full update. All arithmetic in float32.
    """

    paper = "safe-lora"
    stage = Stage.POST_FINE_TUNING
    knob = "fraction"
    values = (0.1, 0.25, 0.5, 1.0)
    fraction: float = 0.5  # share of modules to project (code: 10 layers; ours: reproduce/tuning)
    threshold: float | None = None  # instead of a share: project where s <= threshold (paper's tau)
    select: Literal["lowest", "highest", "random"] = "lowest"  # by s; the others are controls
    operator: Literal["paper", "orthogonal", "shrink"] = "paper"  # shrink: c B with the norm of the paper's C B A

    def arms(self) -> dict[str, Self]:
        return {
            "main": self,
            "shrink": replace(self, operator="shrink"),
            "random-modules": replace(self, select="random"),
            "most-similar-modules": replace(self, select="highest"),
            "orthogonal": replace(self, operator="orthogonal"),
            "all-modules": replace(self, fraction=1.0),
        }

    def start(self, s: State) -> None:
        s.memo["own_adapter"] = not any(bool(p.b.any()) for p in s.adapters().values())

    @torch.no_grad()
    def repair(self, s: State) -> None:
        if not s.memo["own_adapter"]:
            s.merge_adapter()  # it aligned the model too: only the difference to the aligned weights is the user's
        shift, pairs = s.delta("aligned", "base"), s.adapters()
        update = {n: p.update() for n, p in pairs.items()} if pairs else s.delta("tuned", "aligned")
        names = [n for n in (pairs or linear_names(s.model)) if shift[n].norm() >= NEVER_ALIGNED]
        similarity = {n: cosine(projector(shift[n]), update[n]) for n in names}
        chosen = self.choose(similarity, s)
        ratios = []
        for name in chosen:
            operator = self.matrix(shift[name], update[name])
            moved = operator @ update[name].float()
            ratios.append(float(moved.norm() / update[name].norm().clamp_min(1e-12)))
            if pairs:
                pairs[name].b.copy_(operator @ pairs[name].b.float())
            else:
                s.model.get_parameter(name).copy_(s.reference("aligned")[name] + moved)
        values = sorted(similarity.values())
        s.memo["mechanisms"] = {
            "similarity_min": values[0], "similarity_median": values[len(values) // 2], "similarity_max": values[-1],
            "projected_modules": len(chosen), "modules": len(names),
            "projected_norm_ratio": sum(ratios) / max(1, len(ratios)),
        }  # fmt: skip

    def choose(self, similarity: dict[str, float], s: State) -> list[str]:
        """Names of the modules to project; ties with the last one of a share come along, as in the code."""
        if self.threshold is not None:
            return [n for n, value in similarity.items() if value <= self.threshold]
        count = round(self.fraction * len(similarity))
        if self.select == "random":
            order = torch.randperm(len(similarity), generator=s.rng("safe-lora", "modules")).tolist()
            return [list(similarity)[i] for i in order[:count]]
        sign = 1 if self.select == "lowest" else -1
        ranked = sorted(similarity, key=lambda n: sign * similarity[n])
        if not count:
            return []
        last = sign * similarity[ranked[count - 1]]
        return [n for n in ranked if sign * similarity[n] <= last]

    def matrix(self, shift: Tensor, update: Tensor) -> Tensor:
        """The (out, out) matrix that multiplies B from the left."""
        paper = projector(shift)
        if self.operator == "paper":
            return paper
        if self.operator == "orthogonal":
            u, sigma, _ = torch.linalg.svd(shift.float(), full_matrices=False)
            u = u[:, sigma > sigma[0] * 1e-5]
            onto: Tensor = u @ u.T
            return onto
        scale = (paper @ update.float()).norm() / update.float().norm().clamp_min(1e-12)
        shrink: Tensor = scale * torch.eye(len(paper), device=paper.device)
        return shrink


def projector(shift: Tensor) -> Tensor:
    """C = V V^T / ||V||_F, symmetric and positive semi-definite, (out, out)."""
    v = shift.float()
    c: Tensor = v @ v.T / v.norm()
    return c


def cosine(operator: Tensor, update: Tensor) -> float:
    """Similarity of C dW and dW as vectors, rounded to five decimals as in the code."""
    moved, plain = (operator @ update.float()).flatten(), update.float().flatten()
    return round(float(torch.dot(moved, plain) / (moved.norm() * plain.norm()).clamp_min(1e-12)), 5)
