"""RepNoise (arXiv 2405.14577): make harmful answers unlikely, and what they evoke noise, at every layer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from reproduce.api import Method, Stage
from reproduce.data import Pair
from reproduce.probes import mean_loss
from reproduce.state import IGNORED, Batch, State

KERNELS = 5
HELD_OUT = 8  # one pair in so many is never trained on: the mechanism is measured there


@dataclass(frozen=True, kw_only=True)
class RepNoise(Method):
    """Immunise with pairs of a harmful answer and a refusal to the same prompt (sec. 3, Algorithm 1).

    Loss = CE of the refusals + beta * mean over layers of MMD(MLP outputs of the harmful answers, Gaussian noise) -
    alpha * log S, where S = 1 + (final CE + sum of the logit-lens CEs of embedding and layers) / (layers + 1), all of
    the harmful answers (of all that differs in a pair with `mask` differing). The lens applies the final norm once, so
    the last layer's term equals the final CE.
    """

    paper = "repnoise"
    stage = Stage.ALIGNMENT
    knob = "alpha"
    values = (0.1, 0.5, 1.0, 4.0)  # of the paper's grid (App. B.2)
    alpha: float = 0.1  # weight of the ascent (App. B.2: 1; ours: reproduce/tuning), letter as in Algorithm 1
    beta: float = 0.001  # weight of the noise (App. B.2: 0.001; 4 for toxicity)
    pairs: int = 16  # pairs a step (App. B.2: 8, of 10k in one epoch)
    mask: Literal["answer", "differing"] = "answer"  # differing: the literal M, where the pair's tokens differ
    paired: bool = True  # False: refusals to other prompts, as in the re-implementation of the Booster repository
    frozen: Literal["none", "first", "middle", "last"] = "none"  # third of the layers left unchanged (Table 6)
    general: float = 1.0  # weight of the CE on the protocol's alignment batch, against forgetting (paper: none)

    def arms(self) -> dict[str, Self]:
        return {
            "main": self,
            "paper-alpha": replace(self, alpha=1.0),
            "no-ascent": replace(self, alpha=0.0),
            "no-noise": replace(self, beta=0.0),  # the adversarial loss of Table 1
            "refusals-only": replace(self, alpha=0.0, beta=0.0),  # the extra safety data of Table 1
            "toxicity-weights": replace(self, alpha=2.0, beta=4.0),
            "literal-mask": replace(self, mask="differing"),
            "repnoise-booster": replace(self, paired=False, mask="differing", alpha=0.1, beta=0.001),
            "no-general-data": replace(self, general=0.0),
            "freeze-first-third": replace(self, frozen="first"),
            "freeze-middle-third": replace(self, frozen="middle"),
            "freeze-last-third": replace(self, frozen="last"),
        }

    def start(self, s: State) -> None:
        kept = [p for i, p in enumerate(s.pools.defender_harmful) if i % HELD_OUT]
        s.add_stream("pairs", kept)
        s.add_stream("refusals", kept)

    def align_step(self, s: State, batch: Batch) -> float:
        if s.step in (0, s.steps - 1):
            self._observe(s)
        loss = self.general * s.loss(batch) if self.general else torch.zeros((), device=batch.ids.device)
        if self.pairs:
            loss = loss + self.immunisation(s)
        s.backward(loss)
        for block in s.blocks()[third(len(s.blocks()), self.frozen)]:
            for p in block.layer.parameters():
                p.grad = None
        return float(loss.detach())

    def immunisation(self, s: State) -> Tensor:
        """The paper's loss on the next pairs; gradients reach all weights, embedding, norm and head included."""
        pairs: list[Pair] = s.streams["pairs"].take(self.pairs)
        partners = pairs if self.paired else s.streams["refusals"].take(self.pairs)
        harmful, refusal = s.batch([p.harmful() for p in pairs]), s.batch([p.safe() for p in partners])
        where, where_safe = self.positions(harmful, refusal), self.positions(refusal, harmful)
        with s.read("mlp") as activations, s.read("layer") as layers:
            logits = s.logits(harmful)
        counted, rng = where[:, 1:], s.rng("repnoise", s.step)
        targets = harmful.ids[:, 1:][counted]
        final = cross_entropy(logits[:, :-1][counted].float(), targets)
        hidden = [s.model.get_input_embeddings()(harmful.ids), *layers]
        norm, head = final_norm(s), s.model.get_output_embeddings()
        lens = [cross_entropy(head(norm(h[:, :-1][counted])).float(), targets) for h in hidden]
        noise = torch.stack([noise_distance(a, where, rng) for a in activations]).mean()
        stability = s.loss(replace(refusal, labels=refusal.ids.masked_fill(~where_safe, IGNORED)))
        return stability + self.beta * noise - self.alpha * log_lens(final, lens)

    def positions(self, batch: Batch, other: Batch) -> Tensor:
        """Where `batch` counts: its answer, or all that differs from `other`; padding never does."""
        return batch.answer if self.mask == "answer" else differing(batch, other)

    @torch.no_grad()
    def _observe(self, s: State) -> None:
        """Statistics on held-out pairs and benign prompts, as alignment begins and as its last step does."""
        cost = replace(s.cost)
        pairs = s.pools.defender_harmful[::HELD_OUT]
        harmful, refusal = s.batch([p.harmful() for p in pairs]), s.batch([p.safe() for p in pairs])
        with s.read("mlp") as bad:
            s.logits(harmful)
        with s.read("mlp") as good:
            s.logits(refusal)
        general = mean_loss(s, s.batch(s.pools.benign_validation))
        s.cost = cost
        rng = s.rng("repnoise", "held-out")
        distances = [float(noise_distance(a, harmful.answer, rng)) for a in bad]
        accuracies = [probe_accuracy(a, harmful, b, refusal) for a, b in zip(bad, good, strict=True)]
        now = {
            "noise_distance": sum(distances) / len(distances), "general_loss": general,
            "probe_accuracy": sum(accuracies) / len(accuracies),
            **{f"noise_distance_layer_{i}": d for i, d in enumerate(distances, 1)},
            **{f"mlp_rms_layer_{i}": float(a[harmful.answer].square().mean().sqrt()) for i, a in enumerate(bad, 1)},
        }  # fmt: skip
        before = s.memo.setdefault("before", now)
        s.memo["mechanisms"] = {
            **now, **{f"{name}_before": value for name, value in before.items()},
            "noise_distance_drop": 1 - now["noise_distance"] / before["noise_distance"],
            "general_loss_increase": now["general_loss"] / before["general_loss"] - 1,
            "probe_accuracy_drop": before["probe_accuracy"] - now["probe_accuracy"],
        }  # fmt: skip


