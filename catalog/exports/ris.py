"""RIS for reference managers: one record a paper.

RIS has no place for claims, reported numbers, reproduction and setting; a name with a comma (a group) is read back
as family and given name.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import rispy

from catalog.schema import Paper, Venue

KINDS = {"main": "CPAPER", "findings": "CPAPER", "workshop": "CPAPER", "journal": "JOUR"}


def references(papers: Iterable[Paper], venues: Mapping[str, Venue] | None = None) -> str:
    """An RIS file of these papers in their order; `venues` (the head's) gives full venue names."""
    return rispy.dumps([_reference(paper, venues or {}) for paper in papers], implementation=_Unnumbered)


class _Unnumbered(rispy.RisWriter):  # type: ignore[misc,unused-ignore]
    """References one after another, without the numbers between them that other programs stumble over."""

    def set_header(self, count: int) -> str:  # noqa: ARG002
        return ""


def _reference(paper: Paper, venues: Mapping[str, Venue]) -> dict[str, Any]:
    venue = venues.get(paper.venue.name)
    is_preprint = paper.venue.status == "preprint"
    given: dict[str, Any] = {
        "type_of_reference": "UNPB" if is_preprint else KINDS[paper.venue.track or "main"],
        "id": paper.id,
        "title": paper.title,
        "short_title": paper.nickname,
        "authors": [_inverted(name) for name in paper.authors],
        "year": str(paper.venue.year),
        "date": paper.date.strftime("%Y/%m/%d"),
        "secondary_title": venue.full if venue else paper.venue.name,
        "doi": paper.ids.doi,
        "accession_number": f"arXiv:{paper.ids.arxiv}" if paper.ids.arxiv else None,
        "urls": list(paper.addresses().values()),
        "keywords": [word for word in (paper.type, paper.stage, *paper.tags) if word],
    }
    return {key: value for key, value in given.items() if value}


def _inverted(name: str) -> str:
    """A name in the order RIS wants, last word first: Ann Bell as `Bell, Ann`."""
    given, _, family = name.rpartition(" ")
    return f"{family}, {given}" if given and "," not in name else name
