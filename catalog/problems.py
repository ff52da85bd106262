"""What can be wrong, told the same way everywhere: the place, the entry, the fix."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One finding of `hft check`.

    `where` is file:line, `paper` the slug of the entry (empty when none is concerned). A warning is shown but
    does not fail.
    """

    code: str
    where: str
    paper: str
    message: str
    fix: str
    warning: bool = False

    def as_dict(self) -> dict[str, str]:
        return {
            "code": self.code,
            "where": self.where,
            "paper": self.paper,
            "message": self.message,
            "fix": self.fix,
        }

    def __str__(self) -> str:
        entry = f"{self.paper}: " if self.paper else ""
        return f"{self.where}: {entry}{self.message} [{self.code}]; {self.fix}"


class RefusedError(Exception):
    """The input has problems, and nothing was written."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))


def nearest(text: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The known words most like `text`, best first; empty when nothing comes near."""
    from rapidfuzz import fuzz, process, utils

    found = process.extract(
        text, list(known), scorer=fuzz.WRatio, processor=utils.default_process, limit=limit, score_cutoff=60
    )
    return [word for word, _, _ in found]


def did_you_mean(text: str, known: Iterable[str]) -> str:
    """A fix for a misspelt word: the nearest known ones, or all of them when none is near."""
    words = list(known)
    close = nearest(text, words)
    if close:
        return "did you mean " + " or ".join(f"'{word}'" for word in close) + "?"
    return "use one of: " + ", ".join(words)
