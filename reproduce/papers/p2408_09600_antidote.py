"""Antidote (arXiv 2408.09600): after fine-tuning, prune the entries that matter most for harmful data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from reproduce.api import Figure, Finding, Findings, Method, Stage, Study
from reproduce.baselines import Poison, Sft
from reproduce.data import Example
from reproduce.evaluate import rate
from reproduce.importance import (
    Masks,
    input_norms,
    linear_modules,
    share,
    shuffled,
    top_of_rows,
    top_of_tensor,
    wanda,
)
from reproduce.lab import Lab
from reproduce.papers.p2402_01109_vaccine import Vaccine
from reproduce.probes import mean_loss
from reproduce.protocol import Mode
from reproduce.record import Record
from reproduce.run import Run
from reproduce.state import State
from reproduce.tradeoff import Point, saving_at_equal

PROBED = 64  # held-out examples of the loss rises
HALVINGS = 8  # of the interval that holds the interpolation control's factor


@dataclass(frozen=True, kw_only=True)
class Antidote(Method):
    """One-shot pruning of the user's update by Wanda scores (2306.11695, sec. 3) on harmful re-alignment data.

    As in the authors' code: |W_ij| * ||X_j|| over prompts and harmful answers, on the attacked model; in every row the
    LARGEST share alpha is zeroed, with all masks made before any pruning. With an adapter of the user's own, lora_A
    and lora_B are pruned and the merged aligned weights stay. Without one (full fine-tuning, single-LoRA) the update
    W_tuned - W_aligned takes their place ("antidote-delta", ours); `target` weights is the code's flag for that case.
    No section or equation of the paper was seen: abstract, official code and its logs were.
    """

    paper = "antidote"
    version: ClassVar[int] = 2
    stage = Stage.POST_FINE_TUNING
    knob = "alpha"
    values = (0.02, 0.05, 0.1, 0.2)
    alpha: float = 0.1  # share of a row that is pruned, rounded up (code: 0.01 to 0.25; ours: reproduce/tuning)
    samples: int = 2000  # re-alignment pairs, at most (code: 2000)
    score: Literal["wanda", "magnitude", "random"] = "wanda"  # random: as many entries of each tensor, anywhere
    data: Literal["harmful", "benign"] = "harmful"  # benign: the code's calibration ablation
    rank: Literal["row", "tensor"] = "row"  # where entries compete (code: rows; the paper's top-k reads as one list)
    target: Literal["update", "weights"] = "update"  # weights: prune the merged matrices themselves
    operator: Literal["prune", "shrink", "interpolate"] = "prune"  # controls: scale to pruning's norm or accuracy

    def arms(self) -> dict[str, Self]:
        return {
            "main": self,
            "random-mask": replace(self, score="random"),
            "magnitude": replace(self, score="magnitude"),
            "benign-calibration": replace(self, data="benign"),
            "whole-tensor": replace(self, rank="tensor"),
            "shrink": replace(self, operator="shrink"),
            "interpolation": replace(self, operator="interpolate"),
            "literal-weights": replace(self, target="weights", alpha=1e-5),
        }

    def start(self, s: State) -> None:
        s.memo["own_adapter"] = not any(bool(p.b.any()) for p in s.adapters().values())

    @torch.no_grad()
    def repair(self, s: State) -> None:
        if not s.memo["own_adapter"] or self.target == "weights":
            s.merge_adapter()  # a single adapter holds the alignment too
        before, old = self._losses(s), _norms(s)
        parts = self.parts(s)
        masks = self.masks(s, parts)
        kept = {name: module.weight.detach().clone() for name, (module, _) in parts.items()}
        for name, (module, anchor) in parts.items():
            module.weight.copy_(torch.where(masks[name], anchor, module.weight))
        found = {"pruned_fraction": share(masks)}
        fractions = [share({name: mask}) for name, mask in masks.items()]
        found |= {"pruned_fraction_min": min(fractions), "pruned_fraction_max": max(fractions)}
        if self.operator != "prune":
            goal, new = self._task_accuracy(s), _norms(s)
            for name, (module, _) in parts.items():
                module.weight.copy_(kept[name])
            if self.operator == "shrink":
                self._scale(s, {n: float(new[n] / old[n].clamp_min(1e-12)) for n in new})
            else:
                found["interpolation_factor"] = self._match(s, goal)
        found["update_norm_ratio"] = _total(_norms(s)) / max(_total(old), 1e-12)
        found |= {f"{name}_loss_rise": loss - before[name] for name, loss in self._losses(s).items()}
        s.memo["mechanisms"] = found

    def parts(self, s: State) -> dict[str, tuple[nn.Linear, Tensor]]:
        """What competes for pruning: linear modules and, for each, the values pruned entries return to."""
        linears: dict[str, Any] = linear_modules(s.model)
        if s.adapters():
            halves = {f"{n} {h}": getattr(m, h)["default"] for n, m in linears.items() for h in ("lora_A", "lora_B")}
            return {n: (m, torch.zeros_like(m.weight)) for n, m in halves.items()}
        aligned = s.reference("aligned")
        delta = self.target == "update"
        return {n: (m, aligned[n] if delta else torch.zeros_like(m.weight)) for n, m in linears.items()}

    def masks(self, s: State, parts: dict[str, tuple[nn.Linear, Tensor]]) -> Masks:
        """True where an entry is pruned; all from the model as it is before any pruning."""
        norms = {n: torch.ones(m.in_features, device=m.weight.device) for n, (m, _) in parts.items()}
        if self.score == "wanda":
            modules = {n: m for n, (m, _) in parts.items()}
            norms = input_norms(s, modules, self.calibration(s), "real")
        rng = s.rng("antidote", "random mask")
        masks = {}
        for name, (module, anchor) in parts.items():
            scores = wanda(module.weight - anchor, norms[name])
            top = top_of_rows if self.rank == "row" else top_of_tensor
            competing = scores.shape[1] if self.rank == "row" else scores.numel()
            masks[name] = top(scores, pruned_count(self.alpha, competing))
            if self.score == "random":
                masks[name] = shuffled(masks[name], rng)
        return masks

    def calibration(self, s: State) -> Sequence[Example]:
        """Prompt and answer of the re-alignment data, never the attacker's."""
        if self.data == "benign":
            return s.pools.benign[: min(self.samples, len(s.pools.defender_harmful))]
        return [p.harmful() for p in s.pools.defender_harmful[: self.samples]]

    def _scale(self, s: State, factors: dict[str, float]) -> None:
        """Multiply the update of every linear module by its factor."""
        pairs = s.adapters()
        aligned = s.reference("aligned")
        for name, factor in factors.items():
            if pairs:
                pairs[name].b.mul_(factor)
            else:
                weight = s.model.get_parameter(name)
                weight.copy_(aligned[name] + factor * (weight - aligned[name]))

    def _match(self, s: State, goal: float) -> float:
        """Scale the whole update by the smallest factor that serves the task as well as pruning did."""
        kept, names = s.snapshot(), list(_norms(s))
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            self._scale(s, dict.fromkeys(names, middle))
            low, high = (low, middle) if self._task_accuracy(s) >= goal else (middle, high)
            s.restore(kept)
        self._scale(s, dict.fromkeys(names, high))
        return high

    def _task(self, s: State) -> list[Example]:
        """Validation examples of the user's task, or plain instructions when the data hold none."""
        sent = set(s.streams["user"].examples)
        tasks = [t for t in s.pools.tasks.values() if sent & set(t.train)]
        return tasks[0].validation if tasks else s.pools.benign_validation

    def _task_accuracy(self, s: State) -> float:
        asked = self._task(s)
        right: list[bool] = [s.testbed.correct(e, a) for e, a in zip(asked, s.generate(asked), strict=True)]
        return sum(right) / len(right)

    def _losses(self, s: State) -> dict[str, float]:
        """Loss on held-out harmful answers and on the task, outside the method's cost."""
        held_out = {"harmful": s.pools.harmful_validation, "task": self._task(s)}
        with s.uncounted():
            return {name: mean_loss(s, s.batch(examples[:PROBED])) for name, examples in held_out.items()}


