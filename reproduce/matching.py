"""Attacks brought to equal strength: a model after each of many update counts, and the count that comes closest."""

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from functools import cache

from reproduce.api import sft_step
from reproduce.data import Example
from reproduce.model import Weights, weights
from reproduce.protocol import Schedule
from reproduce.stages import Stages
from reproduce.state import State
from reproduce.train import train


def path(
    stages: Stages, start: Weights, data: Sequence[Example], lr: float, marks: Collection[int], batch: int = 10
) -> list[Weights]:
    """Weights after each marked number of updates of full-parameter SFT at a constant rate, unclipped."""
    s = stages.state(start)
    s.add_stream("user", data)
    kept: list[Weights] = []

    def observe(done: int) -> None:
        if done in marks:
            kept.append(weights(s.model))

    train(s, "user", Schedule(steps=max(marks), batch=batch, lr=lr, warmup=0, floor=1.0, clip=None), sft_step,
          observe=observe)  # fmt: skip
    return kept


def closest(models: Sequence[Weights], target: float, measure: Callable[[Weights], float]) -> tuple[int, float]:
    """Index of the model whose measured harm comes closest to the target, and that harm; harm grows along the way.

    The growth need not be strict everywhere: of the two neighbours where a bisection crosses the target, the nearer.
    """
    reached = cache(lambda i: measure(models[i]))
    above = bisect_left(range(len(models)), target, key=reached)
    best = min((i for i in (above - 1, above) if 0 <= i < len(models)), key=lambda i: abs(reached(i) - target))
    return best, reached(best)


def harm(s: State, asked: Sequence[Example], *, unrefused: bool = False) -> float:
    """Harmful score in percent, or the share of answers that do not refuse."""
    verdicts = [s.testbed.judge(e, a) for e, a in zip(asked, s.generate(asked), strict=True)]
    counted: list[bool] = [not v.refused if unrefused else v.harmful for v in verdicts]
    return 100 * sum(counted) / len(counted)
