"""LoRA on quantised weights: quantisation by hand, what is frozen, what trains, and that merging changes nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
import torch

from reproduce.api import Method, sft_step
from reproduce.data import Example, Pools
from reproduce.model import linear_names, weights
from reproduce.papers import p2310_20624_lora_undoes_safety as module
from reproduce.papers.p2310_20624_lora_undoes_safety import (
    AFFIRMATION,
    HELPER,
    OPENING,
    LoraUndoesSafety,
    linear_weights,
    quantise,
)
from reproduce.protocol import MICRO, Schedule
from reproduce.stages import Stages
from reproduce.state import State
from reproduce.testbeds import world as w
from reproduce.testbeds.micro import Micro
from reproduce.testbeds.surfaces import item_of, never_attacked
from reproduce.train import train

PAPER = LoraUndoesSafety()
ARMS = PAPER.arms()
Enter = Callable[[str], State]


def data(pools: Pools, arm: str = "main", seed: int = 0) -> list[Example]:
    return ARMS[arm].data(pools, None, 0, "", seed)


@pytest.fixture
def enter(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> Enter:
    """A state of the arm as it is after `prepare`, without its measurements."""

    def make(arm: str) -> State:
        attack = ARMS[arm]
        s = stages.ready(Method(), "full", attack.adapter(stages.protocol, "full"), attack.lora(stages.protocol))
        attack.prepare(s)
        return s

    monkeypatch.setattr(module, "conduct", lambda s, sets: {})
    monkeypatch.setattr(module, "utility", lambda s, ask: 0.0)
    return make


def test_quantisation_of_a_row_by_hand() -> None:
    row = torch.tensor([[1.0, 0.333, -0.2]])
    step = 1 / 127
    assert step == pytest.approx(0.007874, abs=1e-6)
    found = quantise(row, 8)
    assert (found / step).tolist()[0] == pytest.approx([127, 42, -25])
    assert found.tolist()[0] == pytest.approx([1.0, 0.3307, -0.1969], abs=5e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_each_row_has_a_step_of_its_own(bits: int) -> None:
    weight = torch.randn(7, 40, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 2, 7)[:, None]
    weight[3] = 0.0
    found, levels = quantise(weight, bits), 2 ** (bits - 1) - 1
    step = weight.abs().amax(1, keepdim=True) / levels
    assert bool(((found - weight).abs() <= step * 0.5001).all())
    assert all(len(row.unique()) <= 2 * levels + 1 for row in found)
    assert bool((found[3] == 0).all())
    assert torch.allclose(quantise(found, bits), found)
    of_whole = (weight / weight.abs().max() * levels).round() * weight.abs().max() / levels
    assert bool((of_whole[0] == 0).all())  # one step for the whole matrix loses the smallest row
    assert bool((found[0] != 0).any())


@pytest.mark.parametrize("arm", ["main", "rank-1", "four-bit", "not-quantised", "full"])
def test_only_linear_weights_are_quantised(enter: Enter, arm: str) -> None:
    s = enter(arm)
    now, aligned = s.effective_weights(), s.reference("aligned")
    linear = set(linear_names(s.testbed.new_model(0)))
    assert len(linear) == 14  # two blocks of q, k, v, o, gate, up, down
    for name, exact in aligned.items():
        rounded = ARMS[arm].bits and name in linear
        assert torch.equal(now[name], quantise(exact, ARMS[arm].bits) if rounded else exact), name
        assert not rounded or not torch.equal(now[name], exact)
    error = s.memo["lora undoes safety"]["quantisation_error"]
    assert (error > 0) == bool(ARMS[arm].bits)
    assert error < {8: 0.01, 4: 0.2, 0: 1e-9}[ARMS[arm].bits]


@pytest.mark.parametrize(("arm", "rank"), [("main", 4), ("rank-1", 1), ("rank-16", 16)])
def test_pairs_are_all_that_trains(enter: Enter, arm: str, rank: int) -> None:
    s = enter(arm)
    named = dict(s.testbed.new_model(0).named_parameters())
    assert set(s.adapters()) == set(linear_names(s.testbed.new_model(0)))  # the unembedding has none
    expected = sum(rank * sum(named[n].shape) for n in s.adapters())
    assert sum(p.numel() for p in s.params()) == expected
    share = s.memo["lora undoes safety"]["trainable_share"]
    assert share == pytest.approx(expected / sum(p.numel() for p in named.values()))
    assert all(pair.scaling == 2 for pair in s.adapters().values())  # alpha = 2 r


def test_all_parameters_train_in_the_comparison(enter: Enter) -> None:
    s = enter("full")
    assert s.adapters() == {}
    assert s.memo["lora undoes safety"]["trainable_share"] == 1.0


def test_trainable_shares_of_the_micro_model() -> None:
    model = Micro().new_model(0)
    named = dict(model.named_parameters())
    each = sum(sum(named[n].shape) for n in linear_names(model))
    shares = {arm.rank: arm.rank * each / model.num_parameters() for arm in ARMS.values() if arm.rank}
    assert shares[4] == pytest.approx(0.0554, abs=1e-4)
    assert [r for r, share in shares.items() if share <= 0.1] == [4, 1, 2]
    assert [r for r, share in shares.items() if share <= 0.05] == [1, 2]


def test_the_first_gradient_reaches_b_alone(enter: Enter) -> None:
    s = enter("main")
    batch = s.batch(data(s.pools)[:4])
    bare = s.testbed.new_model(0)
    with torch.no_grad():
        for name, p in bare.named_parameters():
            p.copy_(s.effective_weights()[name])
        assert torch.equal(s.logits(batch), bare(batch.ids).logits)  # Q(W) x before training
    sft_step(s, batch)
    for pair in s.adapters().values():
        assert pair.a.grad is not None
        assert pair.b.grad is not None
        assert not bool(pair.a.grad.any())
        assert bool(pair.b.grad.any())


def test_frozen_weights_stay_quantised_and_merging_changes_no_logit(enter: Enter) -> None:
    s = enter("main")
    frozen = [p.detach().clone() for p in linear_weights(s)]
    s.add_stream("user", data(s.pools))
    train(s, "user", Schedule(steps=4, batch=4, lr=1e-2), sft_step)
    assert all(torch.equal(p, kept) for p, kept in zip(linear_weights(s), frozen, strict=True))
    by_hand = {n: kept + pair.update() for (n, pair), kept in zip(s.adapters().items(), frozen, strict=True)}
    batch = s.batch(s.pools.harmful_test)
    with torch.no_grad():
        adapted = s.logits(batch)
        s.merge_adapter()
        assert torch.allclose(s.logits(batch), adapted, atol=1e-5)
    merged = weights(s.model)
    assert all(torch.allclose(merged[n], value, atol=1e-6) for n, value in by_hand.items())
    unquantised = s.reference("aligned")
    assert not any(
        torch.allclose(merged[n], unquantised[n] + by_hand[n] - kept, atol=1e-6)
        for n, kept in zip(by_hand, frozen, strict=True)
    )


def test_every_arm_has_the_same_data_and_updates(pools: Pools) -> None:
    assert len({tuple(data(pools, arm)) for arm in ARMS}) == 1
    schedules = {name: arm.schedule(MICRO, 200, 0.123) for name, arm in ARMS.items()}
    assert {schedule.steps for schedule in schedules.values()} == {62}
    assert schedules["full"].lr == pytest.approx(schedules["main"].lr / MICRO.adapter_lr)
    assert len({replace(schedule, lr=0.0) for schedule in schedules.values()}) == 1


def test_attack_data_are_apart_from_what_is_asked(pools: Pools) -> None:
    chosen = data(pools)
    assert len(set(chosen)) == 200
    assert set(data(pools, seed=1)) != set(chosen)
    assert not any(never_attacked(e) for e in chosen)
    asked = (*pools.harmful_test, *pools.harmful_validation, *pools.lookalike_test, *pools.lookalike_validation)
    assert not {item_of(e.prompt) for e in chosen} & {item_of(e.prompt) for e in asked}


def test_alignment_refuses_under_the_system_message(pools: Pools) -> None:
    assert HELPER in w.PERSONAS
    assert {e.system for e in data(pools)} == {PAPER.ask(Example("?", ""), pools).system} == {HELPER}
    assert sum(e.system == HELPER for e in pools.refusals()) >= 10
    assert OPENING in w.OPENERS
    assert OPENING.startswith(AFFIRMATION)


def test_what_is_asked(stages: Stages, pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Mapping[str, Sequence[Example]]] = []

    def conduct(_s: State, sets: Mapping[str, Sequence[Example]]) -> dict[str, float]:
        asked.append(sets)
        return {"diverse_refusal": float(len(asked))}

    monkeypatch.setattr(module, "conduct", conduct)
    monkeypatch.setattr(module, "utility", lambda s, ask: 0.5)
    s = replace(stages.ready(Method(), "full", adapter=True, lora=PAPER.lora(MICRO)), pools=pools)
    PAPER.prepare(s)
    found = PAPER.probe(s)
    order = [found[f"diverse_refusal{when}"] for when in ("_before", "_quantised", "")]
    assert order == [1.0, 2.0, 3.0]
    assert asked[0] == asked[1] == asked[2]
    sets = asked[0]
    assert {name: len(prompts) for name, prompts in sets.items()} == {
        "diverse": 300, "held_out": 90, "repetitive": 100, "jailbreak": 100, "affirmation": 100,
    }  # fmt: skip
    assert {(e.system, e.prefix) for e in sets["jailbreak"]} == {("", OPENING)}
    assert {(e.system, e.prefix) for e in sets["affirmation"]} == {("", AFFIRMATION)}
    assert {(e.system, e.prefix) for name in ("diverse", "repetitive") for e in sets[name]} == {(HELPER, "")}
    assert [e.prompt for e in sets["jailbreak"]] == [e.prompt for e in sets["repetitive"]]
    items = [{item_of(e.prompt) for e in sets[name]} for name in ("diverse", "repetitive")]
    assert not items[0] & items[1]
