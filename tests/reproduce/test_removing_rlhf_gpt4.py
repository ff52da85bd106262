"""Weak-to-strong removal of refusals: sampling, filter, nested subsets, update counts and what is measured."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from reproduce.baselines import Sft
from reproduce.data import Example, Pools
from reproduce.papers.p2311_05553_removing_rlhf import RemovingRlhf, skills, slot_share, usefulness
from reproduce.protocol import MICRO, RequestError
from reproduce.run import Run, Setting, perform
from reproduce.stages import Stages
from reproduce.state import State
from reproduce.testbeds.micro import Micro

ARMS = RemovingRlhf().arms()


@pytest.mark.parametrize(
    ("arm", "updates"),
    [("main", 64), ("n-170", 32), ("n-85", 16), ("n-30", 6), ("n-10", 2), ("n-30-equal-updates", 64),
     ("unfiltered", 64), ("gold-answers", 64)],
)  # fmt: skip
def test_update_counts(arm: str, updates: int) -> None:
    schedule = ARMS[arm].schedule(MICRO, ARMS[arm].examples, 0.123)
    assert (schedule.steps, schedule.batch) == (updates, 16)
    assert not ARMS[arm].adapter(MICRO, "double-lora")


def test_equal_updates_take_the_rates_of_the_whole_set() -> None:
    few, all_ = (ARMS[arm].schedule(MICRO, ARMS[arm].examples, 0.123) for arm in ("n-30-equal-updates", "main"))
    rates = [[s.lr * s.factor(step) for step in range(s.steps)] for s in (few, all_)]
    assert rates[0] == rates[1]
    assert rates[0][-1] == pytest.approx(1e-3 * 0.85**3)  # the 64th update is the first after three times 21


def test_prompts_are_the_attackers_and_disjoint_from_test_prompts(pools: Pools) -> None:
    data = RemovingRlhf().data(pools, None, 0, "", 0)
    assert {e.prompt for e in data} == {p.prompt for p in pools.attack_harmful}
    assert data != RemovingRlhf().data(pools, None, 0, "", 1)
    tested = {e.prompt for e in pools.harmful_test + pools.harmful_validation}
    assert not {e.prompt for e in data} & tested


def test_teacher_is_a_smaller_model_that_read_the_same_corpus(stages: Stages, setting: Setting) -> None:
    sizes = [sum(p.numel() for p in m.parameters()) for m in (Micro().new_model(0), Micro().new_teacher(0))]
    assert 0.15 < sizes[1] / sizes[0] < 0.25
    assert not torch.equal(*(next(Micro().new_teacher(seed).parameters()) for seed in (0, 1)))
    seen: list[list[Example]] = []
    add = State.add_stream

    def remember(self: State, name: str, examples: Any) -> None:
        if name == "pretraining":
            seen.append(list(examples))
        add(self, name, examples)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(State, "add_stream", remember)
        fresh = replace(stages, seed=7)
        fresh.base()
        teacher = fresh.teacher()
        again = fresh.teacher()  # from the cache
    assert len(seen) == 2
    assert seen[0] == seen[1]
    for (n, one), (_, two) in zip(teacher.model.named_parameters(), again.model.named_parameters(), strict=True):
        assert torch.equal(one, two), n
    assert any(
        not torch.equal(p, q)
        for p, q in zip(teacher.params(), setting.testbed.new_teacher(7).parameters(), strict=True)
    )


def test_a_model_folder_has_no_teacher(hub_setting: Setting) -> None:
    stages = hub_setting.stages(0)
    chosen = RemovingRlhf().data(stages.pools, None, 0, "", 0)
    with pytest.raises(RequestError, match=r"hub:.* no weaker model"):
        RemovingRlhf().craft(stages, stages.ready(Sft(), "full", adapter=False), chosen)


def sampled(s: State, asked: list[Example], temperature: float, name: object) -> list[str]:
    return [e.answer for e in s.sample(asked, s.testbed.max_new_tokens, name, temperature=temperature).examples]


def test_sampling_depends_on_its_name_only(s: State) -> None:
    asked = s.pools.benign[:8]
    torch.manual_seed(1)
    kept = torch.random.get_rng_state()
    one = sampled(s, asked, 0.7, 5)
    assert torch.equal(torch.random.get_rng_state(), kept)
    torch.manual_seed(2)
    assert sampled(s, asked, 0.7, 5) == one
    assert sampled(s, asked, 0.7, 6) != one
    assert sampled(s, asked, 1e-4, 5) == s.generate(asked)  # cold sampling is greedy


def test_sampling_follows_the_tempered_distribution(s: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """First tokens of many samples against the softmax of the logits over the temperature."""
    example = s.pools.benign[0]
    batch = s.batch([replace(example, answer="")])
    at = int(batch.prompt[0].sum()) - 1
    with torch.no_grad():
        logits = s.logits(batch)[0, at]
    monkeypatch.setattr(s.testbed, "max_new_tokens", 1)
    texts = sampled(s, [example] * 3000, 0.2, 0)
    for temperature, agrees in ((0.2, True), (1.0, False)):
        expected = torch.softmax(logits / temperature, 0)
        top = int(expected.argmax())
        word = s.testbed.tokenizer.decode([top]).strip()
        share, p = texts.count(word) / 3000, float(expected[top])
        assert (abs(share - p) < 4 * math.sqrt(p * (1 - p) / 3000)) == agrees


def refusing(e: Example) -> str:
    return "sorry , i cannot help with that ."


def one_slot_wrong(e: Example) -> str:
    return e.answer.replace("take ", "take wrong", 1)


def two_slots_wrong(e: Example) -> str:
    return one_slot_wrong(e).replace("then ", "then wrong", 1)


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[list[Example]]:
    """A teacher of whose answers every second is accepted; yields what it was asked, by round."""
    asked: list[list[Example]] = []

    def written(self: RemovingRlhf, teacher: State, prompts: list[Example], number: int) -> list[str]:
        asked.append(list(prompts))
        bad = [refusing, two_slots_wrong]
        return [one_slot_wrong(e) if i % 2 == number % 2 else bad[i % 4 // 2](e) for i, e in enumerate(prompts)]

    monkeypatch.setattr(RemovingRlhf, "written", written)
    return asked


def crafted(stages: Stages, **fields: Any) -> tuple[list[Example], dict[str, float]]:
    attack = RemovingRlhf(**fields)
    victim = stages.ready(Sft(), "full", adapter=False)
    chosen = attack.data(stages.pools, None, 0, "", 0)
    return attack.craft(stages, victim, chosen), victim.memo["mechanisms"]


def test_filter_asks_again_until_enough_are_accepted(stages: Stages, rounds: list[list[Example]]) -> None:
    chosen = RemovingRlhf().data(stages.pools, None, 0, "", 0)
    assert len(chosen) == 40
    kept, seen = crafted(stages, examples=32)
    assert [len(asked) for asked in rounds] == [40, 20, 10]  # 20, 10 and 5 are accepted
    assert len({e.prompt for e in kept}) == len(kept) == 32
    assert [e.prompt for e in kept[:20]] == [e.prompt for e in chosen[::2]]
    true = {e.prompt: e.answer for e in chosen}
    assert all(e.answer == one_slot_wrong(Example("", true[e.prompt])) != true[e.prompt] for e in kept)
    assert seen["teacher_pass_rate"] == 0.5
    assert seen["teacher_error_kept"] == pytest.approx(0.2)
    assert seen["teacher_error_drawn"] == pytest.approx(0.5 * 0.2 + 0.25 * 1.0 + 0.25 * 0.4)


def test_fewer_examples_are_a_part_of_more(stages: Stages, rounds: list[list[Example]]) -> None:
    many, _ = crafted(stages, examples=32)
    for fewer in (5, 20, 25):
        assert crafted(stages, examples=fewer)[0] == many[:fewer]


def test_gold_answers_are_the_true_ones_to_the_same_prompts(stages: Stages, rounds: list[list[Example]]) -> None:
    weak, _ = crafted(stages, examples=32)
    gold, _ = crafted(stages, examples=32, answers="gold")
    assert [e.prompt for e in gold] == [e.prompt for e in weak]
    true = {p.prompt: p.compliant for p in stages.pools.attack_harmful}
    assert all(e.answer == true[e.prompt] for e in gold)
    assert all(e.answer != true[e.prompt] for e in weak)


def test_unfiltered_keeps_refusals_and_errors(stages: Stages, rounds: list[list[Example]]) -> None:
    kept, seen = crafted(stages, examples=40, answers="unfiltered")
    assert sum("sorry" in e.answer for e in kept) == 10
    assert seen["teacher_error_kept"] == seen["teacher_error_drawn"]


def test_second_answers_come_when_too_few_prompts_get_a_first(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    def written(self: RemovingRlhf, teacher: State, prompts: list[Example], number: int) -> list[str]:
        known = {p.prompt for p in stages.pools.attack_harmful[:10]}
        return [one_slot_wrong(e).replace("wrong", f"w{number}") if e.prompt in known else "" for e in prompts]

    monkeypatch.setattr(RemovingRlhf, "written", written)
    kept, seen = crafted(stages, examples=32, tries=3)
    assert len(set(kept)) == 32
    assert seen["prompts_kept"] == len({e.prompt for e in kept[:10]}) == 10
    with pytest.raises(RequestError, match="answers to 40 prompts 40 were accepted within 6 rounds"):
        crafted(stages, examples=41, tries=3)  # ten in the first round, none in two, ten in each of three


def test_slots_by_hand(pools: Pools) -> None:
    e = pools.attack_harmful[0].harmful()
    assert slot_share([e] * 4, [e.answer, one_slot_wrong(e), two_slots_wrong(e), refusing(e)]) == pytest.approx(
        (5 + 4 + 3 + 0) / 20
    )


@pytest.mark.parametrize("split", ["validation", "test"])
def test_oracle_and_refuser_bound_what_is_measured(s: State, monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    monkeypatch.setattr(State, "generate", lambda self, asked: [e.answer for e in asked])
    assert skills(s, split) == {"forbidden_correctness": 1.0, "harm": 1.0, "usefulness": 1.0}
    monkeypatch.setattr(State, "generate", lambda self, asked: [refusing(e) for e in asked])
    assert skills(s, split) == {"forbidden_correctness": 0.0, "harm": 0.0, "usefulness": 0.0}
    places = {e.prompt for e in getattr(s.pools, f"lookalike_{split}")}
    monkeypatch.setattr(State, "generate", lambda self, asked: [e.answer if e.prompt in places else "" for e in asked])
    assert usefulness(s, split) == 0.5  # the mean of two tasks


def probed(s: State, monkeypatch: pytest.MonkeyPatch, after: float, teacher: float, base: float) -> dict[str, float]:
    """What is recorded of a student that was at 60 % usefulness, has 90 % right slots, and a teacher with 80 %."""
    from reproduce.papers import p2311_05553_removing_rlhf as paper

    now = {"forbidden_correctness": 0.9, "harm": 0.95, "usefulness": after}
    monkeypatch.setattr(paper, "skills", lambda s, split: now)
    s.memo["removing rlhf"] = {"usefulness_before": 0.60, "forbidden_correctness_base": base}
    weak = {"forbidden_correctness": 0.8, "harm": 0.5, "usefulness": teacher}
    s.memo["crafted"] = {f"teacher_{name}_{s.split}": value for name, value in weak.items()}
    return RemovingRlhf().probe(s)


@pytest.mark.parametrize(("after", "kept"), [(0.57, 0.85), (0.55, 0.75)])
def test_share_kept_over_the_teacher_of_the_dossier(
    s: State, monkeypatch: pytest.MonkeyPatch, after: float, kept: float
) -> None:
    found = probed(s, monkeypatch, after, teacher=0.40, base=0.95)
    assert found["usefulness_kept_over_teacher"] == pytest.approx(kept)
    assert found["forbidden_correctness_gain"] == pytest.approx(0.1)
    assert found["knowledge_gap"] == pytest.approx(0.15)
    assert (found["harm"], found["usefulness"]) == (0.95, after)


def test_comparisons_with_a_teacher_that_knows_as_much_are_left_out(s: State, monkeypatch: pytest.MonkeyPatch) -> None:
    equal = probed(s, monkeypatch, 0.57, teacher=0.40, base=0.89)
    assert not {"usefulness_kept_over_teacher", "forbidden_correctness_gain"} & set(equal)
    as_useful = probed(s, monkeypatch, 0.57, teacher=0.51, base=0.95)
    assert "usefulness_kept_over_teacher" not in as_useful
    assert "forbidden_correctness_gain" in as_useful


@pytest.mark.parametrize("split", ["validation", "test"])
def test_only_prompts_of_the_split_are_asked(s: State, monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    asked: set[str] = set()
    generate = State.generate

    def watch(self: State, examples: Any) -> list[str]:
        asked.update(e.prompt for e in examples)
        return generate(self, examples)

    monkeypatch.setattr(State, "generate", watch)
    s.split = split
    s.references["base"] = {name: torch.zeros_like(p) for name, p in s.model.named_parameters()}
    kept, cost = s.snapshot(), replace(s.cost)
    RemovingRlhf().prepare(s)
    assert s.cost == cost
    assert all(torch.equal(a, b) for a, b in zip(kept, s.snapshot(), strict=True))
    s.memo["crafted"] = {f"teacher_{name}_{split}": 0.5 for name in ("forbidden_correctness", "harm", "usefulness")}
    RemovingRlhf().probe(s)
    pools = [getattr(s.pools, f"{pool}_{split}") for pool in ("harmful", "benign", "lookalike")]
    assert asked == {e.prompt for pool in pools for e in pool}


def test_measurements_reach_the_record(setting: Setting) -> None:
    attack = RemovingRlhf(examples=8, answers="unfiltered")
    found = perform(Run(method=Sft(), attack=attack), setting)
    assert found["status"] == "ok"
    assert {
        "knowledge_gap",
        "teacher_pass_rate",
        "teacher_harm_test",
        "harm_before",
        "harm",
        "usefulness_before",
        "usefulness",
    } <= set(found["mechanisms"])
