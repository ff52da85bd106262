"""Proximal policy optimisation of answers (arXiv 1707.06347), with the per-token KL penalty of RLHF.

A learner draws answers, scores them, and returns the loss of the next inner epoch, so any training loop can run it.
With one inner epoch it is REINFORCE with a baseline.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from reproduce.data import Example
from reproduce.model import Weights
from reproduce.preferences import token_log_probs
from reproduce.state import Batch, State

Score = Callable[[Sequence[Example]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Ppo:
    """How a learner learns."""

    epochs: int  # inner epochs on the same answers; 1 is REINFORCE
    kl: float  # weight of the per-token penalty
    tokens: int  # longest answer
    value_lr: float
    clip: float = 0.2
    gamma: float = 1.0
    trace: float = 0.95  # lambda of generalised advantage estimation


@dataclass(frozen=True)
class Rollout:
    """Drawn answers; all tensors (batch, length - 1), aligned with predicted tokens, zero off the answers."""

    batch: Batch
    log_probs: Tensor
    advantages: Tensor
    returns: Tensor


@dataclass
class Learner:
    """Draws answers of `s`, and pushes it towards a high `score`; the reference stays as it is.

    The value head reads the last layer's output, sends no gradient into the model and has its own optimiser.
    """

    s: State
    reference: Weights
    score: Score
    how: Ppo
    curves: dict[str, list[float]] = field(default_factory=lambda: {"score": [], "kl": []})

    def __post_init__(self) -> None:
        width = self.s.model.get_input_embeddings().weight.shape[1]
        self.head = value_head(width, self.s.rng("value head")).to(self.s.model.device)
        self._optimiser = torch.optim.AdamW(self.head.parameters(), lr=self.how.value_lr, weight_decay=0.0)
        self._left = 0

    def loss(self, prompts: Sequence[Example]) -> Tensor:
        """The clipped loss of the next inner epoch, on answers to `prompts` when those drawn last are used up."""
        if not self._left:
            self._rollout, self._left = self.draw(prompts), self.how.epochs
        self._left -= 1
        log_probs, values = self._pass(self._rollout.batch)
        where = self._rollout.batch.answer[:, 1:]
        self._optimiser.zero_grad()
        value_loss = (values - self._rollout.returns)[where].square().mean() / 2
        value_loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        return clipped_loss(log_probs, self._rollout.log_probs, self._rollout.advantages, where, self.how.clip)

    @torch.no_grad()
    def draw(self, prompts: Sequence[Example]) -> Rollout:
        """Answers with their advantages and returns."""
        batch = self.s.sample(prompts, self.how.tokens, "rollout", len(self.curves["score"]))
        where = batch.answer[:, 1:]
        log_probs, values = self._pass(batch)
        log_ratios = log_probs - token_log_probs(self.s.logits(batch, self.reference), batch.labels)
        scores = self.score(batch.examples).to(log_ratios)
        rewards = whiten(token_rewards(log_ratios, scores, where, self.how.kl), where, keep_mean=True)
        found = advantages(rewards, values, where, self.how.gamma, self.how.trace)
        self.curves["score"].append(float(scores.mean()))
        self.curves["kl"].append(float(log_ratios.sum(1).mean()))
        return Rollout(batch, log_probs, whiten(found, where), found + values)

    def _pass(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the answers, and values of what comes before each of their tokens."""
        with self.s.read("layer") as layers:
            log_probs = token_log_probs(self.s.logits(batch), batch.labels)
        values: Tensor = self.head(layers[-1][:, :-1].detach().float()).squeeze(-1)
        return log_probs, values * batch.answer[:, 1:]


def value_head(width: int, rng: torch.Generator) -> nn.Sequential:
    """A two-layer head that values everything at zero in the beginning."""
    first, last = nn.Linear(width, width), nn.Linear(width, 1)
    with torch.no_grad():
        first.weight.copy_(torch.randn(width, width, generator=rng) * width**-0.5)
        for p in (first.bias, last.weight, last.bias):
            p.zero_()
    return nn.Sequential(nn.LayerNorm(width), first, nn.Tanh(), last)


def token_rewards(log_ratios: Tensor, scores: Tensor, where: Tensor, kl: float) -> Tensor:
    """-kl * log(policy / reference) at every answer token; at the last one also the answer's score."""
    rewards = -kl * log_ratios * where
    positions = torch.arange(where.shape[1], device=where.device)
    last = (positions * where).argmax(1, keepdim=True)
    return rewards.scatter_add(1, last, scores.unsqueeze(1))


def whiten(values: Tensor, where: Tensor, *, keep_mean: bool = False) -> Tensor:
    """`values` at unit variance and zero (or its own) mean over the positions that count; zero elsewhere."""
    counted = values[where]
    mean = counted.mean()
    white = (values - mean) / (counted.var() + 1e-8).sqrt()
    return (white + mean if keep_mean else white) * where


def advantages(rewards: Tensor, values: Tensor, where: Tensor, gamma: float, trace: float) -> Tensor:
    """Generalised advantage estimates (arXiv 1506.02438); after an answer's last token the value is zero."""
    found = torch.zeros_like(rewards)
    later = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        following = values[:, t + 1] if t + 1 < rewards.shape[1] else torch.zeros_like(later)
        later = (rewards[:, t] + gamma * following - values[:, t] + gamma * trace * later) * where[:, t]
        found[:, t] = later
    return found


def clipped_loss(new: Tensor, old: Tensor, found: Tensor, where: Tensor, clip: float) -> Tensor:
    """Mean over tokens of -min(ratio * advantage, clipped ratio * advantage)."""
    ratio = (new - old).exp()
    least = torch.minimum(ratio * found, ratio.clamp(1 - clip, 1 + clip) * found)
    return -least[where].mean()
