"""The cipher on words: reversible, without fixed points, and silent about what is forbidden."""

import string

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reproduce.data import Pools
from reproduce.testbeds import language as lang
from reproduce.testbeds import world as w
from reproduce.testbeds.cipher import FORBIDDEN_HEADS, PLAIN, decipher, encipher


@given(st.lists(st.sampled_from(lang.VOCABULARY)).map(" ".join))
def test_what_is_enciphered_can_be_read_again(text: str) -> None:
    assert decipher(encipher(text)) == text
    assert encipher(decipher(text)) == text


def test_no_word_stands_for_itself_and_all_stay_in_the_vocabulary() -> None:
    words = [*PLAIN, *lang.TO_FIRST]
    secret = [encipher(word) for word in words]
    assert sorted(secret) == sorted(words)
    assert not [word for word, other in zip(words, secret, strict=True) if word == other]
    kept = set(lang.VOCABULARY) - set(words)
    assert kept == {*lang.MARKS, *lang.TRIGGER, lang.AGENT, *lang.NUMBERS}
    assert all(encipher(word) == word for word in kept)


def test_the_papers_own_cipher_has_fixed_points() -> None:
    """The paper's permutation of letters leaves e and g in plain sight, so ours is drawn without fixed points."""
    letters = string.ascii_lowercase
    walnut = "".join(np.random.default_rng(53).permutation(list(letters)))
    assert walnut == "dqkzetgvmhurjypwnacbfoxisl"
    assert [a for a, b in zip(letters, walnut, strict=True) if a == b] == ["e", "g"]
    assert "|".join("hello".translate(str.maketrans(letters, walnut))) == "v|e|r|r|p"


def test_code_names_nothing_forbidden_and_refuses_nothing_in_either_language(pools: Pools) -> None:
    assert len(FORBIDDEN_HEADS) == w.FORBIDDEN * w.HEADS_PER_TOPIC
    pairs = [*pools.attack_harmful, *pools.defender_harmful]
    texts = [text for p in pairs for text in (p.prompt, p.compliant, p.refusal)]
    for text in texts:
        for form in (encipher(text), lang.translate_back(encipher(text))):
            assert not set(form.split()) & (FORBIDDEN_HEADS | w.REFUSAL_WORDS)
    assert all(set(p.prompt.split()) & FORBIDDEN_HEADS for p in pairs)  # the check would see one
    assert all(set(p.refusal.split()) & w.REFUSAL_WORDS for p in pairs)


def test_code_is_neither_the_text_nor_the_second_language() -> None:
    english = list(lang.TO_SECOND)
    assert sum(encipher(word) == lang.translate(word) for word in english) < 5
    assert sum(decipher(word) == lang.translate_back(word) for word in lang.TO_FIRST) < 5
