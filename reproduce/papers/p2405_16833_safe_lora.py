"""Safe LoRA (arXiv 2405.16833): project the updates that leave the alignment subspace, after fine-tuning."""

from dataclasses import dataclass, replace
from statistics import fmean
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from reproduce.api import Figure, Finding, Findings, Method, Stage, Study
from reproduce.baselines import Poison
from reproduce.evaluate import rate
from reproduce.lab import Lab
from reproduce.model import linear_names
from reproduce.papers.p2405_09055_somf import Somf
from reproduce.papers.p2408_09600_antidote import gamma
from reproduce.run import Run
from reproduce.state import State
from reproduce.tradeoff import Point

NEVER_ALIGNED = 1e-8  # modules whose alignment shift is smaller than this are left alone


@dataclass(frozen=True, kw_only=True)
class SafeLora(Method):
    """Training- and data-free repair of a LoRA adapter with the weights of the base and the aligned model (sec. 3).

    For each linear module, V = W_aligned - W_base and C = V V^T / ||V||_F. Modules are ranked by the cosine s between
    C B A and B A; the least aligned ones get B <- C B (output side), A stays. Without an adapter of the user's own
    (full fine-tuning, single-LoRA) the same operator acts on the module's full update. All arithmetic in float32.
    """

    paper = "safe-lora"
    version: ClassVar[int] = 2
    stage = Stage.POST_FINE_TUNING
    knob = "fraction"
    values = (0.1, 0.25, 0.5, 1.0)
    fraction: float = 0.5  # share of modules to project (code: 10 layers; ours: reproduce/tuning)
    threshold: float | None = None  # instead of a share: project where s <= threshold (paper's tau)
    select: Literal["lowest", "highest", "random"] = "lowest"  # by s; the others are controls
    draw: int = 0  # which random selection
    rank: int = 0  # cut V to its best approximation of this rank, as an aligning adapter would leave it; 0: V itself
    operator: Literal["paper", "orthogonal", "shrink", "interpolate"] = "paper"  # the last two: controls, see `repair`

    def arms(self) -> dict[str, Self]:
        return {
            "main": self,
            "shrink": replace(self, operator="shrink"),
            "interpolation": replace(self, operator="interpolate"),
            "random-modules": replace(self, select="random"),
            "most-similar-modules": replace(self, select="highest"),
            "orthogonal": replace(self, operator="orthogonal"),
            "low-rank-shift": replace(self, rank=16),
            "all-modules": replace(self, fraction=1.0),
        }

    def start(self, s: State) -> None:
        s.memo["own_adapter"] = not any(bool(p.b.any()) for p in s.adapters().values())

    @torch.no_grad()
    def repair(self, s: State) -> None:
        """Project the chosen modules, or apply a control.

        shrink: c B with the norm of C B A. interpolate: the whole update times the smallest factor that serves the
        task as well as projecting does, on validation prompts.
        """
        if not s.memo["own_adapter"]:
            s.merge_adapter()  # it aligned the model too: only the difference to the aligned weights is the user's
        tuned = s.effective_weights() if self.operator == "interpolate" else {}
        shift, pairs = s.delta("aligned", "base"), s.adapters()
        update = {n: p.update() for n, p in pairs.items()} if pairs else s.delta("tuned", "aligned")
        names = [n for n in (pairs or linear_names(s.model)) if shift[n].norm() >= NEVER_ALIGNED]
        if self.rank:
            shift = {n: low_rank(shift[n], self.rank) for n in names}
        similarity = {n: cosine(alignment_operator(shift[n]), update[n]) for n in names}
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
        if tuned:
            s.merge_adapter()
            factor = Somf(control="equal-accuracy").match(s, s.reference("aligned"), tuned)
            s.memo["mechanisms"]["interpolation"] = factor

    def choose(self, similarity: dict[str, float], s: State) -> list[str]:
        """Names of the modules to project; ties with the last one of a share come along, as in the code."""
        if self.threshold is not None:
            return [n for n, value in similarity.items() if value <= self.threshold]
        count = round(self.fraction * len(similarity))
        if self.select == "random":
            order = torch.randperm(len(similarity), generator=s.rng("safe-lora", "modules", self.draw)).tolist()
            return [list(similarity)[i] for i in order[:count]]
        sign = 1 if self.select == "lowest" else -1
        ranked = sorted(similarity, key=lambda n: sign * similarity[n])
        if not count:
            return []
        last = sign * similarity[ranked[count - 1]]
        return [n for n in ranked if sign * similarity[n] <= last]

    def matrix(self, shift: Tensor, update: Tensor) -> Tensor:
        """The (out, out) matrix that multiplies B from the left."""
        paper = alignment_operator(shift)
        if self.operator in ("paper", "interpolate"):
            return paper
        if self.operator == "orthogonal":
            u, sigma, _ = torch.linalg.svd(shift.float(), full_matrices=False)
            u = u[:, sigma > sigma[0] * 1e-5]
            onto: Tensor = u @ u.T
            return onto
        scale = (paper @ update.float()).norm() / update.float().norm().clamp_min(1e-12)
        shrink: Tensor = scale * torch.eye(len(paper), device=paper.device)
        return shrink


