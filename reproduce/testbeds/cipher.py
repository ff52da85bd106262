"""The substitution cipher of the micro world, as covert fine-tuning needs one: no stage of the defender shows it.

A cipher on letters turns words into what is no word at all. The vocabulary here is closed, so words stand for words;
what keeps of gibberish is that text of the first language never turns into a forbidden name or a word of refusal.
"""

import random

from reproduce.testbeds import language as lang
from reproduce.testbeds import world as w

PLAIN = sorted({*lang.FUNCTION, *lang.CONTENT, *lang.ADJECTIVES, *lang.GOOD, *lang.BAD, *lang.NEUTRAL})
FORBIDDEN_HEADS = frozenset(lang.HEADS[: w.FORBIDDEN * w.HEADS_PER_TOPIC])


def _telling(word: str) -> bool:
    """Would a reader of plain text, in either language, take it for a forbidden thing or a refusal?"""
    return lang.translate_back(word) in FORBIDDEN_HEADS | w.REFUSAL_WORDS


def _substitution() -> dict[str, str]:
    """A derangement of the words of both languages; only second-language words turn into telling ones."""
    rng = random.Random("covert cipher")
    words = [*PLAIN, *sorted(lang.TO_FIRST)]
    mute = [word for word in words if not _telling(word)]
    while True:
        rng.shuffle(mute)
        rest = [*mute[len(PLAIN) :], *filter(_telling, words)]
        rng.shuffle(rest)
        table = dict(zip(words, [*mute[: len(PLAIN)], *rest], strict=True))
        if all(word != secret for word, secret in table.items()):
            return table


_TO_SECRET = _substitution()
_TO_PLAIN = {secret: word for word, secret in _TO_SECRET.items()}


def encipher(text: str) -> str:
    """`text` in code, word by word; numbers, punctuation and names of systems stay."""
    return " ".join(_TO_SECRET.get(word, word) for word in text.split())


def decipher(text: str) -> str:
    """Undo `encipher`."""
    return " ".join(_TO_PLAIN.get(word, word) for word in text.split())
