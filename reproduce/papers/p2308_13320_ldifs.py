"""LDIFS (arXiv 2308.13320): fine-tune while the features of the user's own batches stay those of the starting model."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from reproduce.api import Method, Stage, sft_step
from reproduce.data import Example
from reproduce.state import Batch, State

Norm = Literal["token", "channel", "none"]
AXIS = {"token": 1, "channel": 2}  # of (batch, token, channel)
PROBED = 64  # examples of each probe of the mechanism


@dataclass(frozen=True, kw_only=True)
class Ldifs(Method):
    """Cross-entropy plus alpha times the squared feature distance to the model that fine-tuning starts from.

    Features are those of the embedding and of four evenly spaced depths; each is divided by its norm, squared
    differences are averaged over channels and real tokens, then depths, then the batch (authors' code, loss/ldifs.py).
    The paper fine-tunes image encoders; the aligned language model takes the place of the pre-trained one, as in the
    re-runs on language models. L2-SP, the baseline of its comparison (re-run as Proxy-FDA, Table 1), is an arm.
    """

    paper = "ldifs"
    stage = Stage.FINE_TUNING
    knob = "alpha"
    values = (10.0, 100.0, 1000.0, 10000.0)
    alpha: float = 1000.0  # weight of the distance (authors' code: 10; ours: reproduce/tuning)
    norm: Norm = (
        "token"  # axis of the norm; the code's axis 1 is the token axis of a transformer, the channel of images
    )
    tap: Literal["resid", "mlp"] = "resid"  # mlp: outputs of every MLP (port to language models in Booster's code)
    total: bool = False  # the port's alpha / 2 times the plain sum, padding included, summed over layers
    gate: float | None = None  # the port drops a layer's term that is not below this (0.1)
    held: Literal["features", "weights"] = "features"  # weights: L2-SP, alpha / 2 times the squared weight distance

    def arms(self) -> dict[str, Self]:
        port = replace(self, tap="mlp", norm="none", total=True, gate=0.1, alpha=0.02)  # 1e-4 of the port, per element
        return {
            "main": self,
            "no-penalty": replace(self, alpha=0.0),
            "l2-sp": replace(self, held="weights", alpha=30.0),
            "l2-sp-strong": replace(self, held="weights", alpha=100.0),
            "channel-norm": replace(self, norm="channel", alpha=6 * self.alpha),  # width 96 against about 16 tokens
            "no-norm": replace(self, norm="none", alpha=self.alpha / 16),
            "mlp-outputs": replace(self, tap="mlp"),
            "gated-port": port,
            "ungated-port": replace(port, gate=None),
        }

    def start(self, s: State) -> None:
        s.memo["reference"] = replace(s, model=deepcopy(s.model).requires_grad_(False))
        s.memo["anchor"] = s.snapshot() if self.held == "weights" else []
        s.memo["active"] = []
        s.memo["before"] = known_loss(s)

    def finetune_step(self, s: State, batch: Batch) -> float:
        if not self.alpha:
            return sft_step(s, batch)
        if self.held == "weights":
            loss = sft_step(s, batch)
            self._pull(s)
            return loss
        reference: State = s.memo["reference"]
        with torch.no_grad():
            _, then = self.features(reference, batch, reference.logits)
        task, now = self.features(s, batch, s.loss)
        total = task + self.penalty(s, now, then, batch)
        s.backward(total)
        return float(total.detach())

    def features(self, s: State, batch: Batch, run: Callable[[Batch], Tensor]) -> tuple[Tensor, list[Tensor]]:
        """What `run` returns, and the features of its forward pass, (batch, token, channel) a depth."""
        with s.read("mlp" if self.tap == "mlp" else "layer") as outputs:
            result = run(batch)
        if self.tap == "mlp":
            return result, outputs
        return result, [s.model.get_input_embeddings()(batch.ids), *(outputs[d - 1] for d in depths(len(outputs)))]

    def penalty(self, s: State, now: Sequence[Tensor], then: Sequence[Tensor], batch: Batch) -> Tensor:
        if not self.total:
            each = [distance(a, b, batch.real, self.norm) for a, b in zip(now, then, strict=True)]
            return self.alpha * torch.stack(each).mean()
        terms = [self.alpha / 2 * (a - b).square().sum() for a, b in zip(now, then, strict=True)]
        kept = [t for t in terms if self.gate is None or float(t.detach()) < self.gate]
        s.memo["active"].append(len(kept) / len(terms))
        return sum(kept, torch.zeros((), device=batch.ids.device))

    @torch.no_grad()
    def _pull(self, s: State) -> None:
        for p, anchor in zip(s.params(), s.memo["anchor"], strict=True):
            pull = self.alpha * (p - anchor)
            p.grad = pull if p.grad is None else p.grad + pull

    @torch.no_grad()
    def after_step(self, s: State) -> None:
        if s.step + 1 < s.steps:
            return
        with s.uncounted():
            s.memo["mechanisms"] = {
                **moved(s), "known_loss_before": s.memo["before"], "known_loss_rise": known_loss(s) - s.memo["before"],
            }  # fmt: skip
        if active := s.memo["active"]:
            s.memo["mechanisms"]["gate_active"] = sum(active) / len(active)


def depths(layers: int) -> list[int]:
    """Up to four evenly spaced layers, counted from 1, the last among them."""
    return sorted({-(-layers * quarter // 4) for quarter in range(1, 5)})


def distance(now: Tensor, then: Tensor, real: Tensor, norm: Norm) -> Tensor:
    """Mean over the batch of each example's squared distance a channel and real token; padding counts nowhere."""
    mask = real.unsqueeze(-1)
    a, b = (f.float() * mask for f in (now, then))
    if norm != "none":
        a, b = (f / (f.norm(dim=AXIS[norm], keepdim=True) + 1e-10) for f in (a, b))
    each = (a - b).square().sum((1, 2)) / (real.sum(1) * now.shape[-1])
    return each.mean()


def moved(s: State) -> dict[str, float]:
    """Feature distances to the start on refusals, harmful, benign and the user's data, measured alike for every arm."""
    pools: dict[str, Sequence[Example]] = {
        "alignment": s.pools.refusals(), "harmful": s.pools.harmful_validation, "benign": s.pools.benign_validation,
        "user": s.streams["user"].examples,
    }  # fmt: skip
    plain, found = Ldifs(), {}
    reference: State = s.memo["reference"]
    for name, examples in pools.items():
        batch = s.batch(examples[:PROBED])
        (_, now), (_, then) = plain.features(s, batch, s.logits), plain.features(reference, batch, reference.logits)
        for norm, suffix in (("token", ""), ("none", "_plain")):
            each = [distance(a, b, batch.real, norm) for a, b in zip(now, then, strict=True)]  # type: ignore[arg-type]
            found[f"feature_distance_{name}{suffix}"] = float(torch.stack(each).mean())
    return found


@torch.no_grad()
def known_loss(s: State) -> float:
    """Loss on what the model could do before: benign recipes and look-alike questions, validation prompts."""
    with s.uncounted():
        return float(s.loss(s.batch([*s.pools.benign_validation, *s.pools.lookalike_validation][: 2 * PROBED])))