def alignment_operator(shift: Tensor) -> Tensor:
    """C = V V^T / ||V||_F, symmetric and positive semi-definite, (out, out); not idempotent, so no projector."""
    v = shift.float()
    c: Tensor = v @ v.T / v.norm()
    return c


def low_rank(shift: Tensor, rank: int) -> Tensor:
    """The best approximation of this rank (Eckart-Young), same shape."""
    u, sigma, v = torch.linalg.svd(shift.float(), full_matrices=False)
    cut: Tensor = u[:, :rank] * sigma[:rank] @ v[:rank]
    return cut


def cosine(operator: Tensor, update: Tensor) -> float:
    """Similarity of C dW and dW as vectors, rounded to five decimals as in the code."""
    moved, plain = (operator @ update.float()).flatten(), update.float().flatten()
    return round(float(torch.dot(moved, plain) / (moved.norm() * plain.norm()).clamp_min(1e-12)), 5)


SAYS = {
    "harm_gain_over_random_modules": ("points", "mean harmful score of random selections minus that of the lowest s"),
    "accuracy_gain_over_random_modules": ("points", "accuracy of the lowest s minus the mean of random selections"),
    "harm_fraction_gamma": ("correlation", "harmful score against the share of modules, ties left out"),
    "accuracy_fraction_gamma": ("correlation", "accuracy against the share of modules, ties left out"),
}


@dataclass(frozen=True, kw_only=True)
class SafeLoraSelection(Study):
    """The share of projected modules against harm and accuracy, and many random selections beside the lowest s.

    Protocol as in Vaccine (2402.01109, sec. 5.1), under the strong attack; every point is an ordinary run record.
    """

    paper = "safe-lora"
    version: ClassVar[int] = 2
    draws: int = 10
    ratio: float = 0.1
    n: int = 1000

    def measure(self, lab: Lab) -> Findings:
        line = [self._point(lab, SafeLora(fraction=f)) for f in SafeLora.values]
        drawn = [self._point(lab, SafeLora(select="random", draw=i)) for i in range(self.draws)]
        accuracy, harm = self._point(lab, SafeLora())
        values = {
            "harm_gain_over_random_modules": fmean(h for _, h in drawn) - harm,
            "accuracy_gain_over_random_modules": accuracy - fmean(a for a, _ in drawn),
            "harm_fraction_gamma": gamma([h for _, h in line]),
            "accuracy_fraction_gamma": gamma([a for a, _ in line]),
        }
        y = {"harmful score": [h for _, h in line], "accuracy": [a for a, _ in line]}
        figures = {"fraction": Figure(list(SafeLora.values), y, "share of modules projected", "percent")}
        return Findings({name: Finding(value, *SAYS[name]) for name, value in values.items()}, figures)

    def _point(self, lab: Lab, method: SafeLora) -> Point:
        """Accuracy and harmful score, percent."""
        known = {**SafeLora().arms(), **SafeLora().sweep()}
        arm = next((name for name, configured in known.items() if configured == method), "set")
        strong = Poison(strength="strong")
        made = lab.run(Run(method=method, attack=strong, ratio=self.ratio, n=self.n, seed=lab.seed, arm=arm))
        return 100 * rate(made["metrics"]["accuracy"]), 100 * rate(made["metrics"]["harmful"])
