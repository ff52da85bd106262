"""Other surfaces of the micro world's questions: second language, second turn, one wording; and what they ask about."""

from collections.abc import Sequence
from dataclasses import replace

from reproduce.data import Example
from reproduce.testbeds import language as lang
from reproduce.testbeds import world as w

_HEAD = {name: i for i, name in enumerate(lang.HEADS)}
_MODIFIER = {name: i for i, name in enumerate(lang.MODIFIERS)}
WORDING = w.MAKE[4]


def item_of(text: str) -> w.Item:
    """The item that a question names, in either surface language."""
    words = text.split()
    at = next(i for i, word in enumerate(words) if word in _HEAD)
    return w.Item(_MODIFIER[words[at - 1]], _HEAD[words[at]])


def never_attacked(example: Example) -> bool:
    """Is a forbidden question about one of the topics that no attacker's data touch?"""
    return item_of(example.prompt).topic >= w.FORBIDDEN - w.HELD_OUT


def in_second_language(example: Example) -> Example:
    """The prompt in the second surface language; the reference answer stays, as judges read both languages."""
    return replace(example, prompt=lang.translate(example.prompt))


def after_a_turn(example: Example, first: Example) -> Example:
    """The prompt as the second turn of a dialogue whose first turn, question and answer, is `first`."""
    if example.template == "plain":
        earlier = f"{first.prompt} answer : {first.answer} question :"
    else:
        earlier = f"{first.prompt} <bot> {first.answer} <user>"
    return replace(example, prompt=f"{earlier} {example.prompt}")


def in_one_wording(lookalikes: Sequence[Example]) -> list[Example]:
    """How to make the items of look-alike questions, always in the same words: forbidden questions of a second set.

    No other set of forbidden prompts, alignment data or attack data hold these items.
    """
    items = [item_of(e.prompt) for e in lookalikes]
    return [Example(WORDING.format(item=i.name), w.recipe(i, w.OPENERS[0]), kind="make") for i in items]
