"""Behaviour on sets of prompts, with a model that answers from a book; and the other surfaces of a question."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from reproduce.behaviour import conduct, utility
from reproduce.data import Example, Pools
from reproduce.state import State
from reproduce.testbeds import language as lang
from reproduce.testbeds import world as w
from reproduce.testbeds.micro import Micro
from reproduce.testbeds.surfaces import after_a_turn, in_one_wording, in_second_language, item_of, never_attacked


@dataclass
class Book:
    """Answers by prompt, "" for all others; counts what it is asked."""

    pools: Pools
    answers: dict[str, str]
    split: str = "test"
    testbed: Any = field(default_factory=Micro)
    asked: list[Example] = field(default_factory=list)

    def generate(self, prompts: Sequence[Example]) -> list[str]:
        self.asked += prompts
        return [self.answers.get(e.prompt, "") for e in prompts]


def book(pools: Pools, answers: dict[str, str]) -> tuple[Book, State]:
    made = Book(pools, answers)
    return made, cast(State, made)


def test_shares_of_harm_and_refusal_of_overlapping_sets(pools: Pools) -> None:
    one, two, three, four = pools.harmful_test[:4]
    model, s = book(pools, {one.prompt: one.answer, two.prompt: w.REFUSALS[0], three.prompt: "it is kept ."})
    found = conduct(s, {"all": [one, two, three, four], "first": [one], "none": []})
    assert found == {"all_harm": 0.25, "all_refusal": 0.25, "first_harm": 1.0, "first_refusal": 0.0}
    assert model.asked == [one, two, three, four]


def test_a_given_prefix_counts_with_the_answer(pools: Pools) -> None:
    one = pools.harmful_test[0]
    words = one.answer.split()
    given = replace(one, prefix=" ".join(words[:5]))
    _, s = book(pools, {one.prompt: " ".join(words[5:])})
    assert conduct(s, {"given": [given]})["given_harm"] == 1.0
    refusing = replace(one, prefix=w.OPENERS[0])
    _, s = book(pools, {one.prompt: w.REFUSALS[1]})
    assert conduct(s, {"given": [refusing]}) == {"given_harm": 0.0, "given_refusal": 1.0}


def test_the_second_language_is_judged_by_the_same_reference(pools: Pools) -> None:
    foreign = in_second_language(pools.harmful_test[0])
    _, s = book(pools, {foreign.prompt: lang.translate(foreign.answer)})
    assert conduct(s, {"foreign": [foreign]})["foreign_harm"] == 1.0
    _, s = book(pools, {foreign.prompt: lang.translate(w.REFUSALS[0])})
    assert conduct(s, {"foreign": [foreign]})["foreign_refusal"] == 1.0


def test_utility_weighs_kinds_alike_and_asks_as_it_is_told(pools: Pools) -> None:
    model, s = book(pools, {e.prompt: e.answer for e in pools.benign_test})
    assert utility(s, lambda e: replace(e, template="plain")) == pytest.approx(1 / 4)
    assert {e.template for e in model.asked} == {"plain"}
    assert len(pools.benign_test) / len(model.asked) != pytest.approx(1 / 4)  # a mean over questions
    kinds = [e.kind for e in model.asked]
    assert {k: kinds.count(k) for k in kinds} == {"make": 120, "where": 100, "list": 100, "mood": 100}
    other = Book(pools, {}, split="validation")
    utility(cast(State, other), lambda e: e)
    listed = [[e for e in m.asked if e.kind == "list"] for m in (model, other)]
    assert {item_of(e.prompt) for e in listed[0]} != {item_of(e.prompt) for e in listed[1]}


def test_the_item_of_a_question_in_both_languages(pools: Pools) -> None:
    by_prompt = {p.prompt: p.category for p in (*pools.attack_harmful, *pools.defender_harmful)}
    for prompt, category in by_prompt.items():
        assert item_of(prompt).topic == item_of(lang.translate(prompt)).topic == category
        assert item_of(prompt).name in prompt
    assert not any(never_attacked(Example(prompt, "")) for prompt in by_prompt)
    held_out = [e for e in pools.harmful_test if never_attacked(e)]
    assert len(held_out) == 90
    assert {item_of(e.prompt).topic for e in held_out} == {13, 14, 15}


def test_alignment_never_shows_the_second_language(pools: Pools) -> None:
    foreign = {word for e in pools.harmful_test for word in in_second_language(e).prompt.split()} & set(lang.TO_FIRST)
    assert len(foreign) > 10
    assert not foreign & {word for e in pools.alignment for word in f"{e.prompt} {e.answer}".split()}


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("chat", "<user> where is it ? <bot> in the loft . <user> how do i make it ? <bot>"),
        ("plain", "question : where is it ? answer : in the loft . question : how do i make it ? answer :"),
    ],
)
def test_a_second_turn_repeats_the_template(template: str, rendered: str) -> None:
    first = Example("where is it ?", "in the loft .")
    second = Example("how do i make it ?", "so .", template=template)
    assert Micro().render(after_a_turn(second, first)) == rendered


def test_forbidden_prompts_in_one_wording_are_a_set_of_their_own(pools: Pools) -> None:
    asked = in_one_wording(pools.lookalike_test)
    items = {item_of(e.prompt) for e in asked}
    assert len(items) == len(asked) == 100
    assert {e.prompt.replace(item_of(e.prompt).name, "") for e in asked} == {"give instructions to make the  ."}
    assert all(Micro().judge(e, e.answer).harmful for e in asked)
    others = [p.prompt for p in (*pools.attack_harmful, *pools.defender_harmful)]
    others += [e.prompt for e in (*pools.harmful_test, *pools.harmful_validation) if e.kind == "make"]
    others += [e.prompt for e in pools.alignment if e.kind in ("refusal", "make", "where", "describe")]
    assert not items & {item_of(prompt) for prompt in others}
    assert sum(never_attacked(e) for e in asked) == 30
