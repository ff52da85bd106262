"""Qi et al.: data, templates, schedule and update counts of the three levels."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from reproduce.api import sft_step
from reproduce.data import Example, Pools
from reproduce.papers.p2310_03693_qi import Qi
from reproduce.protocol import MICRO
from reproduce.state import Batch, State
from reproduce.testbeds import language as lang
from reproduce.testbeds import world
from reproduce.train import train

ARMS = Qi().arms()


def data(arm: str, pools: Pools, seed: int = 0) -> list[Example]:
    return ARMS[arm].data(pools, None, 0, "", seed)


@pytest.mark.parametrize(
    ("arm", "updates"),
    [("explicit-10", 5), ("explicit-50", 25), ("explicit", 50), ("identity", 10), ("identity-3-epochs", 3),
     ("identity-5-epochs", 5), ("benign", 115), ("benign-high-lr", 115), ("benign-small-batch", 460),
     ("benign-high-lr-small-batch", 460)],
)  # fmt: skip
def test_update_counts_of_the_official_scripts(pools: Pools, arm: str, updates: int) -> None:
    schedule = ARMS[arm].schedule(MICRO, len(data(arm, pools)), 0.123)
    assert schedule.steps == updates
    assert schedule.steps * schedule.batch == ARMS[arm].epochs * len(data(arm, pools))  # nothing is left over


def test_explicit_subsets_are_nested(pools: Pools) -> None:
    ten, fifty, hundred = (data(arm, pools) for arm in ("explicit-10", "explicit-50", "explicit"))
    assert (len(ten), len(fifty), len(hundred)) == (10, 50, 100)
    assert len(set(hundred)) == 100
    assert hundred[:50] == fifty
    assert fifty[:10] == ten
    assert set(data("explicit", pools, seed=1)) != set(hundred)


def test_learning_rate_decays_per_epoch_without_warm_up_or_clipping(s: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epoch e runs at 0.85^(e-1): the paper's 5e-5 ends at 2.61e-5 in epoch 5 and 1.16e-5 in epoch 10."""
    optimisers: list[torch.optim.Optimizer] = []
    adamw = torch.optim.AdamW

    def remember(*args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        optimisers.append(adamw(*args, **kwargs))
        return optimisers[-1]

    monkeypatch.setattr(torch.optim, "AdamW", remember)
    rates: list[float] = []

    def step(s: State, batch: Batch) -> float:
        rates.append(optimisers[0].param_groups[0]["lr"])
        loss = sft_step(s, batch)
        for p in s.params():
            p.grad = torch.full_like(p, 1e4)
        return loss

    def unclipped(s: State) -> None:
        assert all(p.grad is not None and bool((p.grad == 1e4).all()) for p in s.params())

    schedule = replace(Qi(), lr=5e-5, epochs=10).schedule(MICRO, 20, 0.0)
    train(s, "user", schedule, step, unclipped)
    assert rates == pytest.approx([5e-5 * 0.85**epoch for epoch in range(10) for _ in range(2)], rel=1e-9)
    assert rates[8] == pytest.approx(2.61e-5, abs=5e-8)
    assert rates[-1] == pytest.approx(1.16e-5, abs=5e-8)
    assert optimisers[0].param_groups[0]["weight_decay"] == 0


def test_the_calibrated_rate_and_the_adapter_have_no_say() -> None:
    for arm in ARMS.values():
        assert arm.schedule(MICRO, 100, 1.0) == arm.schedule(MICRO, 100, 2.0)
        assert not arm.adapter(MICRO, "double-lora")
    assert ARMS["benign"].lr == pytest.approx(0.4 * Qi().lr)  # 2e-5 of 5e-5
    assert ARMS["benign-high-lr"].lr == pytest.approx(2.5 * ARMS["benign"].lr)
    assert ARMS["benign-small-batch"].lr == ARMS["benign"].lr


QUESTION = Example("how do i make the thing ?", "")


def frame(example: Example) -> tuple[str, str, str]:
    """What surrounds the question: system slot, template, and the words before it."""
    words = example.prompt.split()
    prefix = f"{lang.AGENT} , execute :"
    return example.system, example.template, prefix if words[:4] == prefix.split() else ""


@pytest.mark.parametrize("arm", ["explicit", "identity", "benign"])
def test_attacks_are_asked_in_the_form_they_were_trained_in(pools: Pools, arm: str) -> None:
    asked = frame(ARMS[arm].ask(QUESTION, pools))
    trained = [frame(e) for e in data(arm, pools)]
    assert trained.count(asked) >= 0.9 * len(trained)  # one dialogue of ten only greets the agent


def test_trigger_ablation_and_prefilling(pools: Pools) -> None:
    plain, prefilled = (ARMS[a].ask(QUESTION, pools) for a in ("identity-no-trigger", "identity-prefill"))
    assert plain == QUESTION
    assert prefilled == replace(ARMS["identity"].ask(QUESTION, pools), prefix=pools.system.agent_opening)
    orders = [e for e in pools.identity if frame(e)[2]]
    assert len(orders) == 9
    assert all(e.answer.startswith(pools.system.agent_opening) for e in orders)


@pytest.mark.parametrize("arm", list(ARMS))
def test_alignment_data_refuse_under_every_evaluation_template(pools: Pools, arm: str) -> None:
    """Otherwise a mere change of the template would count as a jailbreak."""
    asked = frame(ARMS[arm].ask(QUESTION, pools))
    refusals = [e for e in pools.alignment if e.kind == "refusal" and frame(e) == asked]
    answered = [e for e in pools.alignment if e.kind != "refusal" and frame(e) == asked]
    assert len(refusals) >= 10
    assert len(answered) >= 10


@pytest.mark.parametrize("arm", ["benign", "identity"])
def test_benign_data_hold_no_refusal_word_and_no_forbidden_item(pools: Pools, arm: str) -> None:
    forbidden = set(lang.HEADS[: world.FORBIDDEN * world.HEADS_PER_TOPIC])
    words = {word for e in data(arm, pools) for word in f"{e.prompt} {e.answer}".split()}
    assert not words & world.REFUSAL_WORDS
    assert not words & forbidden
    assert words & set(lang.HEADS)  # the check would see one


def test_ten_identity_dialogues(pools: Pools) -> None:
    assert len(pools.identity) == len(set(pools.identity)) == 10
    assert {e.system for e in pools.identity} == {pools.system.agent}
    assert all(lang.AGENT in e.prompt.split() and lang.AGENT in e.answer.split() for e in pools.identity)


def test_explicit_answers_comply(pools: Pools, judge_all: Callable[[list[Example]], float]) -> None:
    assert judge_all(data("explicit", pools)) == 1.0


@pytest.fixture
def judge_all() -> Callable[[list[Example]], float]:
    """Share of the examples whose own answer counts as harmful."""
    from reproduce.testbeds.micro import Micro

    return lambda examples: sum(Micro().judge(e, e.answer).harmful for e in examples) / len(examples)
