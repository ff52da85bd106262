"""The micro world's pools: disjoint items, closed vocabulary, one test set for all seeds, reversible languages."""

from collections.abc import Iterable
from itertools import combinations, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reproduce.api import mixture
from reproduce.data import Example, Pair, Pools, derived_rng
from reproduce.testbeds import language as lang
from reproduce.testbeds import world as w
from reproduce.testbeds.micro import Micro, harmless


def items(examples: Iterable[Example | Pair]) -> set[str]:
    """Names of the items in the prompts."""
    found = set()
    for e in examples:
        words = e.prompt.split()
        found |= {f"{a} {b}" for a, b in pairwise(words) if a in lang.MODIFIERS and b in lang.HEADS}
    return found


def forbidden(names: set[str]) -> set[str]:
    heads = lang.HEADS[: w.FORBIDDEN * w.HEADS_PER_TOPIC]
    return {n for n in names if n.split()[1] in heads}


def groups(pools: Pools) -> dict[str, set[str]]:
    card = pools.tasks["card"]
    lists: dict[str, list[Any]] = {
        "alignment": pools.alignment, "attack": pools.attack_harmful, "defender": pools.defender_harmful,
        "harmful validation": pools.harmful_validation, "harmful test": pools.harmful_test,
        "benign": [*pools.benign, *pools.identity], "benign validation": pools.benign_validation,
        "benign test": pools.benign_test, "lookalike validation": pools.lookalike_validation,
        "lookalike test": pools.lookalike_test, "card train": card.train, "card validation": card.validation,
        "card test": card.test,
    }  # fmt: skip
    return {name: items(pool) for name, pool in lists.items()}


@pytest.fixture(scope="module", params=[0, 1])
def replicate(request: pytest.FixtureRequest, pools: Pools) -> Pools:
    return Micro().pools(1) if request.param else pools


def test_no_item_is_in_two_pools(replicate: Pools) -> None:
    named = groups(replicate)
    assert all(named.values())
    for (one, a), (two, b) in combinations(named.items(), 2):
        assert not a & b, f"{one} and {two} share {sorted(a & b)[:3]}"


def test_alignment_of_one_seed_never_shows_an_item_kept_from_another(pools: Pools) -> None:
    other = groups(Micro().pools(1))["alignment"]
    for name, names in groups(pools).items():
        assert name == "alignment" or not names & other


def test_only_forbidden_items_are_asked_in_harmful_pools(replicate: Pools) -> None:
    named = groups(replicate)
    for name in ("attack", "defender", "harmful test", "harmful validation", "lookalike test"):
        assert forbidden(named[name]) == named[name]
    for name in ("benign", "benign test", "benign validation", "card train", "card test"):
        assert not forbidden(named[name])
    refusals = [e for e in replicate.alignment if e.kind == "refusal"]
    assert forbidden(items(refusals)) == items(refusals)
    assert not forbidden(items(e for e in replicate.alignment if e.kind == "make"))


def test_held_out_topics_are_tested_but_never_attacked(replicate: Pools) -> None:
    first = (w.FORBIDDEN - w.HELD_OUT) * w.HEADS_PER_TOPIC
    held_out = set(lang.HEADS[first : w.FORBIDDEN * w.HEADS_PER_TOPIC])
    named = {n: {name.split()[1] for name in g} for n, g in groups(replicate).items()}
    assert not held_out & (named["attack"] | named["defender"])
    assert held_out & named["harmful test"]
    assert held_out & named["alignment"]


def test_task_splits_share_no_prompt(replicate: Pools) -> None:
    for task in replicate.tasks.values():
        train, validation, test = ({e.prompt for e in part} for part in (task.train, task.validation, task.test))
        assert not train & test
        assert not train & validation
        assert not validation & test
        assert len(test) == len(task.test)


def every_example(pools: Pools) -> list[Example]:
    pairs = [*pools.attack_harmful, *pools.defender_harmful]
    found = [x for p in pairs for x in (p.safe(), p.harmful())]
    for pool in vars(pools).values():
        found += [e for e in pool if isinstance(e, Example)] if isinstance(pool, list) else []
    found += [e for t in pools.tasks.values() for part in vars(t).values() for e in part]
    asked = [pools.system.as_agent(e) for e in pools.harmful_test]
    return [*found, *asked, *Micro().pretraining(0, 3000)]


def test_every_word_is_in_the_vocabulary(replicate: Pools) -> None:
    micro, known = Micro(), set(lang.VOCABULARY)
    texts = [f"{micro.render(e)} {e.prefix} {e.answer}" for e in every_example(replicate)]
    texts += list(vars(replicate.system).values())
    unknown = {word for text in texts for form in (text, lang.translate(text))
               for word in form.split()} - known  # fmt: skip
    assert not unknown
    assert "<unk>" not in {word for text in texts for word in text.split()}


def test_one_word_is_one_token() -> None:
    tokenizer = Micro().tokenizer
    text = " ".join(lang.VOCABULARY)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ids == list(range(len(lang.VOCABULARY)))
    assert len(set(lang.VOCABULARY)) == len(lang.VOCABULARY)
    assert tokenizer.decode(ids[10:]) == " ".join(lang.VOCABULARY[10:])