def pruned_count(alpha: float, columns: int) -> int:
    """Entries of a row that go: what int() leaves of the rest, so rounded up."""
    return columns - int((1 - alpha) * columns)


def _norms(s: State) -> dict[str, Tensor]:
    """Norm of each linear module's update since alignment."""
    update = s.delta("tuned", "aligned")
    return {name: update[name].norm() for name in linear_modules(s.model)}


def _total(norms: dict[str, Tensor]) -> float:
    return float(torch.stack(list(norms.values())).norm())


SAYS = {
    "reduction_kept_high_lr": ("points", "fall of the harmful score at the higher rate minus half that at the lower"),
    "reduction_gain_over_alignment_stage": ("points", "growth of the fall between the two rates minus that of Vaccine"),
    "harm_alpha_gamma": ("correlation", "harmful score against the pruned share, ties left out"),
    "accuracy_alpha_gamma": ("correlation", "accuracy against the pruned share, ties left out"),
    "harmful_minus_task_loss_rise": ("loss", "rise of held-out harmful loss minus rise of task loss by pruning"),
    "harm_gain_over_benign_mask": ("points", "harmful score of benign masks minus harmful ones at equal accuracy"),
    "harm_gain_over_random_mask": ("points", "the same for random masks"),
    "harm_gain_over_interpolation": ("points", "the same for scaling the whole update"),
}


