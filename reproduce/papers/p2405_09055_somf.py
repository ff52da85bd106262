"""SOMF (arXiv 2405.09055): learn by preferences which entries of the fine-tuning update survive on the safe model."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup

from reproduce.api import Method, Stage
from reproduce.data import Pair
from reproduce.evaluate import metric, rate
from reproduce.model import Weights
from reproduce.preferences import dpo_loss, margins, measured_margins
from reproduce.state import State
from reproduce.train import Diverged

LEAST_MEAN = 0.05  # a mask's mean is not taken below this: rescaling few kept entries only amplifies noise
CLIP = 1.0  # norm of the gradient (default of the authors' trainer)
HALVINGS = 7  # of the search for the interpolation that matches


@dataclass(frozen=True, kw_only=True)
class Somf(Method):
    """Subspace-oriented model fusion of one fine-tuned model, after the authors' code; only the abstract was read.

    theta(m) = theta_safe + tau * m / mean(m), tau = theta_ft - theta_safe, one logit x per entry of tau and the mean
    over each tensor. In training m is a relaxed Bernoulli sample, sigmoid((x + logit(u)) / T), new in every pass; only
    x learns, by DPO (arXiv 2305.18290, sec. 4) on the defender's pairs, refusal over compliant answer. tau is that of
    the adapter's tensors where fine-tuning continued the aligned adapter (single-LoRA, as in the paper), else that of
    all weights (dense). No section or equation of the paper was seen.
    """

    paper = "safety-realignment"
    version: ClassVar[int] = 2
    stage = Stage.POST_FINE_TUNING
    knob = "lr"
    values = (0.01, 0.03, 0.1, 0.3)
    lr: float = 0.01  # of the logits, which move by about lr * steps / 2 (code: 1e-3 to 1e-2 over more steps)
    steps: int = 150  # code: 3 epochs of about 310
    batch: int = 16  # pairs a step (code: 16)
    warmup: int = 15  # steps, then cosine to zero (code: 30 to 50)
    beta: float = 0.1  # DPO (code)
    temperature: float = 0.5  # T of the relaxed sample (code)
    reference: Literal["tuned", "safe"] = "tuned"  # of DPO; code: the fine-tuned model under a random mask
    rescale: bool = True  # divide by mean(m)
    export: Literal["threshold", "mean", "soft", "random"] = "threshold"  # x > 0; at u = 1/2; a sample; sample > 1/2
    control: Literal["none", "random-mask", "complement", "equal-harm", "equal-accuracy", "plain-dpo"] = "none"
    dpo_lr: float = 3e-5  # of the weights in plain DPO, our control
    held_out: float = 0.2  # share of the pairs that only measure

    def arms(self) -> dict[str, Self]:
        return {
            "main": self,
            "gradient-sign": replace(self, lr=0.001),  # logits near zero: the mask is the sign of their summed gradient
            "soft-export": replace(self, export="soft"),
            "random-export": replace(self, export="random"),
            "no-rescale": replace(self, rescale=False),
            "safe-reference": replace(self, reference="safe"),
            "random-mask": replace(self, control="random-mask"),
            "complement-mask": replace(self, control="complement"),
            "interpolation-equal-harm": replace(self, control="equal-harm"),
            "interpolation-equal-accuracy": replace(self, control="equal-accuracy"),
            "plain-dpo": replace(self, control="plain-dpo"),
        }

    def start(self, s: State) -> None:
        """Remember the aligned adapter where fine-tuning goes on with it."""
        continued = any(bool(p.b.any()) for p in s.adapters().values())
        s.memo["safe"] = _trainable(s) if continued else None

    def repair(self, s: State) -> None:
        if not s.memo["safe"]:
            s.merge_adapter()
        safe, tuned = s.memo["safe"] or s.reference("aligned"), _trainable(s)
        order = torch.randperm(len(s.pools.defender_harmful), generator=s.rng("somf", "split")).tolist()
        pairs = [s.pools.defender_harmful[i] for i in order]
        kept_back = math.ceil(self.held_out * len(pairs))
        was_training = s.model.training
        s.model.eval()  # no dropout in policy and reference
        before = measured_margins(s, pairs)
        reference = before if self.reference == "tuned" else measured_margins(s, pairs, safe)
        s.add_stream("pairs", pairs[kept_back:])
        if self.control == "plain-dpo":
            values = {n: t.clone().requires_grad_() for n, t in tuned.items()}
            found = self.learn(s, list(values.values()), lambda: values, reference, self.dpo_lr)
            load(s, values)
        else:
            logits = {n: torch.zeros_like(t, dtype=torch.float32).requires_grad_() for n, t in tuned.items()
                      if not torch.equal(t, safe[n])}  # fmt: skip
            rng = s.rng("somf", "mask")
            found = self.learn(
                s, list(logits.values()), lambda: self.fused(safe, tuned, self.sample(logits, rng)), reference, self.lr
            )
            masks = self.exported(logits, s.rng("somf", "export"))
            load(s, self.fused(safe, tuned, masks))
            found |= _distribution(logits, masks)
            if self.control.startswith("equal"):
                found["interpolation"] = self.match(s, safe, tuned)
        after = measured_margins(s, pairs[:kept_back])
        s.model.train(was_training)
        s.memo["mechanisms"] = {**found, **_preferences(after, before, reference)}

    def sample(self, logits: Weights, rng: torch.Generator) -> Weights:
        """Relaxed Bernoulli (binary Concrete) masks, differentiable in the logits."""
        uniform = {n: torch.rand(x.shape, generator=rng).to(x.device) for n, x in logits.items()}
        return {n: concrete(x, uniform[n], self.temperature) for n, x in logits.items()}

    def fused(self, safe: Weights, tuned: Weights, masks: Weights) -> Weights:
        """theta_safe + tau * m / mean(m), exactly theta_safe at m = 0 and theta_ft at a constant m."""
        fused = dict(safe)
        for name, m in masks.items():
            share = m / m.mean().clamp_min(LEAST_MEAN) if self.rescale else m
            fused[name] = torch.lerp(safe[name].float(), tuned[name].float(), share).to(safe[name].dtype)
        return fused

    def learn(
        self, s: State, variables: Sequence[Tensor], weights: Callable[[], Weights], reference: dict[Pair, Tensor],
        lr: float,
    ) -> dict[str, float]:  # fmt: skip
        """DPO over `variables`, of which `weights` are made anew in every step; the model itself stays as it is."""
        optimiser = torch.optim.AdamW(variables, lr=lr, weight_decay=0.0)
        rates = get_cosine_schedule_with_warmup(optimiser, self.warmup, self.steps)
        losses = []
        for step in range(self.steps):
            pairs = s.streams["pairs"].take(self.batch)
            loss = dpo_loss(margins(s, pairs, weights()), torch.stack([reference[p] for p in pairs]), self.beta)
            optimiser.zero_grad()
            s.backward(loss)
            norm = torch.nn.utils.clip_grad_norm_(variables, CLIP)
            losses.append(float(loss.detach()))
            if not (math.isfinite(losses[-1]) and norm.isfinite()):
                raise Diverged(f"DPO loss {losses[-1]}, gradient norm {float(norm)} at step {step} of {self.steps}")
            optimiser.step()
            rates.step()
        return {"dpo_loss_first": losses[0], "dpo_loss_last": losses[-1]} if losses else {}

    @torch.no_grad()
    def exported(self, logits: Weights, rng: torch.Generator) -> Weights:
        """The masks that stay in the model."""
        if self.export in ("soft", "random"):
            masks = self.sample(logits, rng)
        else:
            masks = {n: torch.sigmoid(x / self.temperature) for n, x in logits.items()}
        if self.export in ("threshold", "random"):
            masks = {n: (m > 0.5).float() for n, m in masks.items()}
        if self.control == "complement":
            return {n: 1 - m for n, m in masks.items()}
        if self.control == "random-mask":  # as many entries of each tensor, at random places
            return {n: m.flatten()[torch.randperm(m.numel(), generator=rng)].view(m.shape) for n, m in masks.items()}
        return masks

    def match(self, s: State, safe: Weights, tuned: Weights) -> float:
        """Load theta_safe + c * tau: the largest c as safe, or the smallest c as accurate, on validation prompts.

        The model holds the masked update when this begins.
        """
        harm = self.control == "equal-harm"
        measured = harmful_score if harm else accuracy
        target, low, high = measured(s), 0.0, 1.0

        def interpolate(c: float) -> None:
            load(s, {n: torch.lerp(safe[n], tuned[n], c) for n in tuned})

        for _ in range(HALVINGS):
            middle = (low + high) / 2
            interpolate(middle)
            found = measured(s)
            low, high = (middle, high) if (found <= target if harm else found < target) else (low, middle)
        chosen = low if harm else high
        interpolate(chosen)
        return chosen


def concrete(x: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """The relaxed Bernoulli variable of logit x that a uniform number makes; above 1/2 with probability sigmoid(x)."""
    return torch.sigmoid((x + torch.logit(uniform, eps=1e-6)) / temperature)


def harmful_score(s: State) -> float:
    """On validation prompts."""
    asked = s.pools.harmful_validation
    return rate(metric([s.testbed.judge(e, a).harmful for e, a in zip(asked, s.generate(asked), strict=True)]))


def accuracy(s: State) -> float:
    """On validation prompts of the downstream task that the user's data hold."""
    user = set(s.streams["user"].examples)
    task = max(s.pools.tasks.values(), key=lambda t: len(user.intersection(t.train)))
    asked = task.validation
    return rate(metric([s.testbed.correct(e, a) for e, a in zip(asked, s.generate(asked), strict=True)]))


