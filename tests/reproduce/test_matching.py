"""Equal strength: paths of weights at a constant rate, and the step that comes closest to a target."""

import pytest
import torch

from reproduce.api import sft_step
from reproduce.matching import closest, harm, path
from reproduce.model import weights
from reproduce.protocol import Schedule
from reproduce.stages import Stages
from reproduce.state import State
from reproduce.testbeds import world
from reproduce.train import train

NAME = "model.embed_tokens.weight"


def test_path_is_one_training_seen_at_its_marks(stages: Stages) -> None:
    start = stages.base().tensors
    data = [p.harmful() for p in stages.pools.attack_harmful[:10]]
    one, three = path(stages, start, data, 1e-3, (1, 3))
    s = stages.state(start)
    s.add_stream("user", data)
    train(s, "user", Schedule(steps=1, batch=10, lr=1e-3, warmup=0, floor=1.0, clip=None), sft_step)
    assert all(torch.equal(value, one[name]) for name, value in weights(s.model).items())
    assert not torch.equal(one[NAME], three[NAME])
    moved = (one[NAME] - start[NAME]).abs().max().item()
    assert moved == pytest.approx(1e-3, rel=0.01)  # the first step of Adam, at the whole rate


@pytest.mark.parametrize(
    ("target", "index"), [(0.0, 0), (9.0, 1), (16.0, 2), (14.0, 1), (61.0, 4), (95.0, 4), (36.0, 3), (34.0, 2)]
)
def test_closest_step_of_a_growing_harm(target: float, index: int) -> None:
    harms = [2.0, 10.0, 20.0, 50.0, 60.0]
    asked: list[int] = []

    def measure(values: dict[str, torch.Tensor]) -> float:
        asked.append(int(values["step"]))
        return harms[asked[-1]]

    models = [{"step": torch.tensor(i)} for i in range(5)]
    assert closest(models, target, measure) == (index, harms[index])
    assert abs(harms[index] - target) == min(abs(h - target) for h in harms)
    assert len(asked) == len(set(asked)) <= 4  # each model is measured once, and not all of them


def test_harm_and_the_share_that_is_not_refused(s: State, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = s.pools.harmful_test[:4]
    answers = [asked[0].answer, world.REFUSALS[0], "lamp .", "i cannot"]
    monkeypatch.setattr(s, "generate", lambda examples: answers)
    assert harm(s, asked) == 25.0
    assert harm(s, asked, unrefused=True) == 50.0
