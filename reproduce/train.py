"""The training loop of every stage: the hook leaves gradients, the loop does the rest."""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from reproduce.protocol import Schedule

if TYPE_CHECKING:
    from reproduce.state import Batch, State

Step = Callable[["State", "Batch"], float]


class Diverged(RuntimeError):
    """The loss or a gradient stopped being finite: a result, recorded with its reason."""


def worked(device: str) -> float:
    """Seconds of work up to now: the process's own time on a processor, by the clock where a GPU works."""
    return time.process_time() if device == "cpu" else time.perf_counter()


def train(
    s: "State",
    stream: str,
    schedule: Schedule,
    step: Step,
    after_step: Callable[["State"], None] = lambda s: None,
    observe: Callable[[int], None] = lambda done: None,
    betas: tuple[float, float] = (0.9, 0.999),
) -> None:
    """Train the trainable parameters of `s` on batches of `stream`; `observe(done)` sees the number of finished steps.

    `step` fills `.grad` and returns the loss to log; clipping, AdamW, the schedule and clearing gradients happen here.
    """
    params = s.params()
    if not params:
        raise ValueError("nothing to train: every parameter is frozen")
    betas = schedule.betas or betas
    optimiser = torch.optim.AdamW(params, lr=schedule.lr, betas=betas, weight_decay=0.0, fused=True)
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule.factor)
    s.model.train()
    s.steps = schedule.steps
    for s.step in range(schedule.steps):
        observe(s.step)
        optimiser.zero_grad(set_to_none=True)
        loss = step(s, s.draw(stream, schedule.batch))
        norm = torch.nn.utils.clip_grad_norm_(params, schedule.clip or math.inf)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(f"loss {loss}, gradient norm {float(norm)} at step {s.step} of {schedule.steps}")
        optimiser.step()
        rates.step()
        after_step(s)
    optimiser.zero_grad(set_to_none=True)
    observe(schedule.steps)
