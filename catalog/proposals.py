"""Edits of papers.yaml that outside sources suggest: shown first, made only when a person says so."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from catalog import editing, venues
from catalog.papers import Document, parse
from catalog.schema import Head, Paper, Publication
from catalog.snapshot import Facts
from catalog.sources.published import Published, plain

RELIABLE = ("OpenReview", "Crossref", "arXiv journal reference", "arXiv comment", "Semantic Scholar")
"""Whose year and track count when sources agree on the venue, best first."""
PHRASES = re.compile(
    r"(?i)\b(camera[- ]ready( version)?|accepted|published|presented|to appear|appears?|appeared|(to be )?published|"
    r"(this|the|our) (paper|work) (is|was|has been)|paper|as an?|by|via)\b"
)


@dataclass(frozen=True)
class Proposal:
    """One edit of one key; `by_hand` says why it is not made by `--apply`."""

    paper: str
    field: str
    before: Any
    after: Any
    because: tuple[str, ...]
    by_hand: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        hand = f"; by hand: {self.by_hand}" if self.by_hand else ""
        edit = f"{self.field}: {_short(self.before)} → {_short(self.after)}"
        return f"{self.paper}: {edit} ({'; '.join(self.because)}{hand})"


@dataclass
class Evidence:
    """What is known of one paper beside its entry."""

    before: Facts | None
    now: Facts | None
    elsewhere: list[Published] = field(default_factory=list)

    def statements(self) -> Iterator[Published]:
        """Everything said about where it appeared, arXiv's own fields first."""
        if self.now and self.now.journal_ref:
            yield Published("arXiv journal reference", self.now.journal_ref, self.now.doi)
        for sentence in re.split(r"[.;](?:\s|$)", (self.now and self.now.comment) or ""):
            yield Published("arXiv comment", sentence)
        yield from self.elsewhere


def propose(paper: Paper, evidence: Evidence, head: Head, dois: Mapping[str, str]) -> Iterator[Proposal]:
    """Edits of one entry; `dois` says which entry already has a DOI."""
    now = evidence.now
    if now and not paper.authors and now.authors:
        yield Proposal(paper.id, "authors", [], now.authors, ("arXiv",))
    if now and plain(now.title) != plain(paper.title):
        followed = evidence.before is not None and plain(evidence.before.title) == plain(paper.title)
        why = None if followed else "the entry's title was never arXiv's; take it with --titles"
        yield Proposal(paper.id, "title", paper.title, now.title, (f"arXiv version {now.version}",), why)
    if now and now.published < paper.date:
        why = "look whether version 1 or an earlier posting is meant"
        yield Proposal(paper.id, "date", str(paper.date), str(now.published), ("arXiv version 1",), why)
    yield from _venue(paper, evidence, head)
    yield from _doi(paper, evidence, dois)


def apply(document: Document, proposals: Iterable[Proposal], *, titles: bool = False) -> tuple[str, list[Proposal]]:
    """The text of papers.yaml with the proposals made that need no hand, and which those are; comments stay.

    With `titles` arXiv's titles replace curated ones too. RefusedError when an edited entry does not fit.
    """
    made = [each for each in proposals if not each.by_hand or (titles and each.field == "title")]
    edits: dict[str, list[Proposal]] = {str(entry["id"]): [] for entry in reversed(document.entries)}
    for each in made:
        edits[each.paper].append(each)
    for slug, wanted in edits.items():  # from the end, so that the lines of what is still to come stay known
        if not wanted:
            continue
        text = editing.amend(document, slug, partial(_set, wanted))
        as_long = text.count("\n") == document.text.count("\n")
        document = Document(document.path, text, document.data if as_long else parse(text))
    return document.text, made


def _venue(paper: Paper, evidence: Evidence, head: Head) -> Iterator[Proposal]:
    """The upgrade of a preprint to the venue that sources name."""
    found: dict[str, list[tuple[Published, Publication]]] = {}
    for said in evidence.statements():
        venue = venues.normalise(_venue_words(said), None)
        if venue and venue.status == "accepted" and venue.year >= paper.date.year:
            found.setdefault(venue.name, []).append((said, venue))
    if paper.venue.status != "preprint" or not found:
        return
    because = tuple(f"{said.source}: {said.says.strip()}" for group in found.values() for said, _ in group)
    before = paper.venue.model_dump(exclude_none=True)
    best = min((pair for group in found.values() for pair in group), key=lambda pair: RELIABLE.index(pair[0].source))[1]
    why = None
    if len(found) > 1:
        why = f"sources disagree: {', '.join(found)}"
    elif best.name not in head.venues:
        why = f"add '{best.name}' to `venues:` first"
    elif all(said.source == "Semantic Scholar" for said, _ in found[best.name]):
        why = "Semantic Scholar alone often gives the year of the preprint"
    yield Proposal(paper.id, "venue", before, best.model_dump(exclude_none=True), because, why)


def _venue_words(said: Published) -> str:
    """A statement without the words that surround a venue's name in comments; undecided ones stay as they are."""
    return " ".join(PHRASES.sub(" ", said.says).split()) if said.source == "arXiv comment" else said.says


def _doi(paper: Paper, evidence: Evidence, dois: Mapping[str, str]) -> Iterator[Proposal]:
    """The DOI that an entry lacks."""
    given = [(said.doi, said.source) for said in evidence.elsewhere if said.doi]
    if evidence.now and evidence.now.doi:
        given.insert(0, (evidence.now.doi, "arXiv"))
    if paper.ids.doi or not given:
        return
    doi = given[0][0]
    because = tuple(source for each, source in given if each == doi)
    why = f"entry '{dois[doi]}' has it" if doi in dois else None
    if len({each for each, _ in given}) > 1:
        why = f"sources disagree: {', '.join(sorted({each for each, _ in given}))}"
    yield Proposal(paper.id, "ids.doi", None, doi, because, why)


def _set(proposals: Iterable[Proposal], entry: CommentedMap) -> None:
    """Put new values where they belong, in nodes that keep their comments."""
    for proposal in proposals:
        after = proposal.after
        if proposal.field == "venue":
            for key in ("name", "year", "track", "status"):
                entry["venue"][key] = after.get(key)
        elif proposal.field == "ids.doi":
            entry["ids"]["doi"] = DoubleQuotedScalarString(after)
        elif proposal.field == "authors":
            entry["authors"] = CommentedSeq(after)
        else:
            entry[proposal.field] = DoubleQuotedScalarString(after)


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(str(part) for part in value.values())
    return (", ".join(value) if isinstance(value, list | tuple) else str(value or "")) or "nothing"