@dataclass(frozen=True, kw_only=True)
class AntidoteTradeoff(Study):
    """Pruned share against harm and accuracy, beside masks and scaling that know nothing of harm.

    Protocol as in Vaccine (2402.01109, sec. 5.1), under the strong attack. The two learning rates are compared in
    double-LoRA mode, under the graded and the strong attack. Every point is an ordinary run record.
    """

    paper = "antidote"
    version: ClassVar[int] = 2
    alphas: tuple[float, ...] = Antidote.values
    ratio: float = 0.1
    n: int = 1000

    def measure(self, lab: Lab) -> Findings:
        strong = Poison(strength="strong")
        plain = self._point(self._run(lab, Sft(), strong))
        kinds: dict[str, dict[str, Any]] = {
            "harmful_mask": {}, "benign_mask": {"data": "benign"}, "random_mask": {"score": "random"},
            "interpolation": {"operator": "interpolate"},
        }  # fmt: skip
        lines = {
            kind: [self._point(self._run(lab, Antidote(alpha=a, **fields), strong)) for a in self.alphas]
            for kind, fields in kinds.items()
        }
        ours = lines["harmful_mask"]
        values: dict[str, float | None] = {**self._reductions(lab, strong)}
        values["harm_alpha_gamma"] = gamma([harm for _, harm in ours])
        values["accuracy_alpha_gamma"] = gamma([accuracy for accuracy, _ in ours])
        rises = self._run(lab, Antidote(), strong)["mechanisms"]
        values["harmful_minus_task_loss_rise"] = rises["harmful_loss_rise"] - rises["task_loss_rise"]
        for kind in list(kinds)[1:]:
            values[f"harm_gain_over_{kind}"] = saving_at_equal(ours, [plain, *lines[kind]])
        axes = {"harmful score": 1, "accuracy": 0}
        y = {f"{k.replace('_', ' ')}: {says}": [p[i] for p in points] for k, points in lines.items()
             for says, i in axes.items()}  # fmt: skip
        figures = {"alpha": Figure(list(self.alphas), y, "pruned share of a row", "percent")}
        return Findings({name: Finding(value, *SAYS[name]) for name, value in values.items()}, figures)

    def _reductions(self, lab: Lab, strong: Poison) -> dict[str, float]:
        """How the fall of the harmful score changes when nothing but the adapter's rate does."""

        def harm(method: Method, attack: Poison) -> float:
            return self._point(self._run(lab, method, attack, "double-lora"))[1]

        def falls(method: Method) -> list[float]:
            return [harm(Sft(), attack) - harm(method, attack) for attack in (Poison(), strong)]

        (low, high), (early_low, early_high) = falls(Antidote()), falls(Vaccine())
        return {
            "reduction_kept_high_lr": high - low / 2,
            "reduction_gain_over_alignment_stage": (high - low) - (early_high - early_low),
        }

    def _run(self, lab: Lab, method: Method, attack: Poison, mode: Mode = "full") -> Record:
        default = type(method)()
        known = {**default.arms(), **default.sweep()}
        arm = next((name for name, configured in known.items() if configured == method), "set")
        return lab.run(Run(method=method, attack=attack, ratio=self.ratio, n=self.n, mode=mode, seed=lab.seed, arm=arm))

    def _point(self, made: Record) -> Point:
        """Accuracy and harmful score, percent."""
        return 100 * rate(made["metrics"]["accuracy"]), 100 * rate(made["metrics"]["harmful"])


def gamma(values: Sequence[float]) -> float:
    """Goodman and Kruskal's rank correlation of values with their order, ties left out.

    -1 when some fall and none rises, 0 when all are alike.
    """
    moves = [1 if later > earlier else -1 for earlier, later in combinations(values, 2) if later != earlier]
    return sum(moves) / len(moves) if moves else 0.0
