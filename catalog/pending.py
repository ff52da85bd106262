"""catalog/pending.json: candidates that `hft discover` found and nobody has decided on yet."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from catalog import excluded
from catalog.candidates import Candidate
from catalog.dedupe import Known, find
from catalog.ids import Kind
from catalog.papers import Catalogue
from catalog.problems import Problem, RefusedError
from catalog.schema import Ids, Share, Slug, Strict, Text
from catalog.taxonomy import PaperType, Stage

if TYPE_CHECKING:
    from catalog.sources.arxiv import ArxivPaper

FILE = Path("catalog", "pending.json")
ORIGIN = "hft discover"


class Pending(Strict):
    """One candidate as arXiv describes it, with where it ranks and why it was found.

    `score` lies between 0 and 1 and orders candidates (null where there was too little to learn from); `type` and
    `stage` are predictions; `found_by` names expressions of discovery.yaml, `found` is the day of the first time.
    """

    title: Text
    authors: list[Text]
    published: datetime.date
    categories: list[Text]
    comment: str | None = None
    journal_ref: str | None = None
    doi: str | None = None
    score: Share | None = None
    type: PaperType | None = None
    stage: Stage | None = None
    found_by: Annotated[list[Slug], Field(min_length=1)]
    found: datetime.date

    @model_validator(mode="after")
    def is_staged_as_its_type(self) -> Self:
        if self.stage and self.type != "defense":
            raise ValueError("a stage on what is no defense")
        return self

    @classmethod
    def of(cls, paper: ArxivPaper, found_by: list[str], found: datetime.date) -> Pending:
        """A candidate not ranked yet."""
        return cls(
            title=paper.title,
            authors=list(paper.authors),
            published=paper.published,
            categories=list(paper.categories),
            comment=paper.comment,
            journal_ref=paper.journal_ref,
            doi=paper.doi.lower() if paper.doi else None,
            found_by=found_by,
            found=found,
        )

    def candidate(self, arxiv: str) -> Candidate:
        """What is known of it for comparing it with other papers."""
        names: dict[Kind, str] = {"arxiv": arxiv, "doi": self.doi} if self.doi else {"arxiv": arxiv}
        return Candidate(self.title, tuple(self.authors), self.published, names, origin=ORIGIN)


class Queue(Strict):
    """The whole of pending.json; `papers` by arXiv id."""

    version: Literal[1] = 1
    papers: dict[str, Pending] = Field(default_factory=dict)

    @model_validator(mode="after")
    def is_named_by_arxiv_ids(self) -> Self:
        for name in self.papers:
            if not Ids.model_validate({"arxiv": name}).given():
                raise ValueError(f"'{name}' is no arXiv id")
        return self

    def text(self) -> str:
        """The one way to write it: by arXiv id, a line a fact, so that a new candidate is one block of a diff."""
        papers = {key: each.model_dump(mode="json", exclude_none=True) for key, each in sorted(self.papers.items())}
        return json.dumps({"version": self.version, "papers": papers}, indent=1, ensure_ascii=False) + "\n"

    def ranked(self) -> list[tuple[str, Pending]]:
        """Id and candidate, the most relevant first, then the newest."""
        order = {name: (-(each.score or 0), -each.published.toordinal(), name) for name, each in self.papers.items()}
        return [(name, self.papers[name]) for name in sorted(order, key=lambda name: order[name])]


def load(root: Path) -> Queue:
    """The queue of a project; empty without the file, RefusedError when it is damaged."""
    path = root / FILE
    if not path.is_file():
        return Queue()
    try:
        return Queue.model_validate_json(path.read_bytes())
    except ValidationError as error:
        fix = f"take it back from version control (git checkout {FILE}); decide with `hft triage`, not by hand"
        details = [(".".join(map(str, each["loc"])), each["msg"]) for each in error.errors(include_url=False)]
        found = [Problem("pending", str(FILE), "", f"{key or 'the document'}: {said}", fix) for key, said in details]
        raise RefusedError(found) from error


def check(root: Path, catalogue: Catalogue) -> Iterator[Problem]:
    """Problems of pending.json: its schema and form; a warning for what is decided already."""
    try:
        queue = load(root)
        decided = Decided(catalogue, excluded.read(root))
    except RefusedError as refused:  # excluded.yaml tells its own
        yield from (problem for problem in refused.problems if problem.code == "pending")
        return
    path = root / FILE
    if path.is_file() and path.read_text(encoding="utf-8") != queue.text():
        fix = "it is written by `hft discover` and `hft triage` only; take it back from version control"
        yield Problem("pending", str(FILE), "", "not in the form in which hft writes it", fix)
    for name, each in queue.papers.items():
        if said := decided.about(each.candidate(name)):
            fix = f"`hft triage {name} --accept` or the next `hft discover` takes it off"
            yield Problem("pending-decided", str(FILE), "", f"{name} is pending and {said[1]}", fix, warning=True)


class Decided:
    """What the catalogue holds and what was left out, for telling whether a candidate is one of them."""

    def __init__(self, catalogue: Catalogue, left_out: list[excluded.Excluded]) -> None:
        self._catalogue = Known.of(catalogue.papers)
        self._left_out = left_out
        self._excluded = Known({str(n): each.candidate for n, each in enumerate(left_out)})

    def about(self, candidate: Candidate) -> tuple[Literal["known", "excluded"], str] | None:
        """Which of the two a candidate is, with the entry and why they are one paper; None for a new one."""
        if match := find(candidate, self._catalogue):
            return "known", f"in the catalogue as {match.id} ({match.why})"
        if match := find(candidate, self._excluded):
            entry = self._left_out[int(match.id)]
            return "excluded", f"left out on {entry.decided} by the rule {entry.rule} ({match.why})"
        return None
