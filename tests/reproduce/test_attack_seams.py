"""What an attack may do beyond supplying data: craft it, train before, prepare the model, size the adapter, probe."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from reproduce.api import Attack, Threat
from reproduce.baselines import Sft
from reproduce.data import Example, Pools, digest
from reproduce.generate import generate
from reproduce.model import weights_digest
from reproduce.papers.p2402_18540_ptst import Ptst
from reproduce.papers.p2405_18641_lisa import Lisa
from reproduce.protocol import MODES, Lora, Protocol, Schedule
from reproduce.run import Run, Setting, _stages, perform
from reproduce.stages import Stages
from reproduce.state import State
from reproduce.train import train

ONE_STEP = Schedule(steps=1, batch=2, lr=0.0, warmup=0)


@dataclass(frozen=True, kw_only=True)
class Elaborate(Attack):
    """Every hook of an attack leaves a mark that the record or the state shows."""

    paper = "elaborate"
    threat: ClassVar[Threat] = Threat.WEIGHTS
    first: bool = False

    def data(self, pools: Pools, ratio: float | None, n: int, task: str, seed: int) -> list[Example]:
        return pools.benign[:8]

    def craft(self, stages: Stages, victim: State, chosen: list[Example]) -> list[Example]:
        with torch.no_grad():
            for p in victim.params():
                p.zero_()
        return chosen[:2]

    def earlier(self, protocol: Protocol, pools: Pools, seed: int) -> list[tuple[list[Example], Schedule]]:
        return [(pools.identity, replace(ONE_STEP, lr=1e-2))] if self.first else []

    def prepare(self, s: State) -> None:
        s.memo["shapes"] = sorted({tuple(pair.a.shape) for pair in s.adapters().values()})

    def schedule(self, protocol: Protocol, examples: int, lr: float) -> Schedule:
        return ONE_STEP

    def adapter(self, protocol: Protocol, mode: str) -> bool:
        return True

    def lora(self, protocol: Protocol) -> Lora:
        return Lora(rank=1, alpha=2)

    def read(self, answer: str) -> str:
        return "sorry"

    def probe(self, s: State) -> dict[str, float]:
        widths = {shape[0] for shape in s.memo["shapes"]}
        return {
            "rank": float(max(widths)),
            "norm": math.sqrt(sum(float(p.detach().square().sum()) for p in s.params())),
        }


def test_hooks_of_an_attack_reach_the_record(setting: Setting) -> None:
    found = perform(Run(method=Sft(), attack=Elaborate()), setting)
    assert found["status"] == "ok"
    assert found["digests"]["data"] == digest(setting.stages(0).pools.benign[:2])  # crafted from eight
    assert found["mechanisms"]["rank"] == 1  # the protocol's is 3
    assert found["metrics"]["refusal"]["k"] == found["metrics"]["refusal"]["n"]  # read, not written
    assert found["metrics"]["over_refusal"]["k"] == found["metrics"]["over_refusal"]["n"]
    assert found["mechanisms"]["norm"] > 1  # the victim's weights are zero, the run's own are not


def test_an_earlier_job_trains_the_model_that_the_last_job_finds(setting: Setting) -> None:
    alone, after = (perform(Run(method=Sft(), attack=Elaborate(first=first)), setting) for first in (False, True))
    assert after["digests"]["data"] == alone["digests"]["data"]
    assert after["mechanisms"]["norm"] != alone["mechanisms"]["norm"]  # the last job's own rate is zero
    assert after["before"] == alone["before"]


def test_arms_share_an_undefended_earlier_job_and_measure_as_if_each_had_trained_it(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    setting = replace(setting, cache=tmp_path)
    jobs = 0

    def counted(s: State, *args: Any, **kwargs: Any) -> None:
        nonlocal jobs
        jobs += s.stage == "finetune"
        train(s, *args, **kwargs)

    monkeypatch.setattr("reproduce.stages.train", counted)
    perform(Run(method=Sft(), attack=Elaborate()), setting)  # aligns, calibrates
    jobs = 0
    first, second = (perform(Run(method=Sft(), attack=Elaborate(first=True)), setting) for _ in range(2))
    assert jobs == 1
    assert all(second[what] == first[what] for what in ("before", "metrics", "mechanisms", "curves"))
    assert all(second["cost"][what] == first["cost"][what] > 0 for what in ("passes", "tokens"))
    slower = setting.stages(0)
    s = slower.ready(Sft(), "full", adapter=False)
    for rate in (1e-2, 1e-3):
        slower.undefended_job(s, slower.pools.identity, replace(ONE_STEP, lr=rate))
    assert jobs == 3  # other weights, another rate: each is its own job
    for alpha in (2, 4):
        s = slower.ready(Sft(), "full", adapter=True, lora=Lora(rank=1, alpha=alpha))
        slower.undefended_job(s, slower.pools.identity, ONE_STEP)
    assert jobs == 5  # adapters that start at zero and scale differently
    s = slower.ready(Sft(), "full", adapter=False)
    next(iter(s.params())).requires_grad = False
    slower.undefended_job(s, slower.pools.identity, replace(ONE_STEP, lr=1e-2))
    assert jobs == 6  # a frozen parameter


def test_runs_that_share_the_model_ask_it_once_before_fine_tuning(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is remembered is what each would have measured, and a defense that serves otherwise is asked itself."""
    asked = 0

    def counted(model: Any, tokenizer: Any, prompts: Sequence[list[int]], *rest: Any) -> list[str]:
        nonlocal asked
        asked += len(prompts)
        return generate(model, tokenizer, prompts, *rest)

    runs = [Run(method=method, mode=mode, n=40) for mode in MODES[:2] for method in (Sft(), Lisa(), Ptst())]
    alone = []
    for run in runs:
        _stages.cache_clear()
        alone.append(perform(run, setting)["before"])
    monkeypatch.setattr("reproduce.state.generate", counted)
    _stages.cache_clear()
    together, counts = [], []
    for run in runs:
        asked = 0
        together.append(perform(run, setting)["before"])
        counts.append(asked)
    assert together == alone
    once = counts[1]
    assert counts == [2 * once, once, 2 * once] * 2
    stages = setting.stages(0)
    for run in runs:
        s = stages.ready(run.method, run.mode, adapter=False)
        digests, prompts = weights_digest(s.references["aligned"]), stages.pools.harmful_test
        assert stages.first_answers(digests, run.method, s, prompts) == run.method.answer(s, prompts)


def test_cosine_falls_from_one_to_the_floor_through_the_middle() -> None:
    schedule = Schedule(steps=101, batch=1, lr=1.0, warmup=1, floor=0.0, cosine=True)
    assert schedule.factor(1) == 1.0
    assert schedule.factor(51) == pytest.approx(0.5)
    assert schedule.factor(26) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert schedule.factor(101) == pytest.approx(0.0)


def test_decay_rates_of_the_schedule_come_before_those_of_the_method(s: State, monkeypatch: pytest.MonkeyPatch) -> None:
    from reproduce.api import sft_step

    seen: list[tuple[float, float]] = []
    adamw = torch.optim.AdamW

    def remember(*args: object, **kwargs: object) -> torch.optim.Optimizer:
        seen.append(kwargs["betas"])  # type: ignore[arg-type]
        return adamw(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim, "AdamW", remember)
    for chosen in (None, (0.9, 0.95)):
        train(s, "user", replace(ONE_STEP, betas=chosen), sft_step, betas=(0.5, 0.6))
    assert seen == [(0.5, 0.6), (0.9, 0.95)]
