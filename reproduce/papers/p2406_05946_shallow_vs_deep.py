"""Shallow vs deep (arXiv 2406.05946): hold the first answer tokens to the aligned model, or deepen its refusals."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from reproduce.api import Method, Stage, sft_step
from reproduce.data import Example, Pair
from reproduce.state import IGNORED, Batch, State

CHUNK = 64  # examples per forward pass when log-probabilities are cached
FLOOR = 1e-3  # least weight of a token (code only)


@dataclass(frozen=True, kw_only=True)
class ShallowVsDeep(Method):
    """Token-wise constrained fine-tuning (sec. 4, eq. 3-5); alignment with safety-recovery examples (sec. 3, eq. 2).

    Fine-tuning minimises sum_t -(2 / beta_t) log sigmoid(beta_t (log pi(y_t) - log pi_aligned(y_t))): the gradient of
    plain SFT with token t weighted by w_t = 2 sigmoid(beta_t (log pi_aligned(y_t) - log pi(y_t))). As in the code, w_t
    is a constant of the step and the loss is the mean over all answer tokens of the batch.

    The other method of the paper (`recovery`) aligns: refusals that follow the first k tokens of a harmful answer,
    beside benign prompts with the answers of the model as it was.
    """

    paper = "shallow-vs-deep"
    stage = Stage.FINE_TUNING
    knob = "beta"
    values = (0.01, 0.03, 0.1, 0.3)
    beta: float = 0.01  # beta_t of late tokens (App. B: 0.1; code: --beta; ours: reproduce/tuning)
    first: float = 5.0  # beta_1 / beta: 0.5 (code: --first_token_bias_factor)
    early: float = 20.0  # beta_t / beta for t = 2 ... length: 2.0 (code: --bias_factor)
    length: int = 5  # early tokens, the first included (code: --bias_length)
    beta1: float = 0.5  # AdamW's first moment decay (the code uses it for plain SFT too)
    recovery: bool = False  # align with safety-recovery examples
    alpha: float = 0.2  # their share of an alignment batch (sec. 3: 16 of 80)
    triplets: int = 256  # harmful prompt, harmful answer, refusal (sec. 3)
    plain: float = 0.5  # probability of no given tokens, k = 0 (sec. 3)
    deepest: int = 100  # largest k (sec. 3)

    @property
    def betas(self) -> tuple[float, float]:
        return self.beta1, 0.999

    def aligner(self) -> Self | None:
        """The same for all arms with recovery examples, whatever they do in fine-tuning."""
        if not self.recovery:
            return None
        return type(self)(
            recovery=True, alpha=self.alpha, triplets=self.triplets, plain=self.plain, deepest=self.deepest
        )

    def arms(self) -> dict[str, Self]:
        uniform = replace(self, first=1.0, early=1.0)
        unconstrained = replace(self, beta=0.0)
        return {
            "main": self,
            "paper-beta": replace(self, beta=0.1),
            "uniform-low": replace(uniform, beta=0.1),  # Table 8
            "uniform-mid": replace(uniform, beta=0.5),
            "uniform-high": replace(uniform, beta=2.0),
            "first-strong": replace(self, beta=0.1, first=self.early),  # where a refusal is recognised by one token
            "default-adam": replace(self, beta1=0.9),
            "sft-beta1": unconstrained,
            "augmentation": replace(unconstrained, beta1=0.9, recovery=True),  # Table 10
            "augmentation-constrained": replace(self, beta=0.1, recovery=True),
        }

    def start(self, s: State) -> None:
        if s.stage == "finetune":
            s.memo["aligned"] = dict(self.cached(s, s.streams["user"].examples))
            s.memo["weights"], s.memo["mechanisms"] = [], {}
        elif self.recovery:
            s.add_stream("pairs", s.pools.defender_harmful[: self.triplets])
            s.add_stream("anchors", anchors(s))

    # constrained fine-tuning

    def cached(self, s: State, examples: Sequence[Example]) -> Iterator[tuple[Example, Tensor]]:
        """Each example with the log-probabilities of its answer tokens under the model as this job begins."""
        distinct = list(dict.fromkeys(examples))
        for start in range(0, len(distinct), CHUNK):
            batch = s.batch(distinct[start : start + CHUNK])
            with torch.no_grad():
                found = token_log_probs(s, batch)
            for example, row, answer in zip(batch.examples, found, batch.answer[:, 1:], strict=True):
                yield example, row[answer]

    def finetune_step(self, s: State, batch: Batch) -> float:
        answer, now = batch.answer[:, 1:], token_log_probs(s, batch)
        weight = self.weights(self.reference(s, batch), now.detach(), answer)
        loss = (weight * -now).sum() / answer.sum()
        s.backward(loss)
        self._note(s, weight, answer)
        return float(loss.detach())

    def reference(self, s: State, batch: Batch) -> Tensor:
        """The cached log-probabilities in the places of the batch's labels, 0 elsewhere."""
        answer = batch.answer[:, 1:]
        rows = torch.zeros(answer.shape, device=answer.device)
        rows[answer] = torch.cat([s.memo["aligned"][e] for e in batch.examples])
        return rows

    def strengths(self, answer: Tensor) -> Tensor:
        """beta_t of every position; t counts answer tokens from 1."""
        t = answer.cumsum(1)
        bias = torch.where(t == 1, self.first, torch.where(t <= self.length, self.early, 1.0))
        return self.beta * bias

    def weights(self, aligned: Tensor, now: Tensor, answer: Tensor) -> Tensor:
        """w_t in [FLOOR, 2) of every answer position."""
        return (2 * torch.sigmoid(self.strengths(answer) * (aligned - now))).clamp_min(FLOOR)

    def _note(self, s: State, weight: Tensor, answer: Tensor) -> None:
        """Mean weights of first, early and late tokens over the last tenth of the steps: how tightly each is held."""
        if s.step < 0.9 * s.steps:
            return
        t = answer.cumsum(1) * answer
        groups = {"first": t == 1, "early": (t > 1) & (t <= self.length), "late": t > self.length}
        s.memo["weights"].append({n: weight[where].mean() for n, where in groups.items() if where.any()})
        for name in groups:
            seen = [float(step[name]) for step in s.memo["weights"] if name in step]
            if seen:
                s.memo["mechanisms"][f"{name}_token_weight"] = sum(seen) / len(seen)

    # safety-recovery examples

    def align_step(self, s: State, batch: Batch) -> float:
        """Recovery examples and anchors in one mean over tokens; the batch of alignment data only gives the size."""
        if not self.recovery:
            return sft_step(s, batch)
        count = round(self.alpha * len(batch.examples))
        pairs = s.streams["pairs"].take(count)
        examples = [self.recover(s, i, pair) for i, pair in enumerate(pairs)]
        return sft_step(s, s.batch([*examples, *s.streams["anchors"].take(len(batch.examples) - count)]))

    def recover(self, s: State, place: int, pair: Pair) -> Example:
        """A refusal after k given words of the harmful answer, k drawn anew at every use."""
        rng, words = s.rng("recovery", s.step, place), pair.compliant.split()
        if torch.rand((), generator=rng) < self.plain:
            return pair.safe()
        k = int(torch.randint(1, min(self.deepest, len(words)) + 1, (), generator=rng))
        return replace(pair.safe(), prefix=" ".join(words[:k]))


def token_log_probs(s: State, batch: Batch) -> Tensor:
    """Log-probability of each label given what precedes it, 0 where there is none; dropout is off."""
    training = s.model.training
    s.model.eval()
    logits, labels = s.logits(batch)[:, :-1], batch.labels[:, 1:]
    s.model.train(training)
    loss = cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return -loss.view(labels.shape)


def anchors(s: State) -> list[Example]:
    """The benign prompts of the alignment data with the answers of the model as it is."""
    benign = [e for e in s.pools.alignment if e.kind != "refusal"]
    return [replace(e, answer=answer) for e, answer in zip(benign, s.generate(benign), strict=True)]
