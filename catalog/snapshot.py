"""What arXiv said when it was last asked: facts in a committed snapshot, abstracts beside the database."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, TypeAdapter, ValidationError

from catalog.problems import Problem, RefusedError
from catalog.schema import Strict

if TYPE_CHECKING:
    from catalog.sources.arxiv import ArxivPaper

FILE = Path("catalog", "arxiv_snapshot.json")
ABSTRACTS = Path("build", "abstracts.json")


class Facts(Strict):
    """What is kept of one paper: all that arXiv says but the abstract."""

    version: int
    title: str
    authors: list[str]
    published: datetime.date
    updated: datetime.date
    categories: list[str]
    comment: str | None = None
    journal_ref: str | None = None
    doi: str | None = None
    withdrawn: bool = False

    @classmethod
    def of(cls, paper: ArxivPaper) -> Facts:
        """The facts of an answer."""
        given = dataclasses.asdict(paper)
        return cls.model_validate({name: _listed(given[name]) for name in cls.model_fields})


class Snapshot(Strict):
    """Facts by arXiv id, and the ids that arXiv did not know."""

    version: int = 1
    papers: dict[str, Facts] = Field(default_factory=dict)
    missing: list[str] = Field(default_factory=list)

    def text(self) -> str:
        """The one way to write it: sorted, one line a fact, so that a changed paper is a small diff."""
        papers = {key: facts.model_dump(mode="json", exclude_none=True) for key, facts in sorted(self.papers.items())}
        document = {"version": self.version, "papers": papers, "missing": sorted(self.missing)}
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def load(root: Path, text: str | None = None) -> Snapshot:
    """The snapshot of a project, or the one in a text; empty when there is none, RefusedError when it is damaged."""
    path = root / FILE
    if text is None and not path.is_file():
        return Snapshot()
    try:
        return Snapshot.model_validate_json(path.read_bytes() if text is None else text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        fix = f"take it back from version control (git checkout {FILE}); it is never edited by hand"
        raise RefusedError([Problem("snapshot", str(FILE), "", f"{where}: {first['msg']}", fix)]) from error


def abstracts(root: Path, text: str | None = None) -> dict[str, str]:
    """Abstracts by arXiv id; empty before the first sync on this machine, or when the file is damaged."""
    path = root / ABSTRACTS
    if text is None and not path.is_file():
        return {}
    try:
        return TypeAdapter(dict[str, str]).validate_json(path.read_bytes() if text is None else text)
    except ValidationError:  # a build product: the next sync writes it anew
        return {}


def abstracts_text(known: Mapping[str, str]) -> str:
    """The one way to write abstracts."""
    return json.dumps(dict(sorted(known.items())), indent=1, ensure_ascii=False) + "\n"


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
