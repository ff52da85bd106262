"""RIS for reference managers: one record a paper.

RIS has no place for claims, reported numbers, reproduction, setting and guesses; a name with a comma (a group) is read
back as family and given name. Links to code, data and project stand in notes, which say what they are.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import rispy

from catalog.schema import Paper, Venue

KINDS = {"main": "CPAPER", "findings": "CPAPER", "workshop": "CPAPER", "journal": "JOUR"}
LABELLED = {"code", "data", "project"}


def references(papers: Iterable[Paper], venues: Mapping[str, Venue] | None = None) -> str:
    """An RIS file of these papers in their order; `venues` (the head's) gives full venue names."""
    return rispy.dumps([_reference(paper, venues or {}) for paper in papers], implementation=_Unnumbered)


class _Unnumbered(rispy.RisWriter):  # type: ignore[misc,unused-ignore]
    """References one after another, without the numbers between them that other programs stumble over."""

    def set_header(self, count: int) -> str:  # noqa: ARG002
        return ""


def _reference(paper: Paper, venues: Mapping[str, Venue]) -> dict[str, Any]:
    venue = venues.get(paper.venue.name)
    part = "Findings of the " if paper.venue.track == "findings" else ""
    links = paper.links.model_dump(include=LABELLED, exclude_none=True)
    is_preprint = paper.venue.status == "preprint"
    given: dict[str, Any] = {
        "type_of_reference": "UNPB" if is_preprint else KINDS[paper.venue.track or "main"],
        "id": paper.id,
        "title": paper.title,
        "short_title": paper.nickname,
        "authors": [_inverted(name) for name in paper.authors],
        "year": str(paper.venue.year),
        "date": paper.date.strftime("%Y/%m//" if "date" in paper.unsure else "%Y/%m/%d"),
        "secondary_title": f"{part}{venue.full if venue else paper.venue.name}",
        "doi": paper.ids.doi,
        "accession_number": f"arXiv:{paper.ids.arxiv}" if paper.ids.arxiv else None,
        "urls": [address for kind, address in paper.addresses().items() if kind not in LABELLED],
        "notes": [f"{kind}: {link}" for kind, link in links.items()],
        "keywords": paper.keywords(),
    }
    return {key: value for key, value in given.items() if value}


def _inverted(name: str) -> str:
    """A name in the order RIS wants, last word first: Ann Bell as `Bell, Ann`."""
    given, _, family = name.rpartition(" ")
    return f"{family}, {given}" if given and "," not in name else name
