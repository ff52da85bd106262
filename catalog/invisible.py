"""Characters nobody sees: those that reorder text (a title that reads backwards), join it, or break its lines."""

import unicodedata

UNSEEN = ("Cc", "Cf", "Co", "Cs", "Zl", "Zp")
JOINERS = "\u200c\u200d"
"""Letters of several scripts take another form beside these two, so names are spelt with them."""


def unseen(character: str) -> bool:
    """Whether a character shows nothing by itself and is no part of spelling."""
    return unicodedata.category(character) in UNSEEN and character not in JOINERS


def without(text: str) -> str:
    """Text of one line without such characters; white space stays as it is."""
    return "".join(each for each in text if each.isspace() or not unseen(each))


def named(text: str) -> str:
    """The first such character of a text as U+202E, empty when there is none."""
    return next((f"U+{ord(each):04X}" for each in text if unseen(each)), "")
