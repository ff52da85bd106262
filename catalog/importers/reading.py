"""What a file says of papers: raw references with their lines, and what is wrong with them."""

from dataclasses import dataclass, field

from catalog.candidates import Candidate
from catalog.problems import Problem
from catalog.schema import Paper
from catalog.taxonomy import Guessable, PaperType, Stage


@dataclass
class Reading:
    """The candidates of a file, and a problem for all that was not understood or had to be mended."""

    name: str
    candidates: list[Candidate] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def complain(self, line: int, code: str, message: str, fix: str, *, warning: bool = False) -> None:
        """Note a problem of a line; what was mended, or left out without loss, is a warning."""
        self.problems.append(Problem(code, f"{self.name}:{line}", "", message, fix, warning))


@dataclass
class Reference:
    """One paper as a file prints it, all as text; `addresses` are labels with an id or a URL.

    A label `published` is that of a page which counts beside the ids of the paper.
    """

    line: int
    title: str = ""
    authors: list[str] = field(default_factory=list)
    date: str = ""
    venue: str = ""
    addresses: list[tuple[str, str]] = field(default_factory=list)
    type: PaperType | None = None
    stage: Stage | None = None
    tags: list[str] = field(default_factory=list)
    slug: str = ""
    nickname: str = ""
    unsure: list[Guessable] = field(default_factory=list)
    entry: Paper | None = None  # all of it, where the file is an export of a catalogue
