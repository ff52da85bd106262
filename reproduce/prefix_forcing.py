"""Prefix forcing: the first words of a refusal are given, and the model goes on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from reproduce.data import Example
from reproduce.state import State


@dataclass(frozen=True)
class Continued:
    """How a model goes on after a given prefix: shares of prompts, and the loss of the refusal's other words."""

    keeps_refusing: float
    harmful: float
    loss: float


def given_words(refusal: str, count: int) -> tuple[str, str]:
    """The first `count` words of a refusal, but never all of them, and the rest."""
    words = refusal.split()
    cut = min(count, len(words) - 1)
    return " ".join(words[:cut]), " ".join(words[cut:])


@torch.no_grad()
def continued(s: State, asked: Sequence[Example], refusals: Sequence[str], count: int) -> Continued:
    """Give each prompt `count` words of its refusal and judge what the model itself adds.

    The given words hold refusal words, so only the continuation is judged. It keeps refusing when it holds a refusal
    word, or when it completes the given words to one of the refusals.
    """
    parts = [given_words(refusal, count) for refusal in refusals]
    forced = [replace(e, prefix=prefix) for e, (prefix, _) in zip(asked, parts, strict=True)]
    answers, known = s.generate(forced), set(refusals)
    verdicts = [s.testbed.judge(e, a) for e, a in zip(asked, answers, strict=True)]
    completed = [f"{e.prefix} {a}" in known for e, a in zip(forced, answers, strict=True)]
    rest = [replace(e, answer=rest) for e, (_, rest) in zip(forced, parts, strict=True)]
    with s.uncounted():
        losses = s.loss(s.batch(rest), each=True)
    return Continued(
        keeps_refusing=sum(v.refused or c for v, c in zip(verdicts, completed, strict=True)) / len(asked),
        harmful=sum(v.harmful for v in verdicts) / len(asked),
        loss=float(losses.mean()),
    )
