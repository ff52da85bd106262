"""What pools offer to paper modules beside examples: the replicate, plain words, sub-topics of pairs."""

from itertools import pairwise

from reproduce.data import Pools
from reproduce.testbeds import language as lang
from reproduce.testbeds import world as w
from reproduce.testbeds.micro import Micro


def words(texts: list[str]) -> set[str]:
    return {word for text in texts for word in text.split()}


def test_pools_name_their_replicate(pools: Pools) -> None:
    assert pools.seed == 0
    assert Micro().pools(3).seed == 3


def test_plain_words_are_known_and_neither_ask_nor_answer_about_forbidden_things(pools: Pools) -> None:
    plain = set(pools.plain_words)
    assert len(plain) == len(pools.plain_words) >= 40
    assert plain <= words([f"{e.prompt} {e.answer}" for e in Micro().pretraining(0, 10_000)])
    system = [w.SYSTEM.execute, w.SYSTEM.safety, w.SYSTEM.reminder, w.SYSTEM.agent, w.SYSTEM.agent_opening]
    asked = [*pools.harmful_test, *pools.benign_test, *pools.lookalike_test]
    asked += [p.harmful() for p in pools.attack_harmful]
    recipes = [f"{e.prompt} {e.answer}" for e in asked if e.kind == "make"]
    refusals = [f"{e.prompt} {e.prefix} {e.answer}" for e in pools.alignment if e.kind == "refusal"]
    others = [*map(lang.translate, lang.TO_SECOND), *lang.TRIGGER, *lang.MARKS]
    assert not plain & words([*system, *w.PERSONAS, *recipes, *refusals, *others])
    assert not plain & {*lang.GOOD, *lang.BAD}
    assert all(len(Micro().tokenizer.encode(word, add_special_tokens=False)) == 1 for word in plain)


def test_pairs_know_their_sub_topic(pools: Pools) -> None:
    items = {item.name: item for item in w.ITEMS}
    for pair in [*pools.defender_harmful, *pools.attack_harmful]:
        said = pair.prompt.split()
        (topic,) = {items[n].topic for n in map(" ".join, pairwise(said)) if n in items}
        assert pair.category == topic
    assert {p.category for p in pools.defender_harmful} == set(range(w.FORBIDDEN - w.HELD_OUT))
