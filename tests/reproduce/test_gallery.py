"""The gallery: nobody shows or names what another may not, and validation is not the test."""

from typing import Any

import pytest

from reproduce.data import Pools
from reproduce.testbeds import sights
from reproduce.testbeds import world as w
from reproduce.testbeds.gallery import Gallery
from reproduce.testbeds.pictures import PICTURED, Picture


@pytest.fixture(scope="module")
def pools() -> Pools:
    from reproduce.testbeds.micro import Micro

    return Micro().pools(0)


@pytest.fixture(scope="module")
def gallery(pools: Pools) -> Gallery:
    return Gallery(pools, "test", 120)


def items(subsets: Any) -> set[w.Item]:
    """Everything that test questions show or name."""
    found = set()
    for conversation in (c for subset in subsets.values() for c in subset):
        if isinstance(conversation.picture, Picture):
            found.add(conversation.picture.item)
        if "this" not in conversation.turns[0].prompt.split() or "with this" in conversation.turns[0].prompt:
            found |= _named(conversation.turns[0].prompt)
    return found


def shown(gallery: Gallery) -> set[w.Item]:
    return {c.picture.item for s in gallery.subsets.values() for c in s if isinstance(c.picture, Picture)}


def _named(prompt: str) -> set[w.Item]:
    return set() if prompt in sights.NOTES else {sights.item_of(prompt)}


def test_no_test_item_is_free_for_training(gallery: Gallery) -> None:
    training = {
        *gallery.benign, *gallery.forbidden, *gallery.named, *gallery.attacker, *gallery.defender, *gallery.unsafe,
    }  # fmt: skip
    tested = items(gallery.subsets)
    assert len(tested) > 2 * 120 + 200
    assert not training & tested


def test_attacker_and_defender_share_nothing(gallery: Gallery, pools: Pools) -> None:
    owned = {sights.item_of(p.prompt) for p in pools.attack_harmful}
    assert not owned & {*gallery.defender, *gallery.unsafe}
    assert set(gallery.attacker) <= owned
    assert {i.topic < w.FORBIDDEN for i in (*gallery.attacker, *gallery.defender, *gallery.unsafe)} == {True}


def test_training_shows_pictured_items_only(gallery: Gallery) -> None:
    assert {*gallery.benign, *gallery.forbidden, *gallery.unsafe} <= set(PICTURED)
    assert not set(gallery.named) <= set(PICTURED)
    assert len(gallery.unsafe) > 150  # the 200 unsafe pictures of a safety set show an item twice at most
    heads = {i.head for i in PICTURED if i.topic < w.FORBIDDEN}
    assert {i.head for i in gallery.unsafe} == heads  # test combinations are new, their parts are not


def test_validation_items_are_others_and_replicates_share_the_test(gallery: Gallery, pools: Pools) -> None:
    from reproduce.testbeds.micro import Micro

    validation = Gallery(pools, "validation", 60)
    assert not shown(validation) & shown(gallery)
    assert len(shown(gallery)) == 2 * 120
    again = Gallery(Micro().pools(1), "test", 120)
    assert [c.picture for c in again.subsets["unsafe"]] == [c.picture for c in gallery.subsets["unsafe"]]