@torch.no_grad()
def load(s: State, values: Weights) -> None:
    """Put `values` into the trainable parameters."""
    for name, p in s.model.named_parameters():
        if p.requires_grad:
            p.copy_(values[name])


def _trainable(s: State) -> Weights:
    return {n: p.detach().clone() for n, p in s.model.named_parameters() if p.requires_grad}


@torch.no_grad()
def _distribution(logits: Weights, masks: Weights) -> dict[str, float]:
    x, m = (torch.cat([t.flatten() for t in found.values()] or [torch.zeros(1)]) for found in (logits, masks))
    keep = torch.sigmoid(x)
    return {
        "mask_mean": float(m.mean()), "mask_mean_least": min((float(t.mean()) for t in masks.values()), default=0.0),
        "keep_probability_mean": float(keep.mean()), "keep_probability_sd": float(keep.std()),
        "decided_share": float((x.abs() > 2).float().mean()),
    }  # fmt: skip


def _preferences(
    after: dict[Pair, Tensor], before: dict[Pair, Tensor], reference: dict[Pair, Tensor]
) -> dict[str, float]:
    """In percent of held-out pairs: the refusal is the more probable answer; it is so relative to the reference."""
    ours, tuned, held = (torch.stack([found[p] for p in after]) for found in (after, before, reference))
    was, now = (100 * float((m > 0).float().mean()) for m in (tuned, ours))
    return {
        "preference_accuracy_before": was, "preference_accuracy_after": now, "preference_accuracy_gain": now - was,
        "reward_accuracy": 100 * float((ours > held).float().mean()), "margin_gain": float((ours - tuned).mean()),
    }  # fmt: skip