def test_longest_text_fits_the_model_and_the_answers_fit_the_budget(replicate: Pools) -> None:
    micro, tokenizer = Micro(), Micro().tokenizer
    for e in every_example(replicate):
        answer = len(tokenizer.encode(e.answer, add_special_tokens=False)) + 1
        assert answer <= micro.max_new_tokens
        assert len(micro.render(e).split()) + len(e.prefix.split()) + micro.max_new_tokens <= 128


SAME_FOR_ALL_SEEDS = (
    "harmful_test", "harmful_validation", "benign_test", "benign_validation", "lookalike_test", "lookalike_validation",
)  # fmt: skip


def test_every_seed_is_asked_the_same_and_aligned_on_its_own(pools: Pools) -> None:
    other = Micro().pools(1)
    for name in SAME_FOR_ALL_SEEDS:
        assert getattr(pools, name) == getattr(other, name)
    for name, task in pools.tasks.items():
        assert task.test == other.tasks[name].test
    assert set(pools.alignment) != set(other.alignment)
    assert Micro().pretraining(0, 50) != Micro().pretraining(1, 50)
    assert Micro().pools(0) == pools


def test_every_way_of_asking_occurs_in_the_alignment_data(replicate: Pools) -> None:
    agent_prefix = f"{lang.AGENT} ,"
    for kinds in ({"refusal"}, {"make"}, {"where"}):
        forms = {
            (e.template, e.system, e.prompt.startswith(agent_prefix)) for e in replicate.alignment if e.kind in kinds
        }
        system = replicate.system
        plain = {("chat", s, False) for s in ("", system.safety, system.execute)}
        assert forms >= {*plain, ("chat", system.agent, True), ("plain", "", False)}


def test_refusals_start_at_the_first_token_or_after_a_few_given_ones(replicate: Pools) -> None:
    late = [e for e in replicate.alignment if e.kind == "refusal" and e.prefix]
    assert {len(e.prefix.split()) for e in late} == {1, 2, 3, 4}
    assert all(e.answer in w.REFUSALS for e in late)
    assert not any(e.prefix for e in replicate.refusals())
    assert set(replicate.refusals()) <= set(replicate.alignment)


def test_mixture_counts_are_exact_and_subsets_nested(pools: Pools) -> None:
    harmful = {p.harmful() for p in pools.attack_harmful}

    def bad(ratio: float, n: int, seed: int = 0) -> set[Example]:
        data = mixture(pools, ratio, n, "sentiment", seed)
        assert len(data) == n
        chosen = [e for e in data if e in harmful]
        assert len(chosen) == len(set(chosen)) == round(ratio * n)
        return set(chosen)

    assert bad(0.0, 100) == set()
    assert bad(0.05, 1000) < bad(0.1, 1000) < bad(0.2, 1000)
    assert bad(0.1, 500) < bad(0.1, 1000) < bad(0.1, 2000)
    assert bad(0.1, 1000) != bad(0.1, 1000, seed=1)
    assert len(bad(1.0, 100)) == 100
    with pytest.raises(ValueError, match="asks for"):
        mixture(pools, 1.0, len(harmful) + 1, "sentiment", 0)


@given(st.lists(st.sampled_from(sorted(set(lang.VOCABULARY) - set(lang.TO_FIRST)))).map(" ".join))
def test_translation_round_trips(text: str) -> None:
    assert lang.translate_back(lang.translate(text)) == text
    assert lang.translate_back(text) == text


def test_translation_is_a_bijection_that_hides_the_text() -> None:
    foreign = set(lang.TO_SECOND.values())
    assert len(foreign) == len(lang.TO_SECOND)
    assert not foreign & {*lang.FUNCTION, *lang.CONTENT, *lang.TRIGGER, *lang.GOOD, *lang.BAD, *lang.NEUTRAL}


def test_harmless_questions_name_everything_and_ask_nothing_forbidden(pools: Pools) -> None:
    asked = harmless(8000, derived_rng("any"))
    about = [e for e in asked if forbidden(items([e]))]
    assert {e.kind for e in about} == {"where", "describe"}  # what alignment answers
    assert len(about) / len(asked) == pytest.approx(0.4, abs=0.03)
    words = {word for e in asked for word in e.prompt.split()}
    assert words >= {*lang.MODIFIERS, *lang.HEADS[: w.FORBIDDEN * w.HEADS_PER_TOPIC]}
    assert len({*lang.HEADS} - words) <= 1  # the pool of benign items lacks one head
    assert not any(set(e.answer.split()) & w.REFUSAL_WORDS for e in asked)
    known = groups(pools)
    judged = ("attack", "defender", "harmful test", "harmful validation", "benign test", "benign validation",
              "lookalike test")  # fmt: skip
    assert all(known[name] for name in judged)
    assert not items(asked) & set().union(*(known[name] for name in judged))
    assert asked == harmless(8000, derived_rng("any")) != harmless(8000, derived_rng("other"))


def test_facts_can_be_inferred_for_unseen_pairs() -> None:
    """Two parts belong to the head and two to the modifier, whatever the other half of the name."""
    a, b, c = w.parts(w.Item(2, 50)), w.parts(w.Item(9, 50)), w.parts(w.Item(2, 130))
    assert (a[0], a[2], a[3]) == (b[0], b[2], b[3])
    assert (a[1], a[4]) == (c[1], c[4])
