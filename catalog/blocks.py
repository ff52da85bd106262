"""Where each entry of papers.yaml stands in the text, found without parsing it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Self

PAPERS = re.compile(r"^papers:[ \t]*\n", re.MULTILINE)
FIRST = re.compile(r"(?:[ \t]*(?:#.*)?\n)*( *)- \S")
OTHER_KEY = re.compile(r"^(?![ #\n]|- |\Z)", re.MULTILINE)


@dataclass(frozen=True)
class Blocks:
    """The entries of a text whose last key is `papers`, a list of blocks with every dash at the same depth.

    A line that begins with a dash at that depth begins an entry: whatever is inside one stands deeper.
    """

    text: str
    first: int
    """Offset of the line after `papers:`."""
    indent: int
    """Spaces before a dash."""

    @classmethod
    def of(cls, text: str) -> Self | None:
        """The entries of a text; None when it is not of that form."""
        papers = PAPERS.search(text)
        if not papers or OTHER_KEY.search(text, papers.end()):
            return None
        first = FIRST.match(text, papers.end())
        return cls(text, papers.end(), len(first[1])) if first else None

    @cached_property
    def starts(self) -> list[int]:
        """Offset of the line of each dash, and the end of the text."""
        dashes = re.compile(rf"^ {{{self.indent}}}-(?=\s)", re.MULTILINE)
        return [*(found.start() for found in dashes.finditer(self.text, self.first)), len(self.text)]

    @cached_property
    def lines(self) -> list[int]:
        """Number, from 1, of the line of each dash."""
        steps = (self.text.count("\n", start, stop) for start, stop in pairwise([0, *self.starts[:-1]]))
        return [number + 1 for number in accumulate(steps)]

    @property
    def head(self) -> str:
        """Everything up to and with the line `papers:`."""
        return self.text[: self.first]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> str:
        """The lines of one entry, and what stands between it and the next one."""
        return self.text[self.starts[index] : self.starts[index + 1]]

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))
