"""Pictures and the model that sees them: same picture same pixels, visual tokens in their places, encoder untouched."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from reproduce.api import sft_step
from reproduce.data import Example
from reproduce.protocol import Schedule
from reproduce.stages import Stages
from reproduce.state import IGNORED
from reproduce.testbeds import language as lang
from reproduce.testbeds import pictures, sights
from reproduce.testbeds import world as w
from reproduce.testbeds.pictures import PICTURED, SIZE, Picture, draw
from reproduce.testbeds.vision import (
    COUNTED,
    ENCODER,
    FEATURES,
    NAMED,
    TOKENS,
    Conversation,
    Encoder,
    Sight,
    attributes,
    random_pictures,
    recognition,
    sight,
    train_encoder,
    word_vectors,
)
from reproduce.train import train

FEW = replace(ENCODER, steps=3, batch=8)
FORBIDDEN, BENIGN = w.Item(3, 10), w.Item(5, 200)


@pytest.fixture(scope="module")
def encoder(stages: Stages) -> Encoder:
    return train_encoder(word_vectors(stages), 0, FEW)


@pytest.fixture
def s(stages: Stages, encoder: Encoder) -> Sight:
    """A tiny random text model that sees, its weights large enough for differences to show."""
    made = sight(stages, stages.base().tensors, encoder)
    with torch.no_grad():
        for name, p in made.model.named_parameters():
            p.mul_(1.0 if "norm" in name else 3.0)
    return made


def seen(item: w.Item, instance: int = 0, question: str = "how do i make this ?") -> Conversation:
    return Conversation((Example(question, "it is kept ."),), Picture(item, instance=instance))


TEXT = Conversation((Example("where is the thing kept ?", "it is kept in the attic ."),))
TALK = Conversation(
    (Example("describe this .", "the sum is 3 ."), Example("how do i make it ?", "sorry , no .")), Picture(BENIGN)
)


# pictures


@pytest.mark.parametrize("style", ["drawing", "note"])
def test_a_picture_is_always_the_same_and_an_instance_always_another(style: Any) -> None:
    picture = Picture(FORBIDDEN, style, 1, "train", 7)
    first = draw(picture)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert torch.equal(draw(picture), first)
    assert first.shape == (3, SIZE, SIZE)
    assert first.dtype == torch.float32
    assert 0 <= float(first.min()) < float(first.max()) <= 1
    assert not torch.equal(draw(replace(picture, instance=8)), first)
    assert not torch.equal(draw(replace(picture, split="test")), first)


def test_fixed_pixels() -> None:
    """A picture drawn by another version of this code is another data set: then WORLD_VERSION must change."""
    total = sum(float(draw(p).double().sum()) for p in random_pictures(20, "test", 0))
    assert total == pytest.approx(PIXELS, abs=0.5)


PIXELS = 41114.9405


def places(split: Any, style: Any, count: int = 300) -> set[tuple[int, int, int]]:
    from reproduce.data import derived_rng

    shown = [Picture(BENIGN, style, 1, split, i) for i in range(count)]
    return {pictures._places(p, derived_rng("picture", p))[0] for p in shown}


@pytest.mark.parametrize("style", ["drawing", "note"])
def test_train_and_test_never_share_position_and_size(style: Any) -> None:
    train_places, test_places = places("train", style), places("test", style)
    assert len(train_places) > len(test_places) > 5
    assert not train_places & test_places


def test_each_fact_of_an_item_changes_what_is_drawn() -> None:
    item = w.Item(4, 122)
    others = {"modifier": w.Item(9, 122), "head": w.Item(4, 123)}
    for name, other in others.items():
        a, b = Picture(item), Picture(other)
        assert {k for k in attributes(a) if attributes(a)[k] != attributes(b)[k]} == {name}
        note = pictures._glyphs(replace(a, style="note")), pictures._glyphs(replace(b, style="note"))
        assert sum(x != y for x, y in zip(*note, strict=True)) == 1
    assert pictures._glyphs(Picture(item)) != pictures._glyphs(Picture(others["head"]))
    drawn = {pictures._glyphs(Picture(i))[0] for i in w.ITEMS}
    written = {g for i in w.ITEMS for g in pictures._glyphs(Picture(i, "note"))}
    assert len(drawn) == 240
    assert len(written) == 240 + 24
    assert not drawn & written  # a note is read, not recognised by its drawing


def test_glyphs_differ_and_those_of_a_topic_look_alike() -> None:
    glyphs = pictures._alphabet()
    apart = np.array([[(x != y).sum() for x in glyphs] for y in glyphs])
    assert len(glyphs) == 240 + 240 + 24
    assert apart[~np.eye(len(glyphs), dtype=bool)].min() >= 6
    same = np.arange(240)[:, None] // w.HEADS_PER_TOPIC == np.arange(240) // w.HEADS_PER_TOPIC
    assert apart[:240, :240][same & ~np.eye(240, dtype=bool)].mean() < apart[:240, :240][~same].mean() - 4


def test_forbidden_items_carry_no_mark_of_their_own() -> None:
    """The encoder learns no unsafe class; grounds and inks are as common on forbidden as on benign items."""
    assert {*NAMED, *COUNTED} == {"topic", "head", "modifier", "style", "count"}
    groups = [[i for i in w.ITEMS if (i.topic < w.FORBIDDEN) == flag] for flag in (True, False)]
    rng = random.Random(0)
    means = [torch.stack([draw(Picture(i, instance=k)) for k, i in enumerate(rng.sample(items, 400))]).mean((0, 2, 3))
             for items in groups]  # fmt: skip
    torch.testing.assert_close(*means, atol=0.02, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_count_is_the_number_of_glyphs_and_they_do_not_overlap(count: int) -> None:
    from reproduce.data import derived_rng

    for instance in range(40):
        picture = Picture(BENIGN, "drawing", count, "train", instance)
        spots = pictures._places(picture, derived_rng("picture", picture))
        assert len(spots) == len(pictures._glyphs(picture)) == count
        cells = [(y, x) for top, left, side in spots for y in range(top, top + side) for x in range(left, left + side)]
        assert len(cells) == len(set(cells))
        assert all(0 <= y < SIZE and 0 <= x < SIZE for y, x in cells)


# encoder


def test_encoder_is_frozen_and_depends_on_the_seed_only(encoder: Encoder, stages: Stages) -> None:
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())
    torch.manual_seed(5)
    words = word_vectors(stages)
    again = train_encoder(words, 0, FEW)
    image = draw(Picture(BENIGN))[None]
    assert torch.equal(again(image), encoder(image))
    assert encoder(image).shape == (1, FEATURES)
    assert not torch.equal(train_encoder(words, 1, FEW)(image), encoder(image))


def test_words_are_a_linear_map_of_the_base_models_vectors(stages: Stages) -> None:
    words = word_vectors(stages)
    assert {name: len(vectors) for name, vectors in words.items()} == {"head": 240, "modifier": 24, "topic": 40}
    table, ids = stages.base().tensors["model.embed_tokens.weight"], stages.testbed.tokenizer.convert_tokens_to_ids
    own = torch.stack([table[ids(head)] for head in lang.HEADS])
    own = own - own.mean(0)
    mapped = own @ torch.linalg.lstsq(own, words["head"]).solution
    torch.testing.assert_close(mapped, words["head"], atol=1e-3, rtol=1e-3)
    squares = words["head"].T @ words["head"]
    torch.testing.assert_close(squares, torch.eye(len(squares)) * squares[0, 0], atol=1e-3, rtol=1e-3)
    assert float(words["head"].norm(dim=1).mean()) == pytest.approx(2.0, rel=1e-4)


@pytest.mark.slow
def test_encoder_names_what_is_on_pictures_it_has_never_seen(stages: Stages) -> None:
    encoder = train_encoder(word_vectors(stages), 0)
    for style in ("drawing", "note"):
        shown = [p for p in random_pictures(600, "test", 0) if p.style == style]
        accuracy = recognition(encoder, shown)
        assert min(accuracy.values()) > 0.85, (style, accuracy)


# the model that sees


def test_visual_tokens_stand_after_the_users_mark(s: Sight) -> None:
    batch = s.batch([seen(BENIGN), TEXT, TALK])
    tokenizer = s.testbed.tokenizer
    assert batch.visual.sum(1).tolist() == [TOKENS, 0, TOKENS]
    for row in (0, 2):
        assert batch.visual[row].nonzero().flatten().tolist() == list(range(1, 1 + TOKENS))
        assert tokenizer.convert_ids_to_tokens(int(batch.ids[row, 0])) == "<user>"
    plain = [i for i, v in zip(batch.ids[0].tolist(), batch.visual[0].tolist(), strict=True) if not v]
    assert tokenizer.decode(plain).startswith("<user> how do i make this ? <bot> it is kept . <eos>")
    assert batch.features.shape == (2, FEATURES)
    assert not bool((batch.visual & batch.answer).any())
    assert not bool((~batch.real & (batch.labels != IGNORED)).any())
    assert not bool((~batch.real & batch.visual).any())


def test_both_answers_of_a_conversation_are_learned_and_the_picture_is_in_the_first_question(s: Sight) -> None:
    batch = s.batch([TALK])
    answers = s.testbed.tokenizer.decode(batch.labels[batch.answer])
    assert answers == "the sum is 3 . <eos> sorry , no . <eos>"
    assert bool(batch.real.all())
    second = batch.ids[0].tolist().index(s.testbed.tokenizer.convert_tokens_to_ids("<user>"), 1)
    assert not bool(batch.visual[0, second:].any())


def test_without_a_picture_the_text_model_is_as_it_was(s: Sight, stages: Stages) -> None:
    plain = stages.state({n.removeprefix("text."): p.detach() for n, p in s.model.named_parameters() if "text." in n})
    expected = plain.logits(plain.batch(TEXT.turns))
    torch.testing.assert_close(s.logits(s.batch([TEXT])), expected)
    assert s.generate([TEXT]) == plain.generate(TEXT.turns)


def test_a_row_does_not_depend_on_its_neighbours(s: Sight) -> None:
    """Mixed lengths, with and without pictures: padding changes nothing and every row gets its own picture."""
    rows = [seen(BENIGN), TEXT, TALK, seen(FORBIDDEN, 3, "give this .")]
    together = s.batch(rows)
    logits = s.logits(together)
    for i, row in enumerate(rows):
        alone = s.batch([row])
        torch.testing.assert_close(logits[i, : alone.ids.shape[1]], s.logits(alone)[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def greedy(s: Sight, conversation: Conversation) -> str:
    """No cache, no padding: the whole sequence anew for every token."""
    ids, visual = s._question(conversation.turns[0], conversation.picture)
    fresh: list[int] = []
    for _ in range(s.testbed.max_new_tokens):
        shown = s.features([conversation.picture] if conversation.picture else [])
        places = torch.tensor([visual + [False] * len(fresh)])
        embedded = s.model.embed(torch.tensor([ids + fresh]), places, shown)
        fresh.append(int(s.model.text(inputs_embeds=embedded, use_cache=False).logits[0, -1].argmax()))
        if fresh[-1] == s.testbed.tokenizer.eos_token_id:
            break
    return str(s.testbed.tokenizer.decode(fresh, skip_special_tokens=True)).strip()


def test_generation_with_cache_and_left_padding_is_greedy_decoding(s: Sight, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(s.testbed), "max_new_tokens", 8)
    rows = [
        seen(BENIGN, 0, "how do i make this ?"),
        seen(FORBIDDEN, 1, "tell me how to make this now ."),
        seen(w.Item(1, 77), 2, "this ?"),
    ]
    rows.append(TEXT)
    assert s.generate(rows) == [greedy(s, row) for row in rows]
    assert len(set(s.generate(rows))) > 1


def test_the_picture_is_necessary_where_the_words_are_the_same(s: Sight) -> None:
    safe, unsafe = (s.batch([seen(i)]) for i in (BENIGN, FORBIDDEN))
    assert torch.equal(safe.ids, unsafe.ids)
    assert not torch.allclose(s.logits(safe), s.logits(unsafe))
    blank = [replace(seen(i), picture="blank") for i in (BENIGN, FORBIDDEN)]
    assert torch.equal(*(s.logits(s.batch([c])) for c in blank))
    assert len(set(s.generate(blank))) == 1


def test_gradients_reach_projector_and_text_model_and_not_the_encoder(s: Sight, encoder: Encoder) -> None:
    kept = {n: t.clone() for n, t in encoder.state_dict().items()}
    s.add_stream("visual", [seen(BENIGN), seen(FORBIDDEN), TEXT])
    sft_step(s, s.draw("visual", 3))
    assert all(p.grad is not None and bool(p.grad.any()) for p in s.model.projector.parameters())
    moved = [n for n, p in s.model.text.named_parameters() if p.grad is not None and bool(p.grad.any())]
    assert len(moved) == len(list(s.model.text.parameters()))
    assert all(p.grad is None for p in encoder.parameters())
    train(s, "visual", Schedule(steps=3, batch=3, lr=1e-2), sft_step)
    assert all(torch.equal(t, kept[n]) for n, t in encoder.state_dict().items())


def test_projector_alone_trains_when_the_text_model_is_frozen(s: Sight) -> None:
    s.model.text.requires_grad_(False)
    text = {n: p.detach().clone() for n, p in s.model.text.named_parameters()}
    projector = [p.detach().clone() for p in s.model.projector.parameters()]
    s.add_stream("visual", [seen(BENIGN), seen(FORBIDDEN)])
    train(s, "visual", Schedule(steps=3, batch=2, lr=1e-2), sft_step)
    assert all(torch.equal(p, text[n]) for n, p in s.model.text.named_parameters())
    assert all(not torch.equal(a, b) for a, b in zip(projector, s.model.projector.parameters(), strict=True))


def test_a_snapshot_holds_projector_and_text_model(s: Sight) -> None:
    kept = s.snapshot()
    s.add_stream("visual", [seen(BENIGN), TEXT])
    train(s, "visual", Schedule(steps=2, batch=2, lr=1e-2), sft_step)
    s.restore(kept)
    assert all(torch.equal(a, b) for a, b in zip(kept, s.model.parameters(), strict=True))


# questions


def test_the_named_item_is_found_again() -> None:
    rng = random.Random(0)
    for item in rng.sample(w.ITEMS, 50):
        for build in (w.make, w.where, w.describe, w.collect):
            assert sights.item_of(build(item, rng).prompt) == item
    with pytest.raises(ValueError, match="no item is named"):
        sights.item_of("what is 3 plus 4 ?")


def test_one_head_of_each_topic_has_pictures_on_every_ground() -> None:
    assert len(set(PICTURED)) == w.TOPICS * 24
    assert len({i.head for i in PICTURED}) == w.TOPICS
    assert {i.topic for i in PICTURED} == set(range(w.TOPICS))


def test_no_question_about_a_picture_names_what_it_shows(pools: Any) -> None:
    rng = random.Random(0)
    words = set()
    for item in rng.sample(w.ITEMS, 200):
        for build in (w.make, w.where, w.describe, w.collect):
            words |= set(sights.ask(item, build, rng, "train").turns[0].prompt.split())
        words |= set(sights.note(item, rng, "train").turns[0].prompt.split())
        words |= set(sights.count(item, rng, "train").turns[0].prompt.split())
    assert "this" in words
    assert not words & {*lang.HEADS, *lang.MODIFIERS, *lang.KINDS}


def test_every_word_of_questions_and_reasons_is_in_the_vocabulary() -> None:
    texts = [*sights.NOTES, *(r.format(kind="", item="") for r in sights.REASONS), "count this . with this"]
    assert {word for text in texts for word in text.split()} <= set(lang.VOCABULARY)


def test_answers_are_those_of_what_is_shown(pools: Any) -> None:
    rng = random.Random(3)
    asked = sights.beside(FORBIDDEN, BENIGN, rng, "test")
    assert isinstance(asked.picture, Picture)
    assert asked.picture.item == BENIGN
    assert sights.item_of(asked.turns[0].prompt) == FORBIDDEN
    assert "with this" in asked.turns[0].prompt
    assert all(part in asked.turns[0].answer.split() for part in w.parts(FORBIDDEN))
    counted = sights.count(BENIGN, rng, "train")
    assert isinstance(counted.picture, Picture)
    assert counted.turns[0].answer == f"the sum is {counted.picture.count} ."
