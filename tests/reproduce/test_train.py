"""The training loop: streams without replacement, clipping, and divergence as a result."""

import time
from typing import Any

import pytest
import torch

from reproduce.api import sft_step
from reproduce.data import Example, derived_rng
from reproduce.protocol import Schedule
from reproduce.state import State, Stream
from reproduce.train import Diverged, train, worked


def test_stream_draws_everything_once_per_epoch() -> None:
    examples = [Example(str(i), "") for i in range(7)]
    stream = Stream(examples, derived_rng("test"))
    drawn = [e.prompt for _ in range(7) for e in stream.take(3)]
    epochs = [drawn[i : i + 7] for i in range(0, 21, 7)]
    assert all(sorted(epoch) == [str(i) for i in range(7)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    again = Stream(examples, derived_rng("test"))
    assert [e.prompt for e in again.take(21)] == drawn
    with pytest.raises(ValueError, match="at least one example"):
        Stream([], derived_rng("test"))


def test_the_loop_clips_and_leaves_no_gradient(s: State) -> None:
    norms: list[float] = []

    def loud(s: State, batch: Any) -> float:
        s.backward(1000 * s.loss(batch))
        return 0.0

    def watch(s: State) -> None:
        norms.append(torch.stack([g.norm() for g in s.grads()]).norm().item())

    train(s, "user", Schedule(steps=2, batch=4, lr=1e-3, clip=1.0), loud, watch)
    assert norms == pytest.approx([1.0, 1.0], rel=1e-3)
    assert all(p.grad is None for p in s.params())


def test_divergence_is_reported_in_words(s: State) -> None:
    with pytest.raises(Diverged, match=r"at step 0 of 5"):
        train(s, "user", Schedule(steps=5, batch=4, lr=1e-3), lambda s, batch: float("nan"))
    for p in s.params():
        p.requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter is frozen"):
        train(s, "user", Schedule(steps=1, batch=4, lr=1e-3), sft_step)


def test_waiting_is_no_work_on_a_processor_and_counts_where_another_chip_works() -> None:
    idle, clock = worked("cpu"), worked("cuda")
    time.sleep(0.3)
    assert worked("cpu") - idle < 0.2
    assert worked("cuda") - clock >= 0.3
