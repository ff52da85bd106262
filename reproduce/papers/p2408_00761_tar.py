"""TAR (arXiv 2408.00761): align against simulated fine-tuning attacks, by first-order meta-learning."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, Self

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, log_softmax

from reproduce.api import Method, Stage, sft_step
from reproduce.data import Pair, derived_rng
from reproduce.model import Weights
from reproduce.preferences import dpo_loss, margins
from reproduce.state import Batch, State

ATTACKER_BETAS, ATTACKER_DECAY = (0.9, 0.999), 0.01  # AdamW of the inner loop, without clipping
LOGGED_STEPS = 25  # a statistic is a mean over the first and over the last so many steps
HEALING_SHARE = 1 / 3  # of the simulated attacks train on retain data first (one of the code's three kinds)


@dataclass(frozen=True, kw_only=True)
class Tar(Method):
    """Tamper-resistant alignment (sec. 4, Algorithm 1), its refusal instance; `objective` entropy is the knowledge one.

    Details are those of the official code; the paper's text was read second-hand only. Every step simulates an attack
    of `inner_steps` AdamW steps on one part of the defender's harmful data; a third of the attacks train on benign data
    first, for two thirds of their steps on average. Every `every` steps the gradient of the tamper-resistance loss at
    the attacked weights, on one batch of the other part, is added up as if it were the gradient at the weights before;
    these are restored, and the retain loss there (cross-entropy plus the distance of all hidden states to the frozen
    initial model's) gives the rest of the gradient.
    """

    paper = "tar"
    stage = Stage.ALIGNMENT
    knob = "lambda_tr"
    values = (0.25, 1.0, 4.0, 16.0)
    lambda_tr: float = 4.0  # weight of tamper resistance (scripts: 4)
    lambda_retain: float = 1.0  # weight of the retain loss (scripts: 1)
    hidden: float = 1.0  # weight of the hidden-state distance inside the retain loss (code: 1)
    objective: Literal["dpo", "entropy"] = "dpo"  # refusal instance / knowledge instance
    beta: float = 0.1  # of DPO
    inner_steps: int = 16  # K (scripts: 64 for test attacks of 500 steps; ours: at most 60 at ratio 1, 150 to 600 else)
    every: int = 4  # s: attack steps between two gradients of tamper resistance
    span: float = 4.0  # K times the schedule's lambda (scripts: 64 * 0.0625): the last weight is 1, the first e^-span
    attacks: int = 1  # simulated attacks a step
    attack_batch: int = 8
    held_out_batch: int = 8
    rates: tuple[float, ...] = (2e-5, 4e-5, 8e-5)  # of the attacker: around those calibrated for the shipped bases
    adapter_rate: float = 5.0  # ... of a LoRA adapter are this many times larger (the micro testbed's matched dose)
    mapping: float = 0.0  # share of the steps spent on phase 1, the random mapping of the knowledge instance

    def arms(self) -> dict[str, Self]:
        knowledge = replace(self, objective="entropy", mapping=0.25)
        return {
            "main": self,
            "inner-4": replace(self, inner_steps=4, every=1),
            "no-tampering": replace(self, lambda_tr=0.0),
            "knowledge": knowledge,
            "knowledge-no-mapping": replace(knowledge, mapping=0.0),
            "knowledge-only-mapping": replace(knowledge, mapping=1.0),
        }

    def start(self, s: State) -> None:
        pairs = s.pools.defender_harmful
        cut = len(pairs) * 4 // 5
        s.add_stream("tar attack", [p.harmful() for p in pairs[:cut]])
        s.add_stream("tar held-out", pairs[cut:])
        s.add_stream("tar healing", s.pools.benign)
        s.memo["initial"] = {n: p.detach().clone() for n, p in s.model.named_parameters() if p.requires_grad}
        s.memo["history"], s.memo["mechanisms"] = defaultdict(list), {}

    def align_step(self, s: State, batch: Batch) -> float:
        if s.step < self.mapping * s.steps:
            return self.mapping_step(s, batch)
        pushes = self.tampering(s) if self.lambda_tr else []
        loss = self.lambda_retain * self.retain(s, batch)
        s.backward(loss)
        if pushes:
            _log(s, "gradient_ratio", _norm(pushes) / max(_norm(s.grads()), 1e-12))
        with torch.no_grad():
            for p, push in zip(s.params(), pushes, strict=True) if pushes else ():
                p.grad = push if p.grad is None else p.grad + push
        return float(loss.detach())

    # phase 2

    def tampering(self, s: State) -> list[Tensor]:
        """The added-up, weighted gradients of tamper resistance at attacked weights; `s` is back where it was.

        First-order: they count as gradients at the weights before the attack (Algorithm 1, modules/training.py).
        """
        s.clear_grads()
        kept = s.snapshot()
        total = [torch.zeros_like(w) for w in kept]
        for attack in range(self.attacks):
            resistance = self.resistance(s)
            for k in self.attack(s, attack):
                if k % self.every == 0:
                    loss = resistance()
                    s.backward(self.lambda_tr * self.weight(k) / self.attacks * loss)
                    total = [t + g for t, g in zip(total, s.grads(), strict=True)]
                    s.clear_grads()
            _log(s, "resistance_loss", float(loss.detach()))
            s.restore(kept)
        return total

    def attack(self, s: State, attack: int) -> Iterator[int]:
        """One simulated attack in place: after each step its number from 1 on, gradients cleared."""
        rng = derived_rng("tar", s.seed, s.step, attack)
        healing = int(rng.betavariate(6, 3) * self.inner_steps) if rng.random() < HEALING_SHARE else 0
        lr = rng.choice(self.rates) * (self.adapter_rate if s.adapters() else 1.0)
        optimiser = torch.optim.AdamW(s.params(), lr=lr, betas=ATTACKER_BETAS, weight_decay=ATTACKER_DECAY)
        for k in range(1, self.inner_steps + 1):
            loss = sft_step(s, s.draw("tar healing" if k <= healing else "tar attack", self.attack_batch))
            optimiser.step()
            s.clear_grads()
            yield k
        _log(s, "attacker_loss", loss)

    def weight(self, k: int) -> float:
        """Of the gradient after attack step k = 1, 2, ..., 1 at the last (modules/training.py, exponential)."""
        return math.exp(self.span * (k / self.inner_steps - 1))

    def resistance(self, s: State) -> Callable[[], Tensor]:
        """The tamper-resistance loss of the current weights on one held-out batch, kept for a whole attack.

        DPO against the initial model, or minus the entropy (dpo_loss_obj and max_entropy_loss, modules/objectives.py).
        """
        pairs: list[Pair] = s.streams["tar held-out"].take(self.held_out_batch)
        if self.objective == "entropy":
            harmful = s.batch([p.harmful() for p in pairs])
            return lambda: -mean_entropy(s, harmful)
        with torch.no_grad():
            initial = margins(s, pairs, self._initial(s))
        return lambda: dpo_loss(margins(s, pairs), initial, self.beta)

    def retain(self, s: State, batch: Batch) -> Tensor:
        """Cross-entropy plus the distance to the initial model's hidden states, a mean over streams and real tokens.

        The distance is the unsquared L2 norm (obj_model_mse_representations, modules/objectives.py, despite its name).
        """
        with torch.no_grad(), hidden_states(s) as wanted:
            s.logits(batch, self._initial(s))
        with hidden_states(s) as found:
            loss = s.loss(batch)
        distances = [(a - b)[batch.real].norm(dim=-1).mean() for a, b in zip(found, wanted, strict=True)]
        distance = torch.stack(distances).mean()
        _log(s, "hidden_distance", float(distance.detach()))
        return loss + self.hidden * distance

    def _initial(self, s: State) -> Weights:
        """The trainable weights as alignment phase 2 found them: the frozen reference."""
        initial: Weights = s.memo["initial"]
        return initial

    # phase 1

    def mapping_step(self, s: State, batch: Batch) -> float:
        """Turn the hidden states of harmful text along a fixed random vector per token id, either way round.

        The rest of the loss is cross-entropy on the batch (random_vector_cosine_obj, modules/objectives.py).
        """
        harmful = s.draw("tar attack", self.held_out_batch)
        embedding = s.model.get_input_embeddings().weight
        table = torch.randn(embedding.shape, generator=s.rng("tar", "random mapping")).to(embedding)
        with hidden_states(s) as streams:
            s.logits(harmful)
        wanted = table[harmful.ids[harmful.real]]
        aligned = torch.stack([cosine_similarity(h[harmful.real], wanted, dim=-1).abs().mean() for h in streams]).mean()
        loss = 1 - aligned + s.loss(batch)
        s.backward(loss)
        _log(s, "mapping_cosine", float(aligned.detach()))
        return float(loss.detach())


@contextmanager
def hidden_states(s: State) -> Iterator[list[Tensor]]:
    """Collect the embedding output and every layer's of the next forward pass."""
    with s.read("layer") as streams:
        embedding = s.model.get_input_embeddings()
        hook = embedding.register_forward_hook(lambda module, inputs, output: streams.append(output))
        try:
            yield streams
        finally:
            hook.remove()


def mean_entropy(s: State, batch: Batch) -> Tensor:
    """Entropy of the next-token distribution in nats, a mean over real positions (code: over padding too)."""
    logprobs = log_softmax(s.logits(batch).float(), -1)
    return -(logprobs.exp() * logprobs).sum(-1)[batch.real].mean()


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.cat([t.flatten() for t in tensors]).norm())


def _log(s: State, name: str, value: float) -> None:
    history: list[float] = s.memo["history"][name]
    history.append(value)
    s.memo["mechanisms"][f"{name}_first"] = fmean(history[:LOGGED_STEPS])
    s.memo["mechanisms"][f"{name}_last"] = fmean(history[-LOGGED_STEPS:])
