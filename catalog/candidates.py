"""A paper as a list, a file or a service names it, before it is an entry of the catalogue."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from catalog import ids
from catalog.taxonomy import PaperType, Stage

if TYPE_CHECKING:
    from catalog.schema import Paper


@dataclass(frozen=True)
class Candidate:
    """What is known of a paper; empty, or None, where nothing is.

    Ids are in normal form, by kind. `venue` is raw, as the source prints it. `links` are those that no id stands for:
    paper, code, data, project. `origin` is where this was found: file:line, or the name of a service. `slug` and
    `nickname` are what the source calls the paper, when it does; `unsure` names keys of the entry that are known
    only in part. `entry` is the paper's whole entry, where the source is an export of a catalogue.
    """

    title: str
    authors: tuple[str, ...] = ()
    date: datetime.date | None = None
    ids: dict[ids.Kind, str] = field(default_factory=dict)
    venue: str | None = None
    links: dict[str, str] = field(default_factory=dict)
    origin: str = ""
    type: PaperType | None = None
    stage: Stage | None = None
    tags: tuple[str, ...] = ()
    slug: str | None = None
    nickname: str | None = None
    unsure: tuple[str, ...] = ()
    entry: Paper | None = None

    @property
    def first_public(self) -> datetime.date | None:
        """The date, or the first day of the month of the arXiv id."""
        if self.date is None and (arxiv := self.ids.get("arxiv")):
            return datetime.date(*ids.arxiv_month(arxiv), 1)
        return self.date


def of(paper: Paper) -> Candidate:
    """An entry of the catalogue as a candidate, its origin the entry's id."""
    return Candidate(
        title=paper.title,
        authors=tuple(paper.authors),
        date=paper.date,
        ids=paper.ids.given(),
        venue=f"{paper.venue.name} {paper.venue.year}",
        links=paper.links.model_dump(exclude_none=True),
        origin=paper.id,
        type=paper.type,
        stage=paper.stage,
        tags=tuple(paper.tags),
        slug=paper.id,
        nickname=paper.nickname,
    )
