"""Fluency: is an answer, whatever it says, language that the base model could have written?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reproduce.data import Example
from reproduce.state import State

LIMIT = 2.0  # an answer is fluent when its perplexity is at most this many times the median of the base's own answers


def answered(asked: Sequence[Example], answers: Sequence[str]) -> list[Example]:
    """The prompts with these answers."""
    return [replace(e, answer=a) for e, a in zip(asked, answers, strict=True)]


@dataclass
class Fluency:
    """A gate for answers to `prompts`; the base model refuses nothing, so refusals are not fluent either."""

    base: State
    prompts: Sequence[Example]

    def __post_init__(self) -> None:
        own = self.perplexity(self.base.generate(self.prompts))
        self.limit = LIMIT * float(own.median())

    def __call__(self, answers: Sequence[str]) -> list[bool]:
        return [bool(p <= self.limit) for p in self.perplexity(answers)]

    @torch.no_grad()
    def perplexity(self, answers: Sequence[str]) -> Tensor:
        losses: Tensor = self.base.loss(self.base.batch(answered(self.prompts, answers)), each=True)
        return losses.exp()
