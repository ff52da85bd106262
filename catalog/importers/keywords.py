"""Type, stage and tags among the words that reference managers and tables keep beside a paper."""

import re
from collections.abc import Iterable
from typing import get_args

from catalog.importers.reading import Reference
from catalog.taxonomy import PaperType, Stage

TYPES: dict[str, PaperType] = {name: name for name in get_args(PaperType)} | {"defence": "defense"}
STAGES: dict[str, Stage] = {name: name for name in get_args(Stage)} | {"pretraining": "pre-training"}


def sort(words: Iterable[str], reference: Reference) -> list[str]:
    """Take type, stage and slug-like tags from the words into the reference; return what is none of them."""
    rest = []
    for word in words:
        plain = re.sub(r"[\s_]+", "-", word.strip().casefold())
        if plain in TYPES:
            reference.type = reference.type or TYPES[plain]
        elif plain in STAGES:
            reference.stage = reference.stage or STAGES[plain]
        elif re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", plain):
            reference.tags.append(plain)
        elif plain:
            rest.append(word.strip())
    return rest
