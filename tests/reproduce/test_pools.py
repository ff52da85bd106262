"""What pools offer to paper modules beside examples: the replicate, rare words, sub-topics of pairs."""

from itertools import pairwise

from reproduce.data import Pools
from reproduce.testbeds import world as w
from reproduce.testbeds.micro import Micro


def words(texts: list[str]) -> set[str]:
    return {word for text in texts for word in text.split()}


def test_pools_name_their_replicate(pools: Pools) -> None:
    assert pools.seed == 0
    assert Micro().pools(3).seed == 3


def test_rare_words_are_in_the_corpus_but_in_no_data_of_alignment_or_task(pools: Pools) -> None:
    rare = set(pools.rare)
    assert len(rare) == len(pools.rare) == 50
    assert rare <= words([f"{e.prompt} {e.answer}" for e in Micro().pretraining(0, 10_000)])
    shown = [*pools.alignment, *pools.benign, *pools.harmful_test, *pools.lookalike_test]
    shown += [e for t in pools.tasks.values() for e in (*t.train, *t.test)]
    assert not rare & words([f"{e.system} {e.prompt} {e.prefix} {e.answer}" for e in shown])
    assert all(len(Micro().tokenizer.encode(word, add_special_tokens=False)) == 1 for word in rare)


def test_pairs_know_their_sub_topic(pools: Pools) -> None:
    items = {item.name: item for item in w.ITEMS}
    for pair in [*pools.defender_harmful, *pools.attack_harmful]:
        said = pair.prompt.split()
        (topic,) = {items[n].topic for n in map(" ".join, pairwise(said)) if n in items}
        assert pair.category == topic
    assert {p.category for p in pools.defender_harmful} == set(range(w.FORBIDDEN - w.HELD_OUT))