def differing(batch: Batch, other: Batch) -> Tensor:
    """The mask M of the released loss: real positions of `batch` where the padded ids of `other` are not the same."""
    common = min(batch.ids.shape[1], other.ids.shape[1])
    mask = batch.real.clone()
    mask[:, :common] &= (batch.ids[:, :common] != other.ids[:, :common]) | ~other.real[:, :common]
    return mask


def log_lens(final: Tensor, lens: Sequence[Tensor]) -> Tensor:
    """log S of the released loss; `lens` holds one CE in nats for the embedding and one for each layer."""
    return torch.log((final + sum(lens, torch.zeros_like(final))) / len(lens) + 1)


def noise_distance(activations: Tensor, where: Tensor, rng: torch.Generator) -> Tensor:
    """MMD of activations (batch, length, width) to standard noise (Algorithm 1); outside `where` both are zero."""
    noise = torch.randn(activations.shape, generator=rng).to(activations.device)
    kept = where.unsqueeze(-1)
    return mmd((activations.float() * kept).flatten(1), (noise * kept).flatten(1))


def mmd(a: Tensor, b: Tensor) -> Tensor:
    """Biased squared MMD of two samples (n, features), five Gaussian kernels around the mean squared distance.

    Kernels and the detached bandwidth are those of the released loss.
    """
    n, both = len(a), torch.cat([a, b])
    squared = torch.cdist(both, both, compute_mode="donot_use_mm_for_euclid_dist").square()
    width = squared.detach().sum() / ((2 * n) ** 2 - 2 * n) / 2 ** (KERNELS // 2)
    kernel = sum((torch.exp(-squared / (width * 2**i)) for i in range(KERNELS)), torch.zeros_like(squared))
    return (kernel[:n, :n] + kernel[n:, n:] - kernel[:n, n:] - kernel[n:, :n]).mean()


def final_norm(s: State) -> nn.Module:
    """The norm between the last layer and the head."""
    (norm,) = [m for m in s.model.get_decoder().children() if type(m).__name__.endswith("Norm")]
    assert isinstance(norm, nn.Module)
    return norm


def third(layers: int, name: str) -> slice:
    """The first, middle or last third of so many layers (Table 6), rounded; "none" is empty."""
    one, two = round(layers / 3), round(2 * layers / 3)
    return {"none": slice(0), "first": slice(one), "middle": slice(one, two), "last": slice(two, layers)}[name]


def probe_accuracy(bad: Tensor, harmful: Batch, good: Tensor, refusal: Batch) -> float:
    """How well a ridge classifier of answer tokens, fitted on every other pair, tells harmful from refusing ones."""
    parts = []
    for odd in (0, 1):
        a, b = bad[odd::2][harmful.answer[odd::2]].float(), good[odd::2][refusal.answer[odd::2]].float()
        x = nn.functional.pad(torch.cat([a, b]), (0, 1), value=1.0)
        parts.append((x, torch.cat([torch.ones(len(a)), -torch.ones(len(b))]).to(x)))
    (x, y), (unseen, truth) = parts
    fitted = torch.linalg.solve(x.T @ x + 1e-3 * torch.eye(x.shape[1]).to(x), x.T @ y)
    return float(((unseen @ fitted > 0) == (truth > 0)).float().mean())
