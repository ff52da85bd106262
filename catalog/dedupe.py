"""Whether two descriptions mean one paper: by outside id first, then by title, then by title and authors.

On the 173 papers of the field's list, the two most alike titles of different papers reach a ratio of 85, and those
that share half of the authors 82: both bounds below lie above that.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from rapidfuzz import fuzz, process

from catalog.candidates import Candidate, of

if TYPE_CHECKING:
    from catalog import ids
    from catalog.schema import Paper

SAME_TITLE = 95.0
"""rapidfuzz ratio of normalised titles (100 means equal) from which titles alone decide."""
LIKE_TITLE = 88.0
"""The ratio from which titles decide when half of the authors agree."""
SAME_AUTHORS = 0.5
"""The share of the shorter author list that must stand in the other."""
YEAR = 366
KEYS = 12
"""So many of a title's rarest keys stand in the index.

Keys are pairs of neighbouring words. A misprint spoils two of them, so up to three misprints leave one to be found.
"""
SURE = 2
"""So many of a title's rarest keys are looked up however common they are."""
CROWD = 150
"""The others only while no more titles than these are met, else the work would grow with the square."""
SHORT = 6
"""Titles of at most so many words also stand in the index by word."""
LABELS: dict[ids.Kind, str] = {"arxiv": "arXiv id", "openreview": "OpenReview id", "doi": "DOI", "acl": "ACL id"}


@dataclass(frozen=True)
class Match:
    """A known paper that a candidate is, and why: `same arXiv id`, `near-equal title within a year`, …"""

    id: str
    why: str

    @property
    def by_id(self) -> bool:
        """Whether an outside id decided, not a likeness."""
        return self.why.startswith("same ")


class Known:
    """Papers that candidates are compared with, by name; looking one up takes much the same time however many."""

    def __init__(self, papers: Mapping[str, Candidate], *, closed: bool = False) -> None:
        """`closed` keeps only what several titles share, for who looks up none but the known papers themselves."""
        self.papers = dict(papers)
        self._titles = {name: normal(paper.title) for name, paper in self.papers.items()}
        self._by_id: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._by_key: dict[str, list[str]] = defaultdict(list)
        self._common = Counter(hash(key) for title in self._titles.values() for key in _keys(title))
        if closed:
            self._common = Counter({key: count for key, count in self._common.items() if count > 1})
        for name, title in self._titles.items():
            for pair in _ids(self.papers[name]).items():
                self._by_id[pair].append(name)
            for key in self._rarest(title):
                self._by_key[key].append(name)

    @classmethod
    def of(cls, papers: Iterable[Paper]) -> Known:
        """The entries of the catalogue, by id."""
        return cls({paper.id: of(paper) for paper in papers})

    def matches(self, candidate: Candidate) -> list[Match]:
        """Every known paper that the candidate is, the surest first, each once."""
        found: dict[str, Match] = {}
        for kind, label in LABELS.items():
            for name in sorted(self._by_id.get((kind, _ids(candidate).get(kind, "")), ())):
                found.setdefault(name, Match(name, f"same {label}"))
        title = normal(candidate.title)
        for ratio, name in sorted(self._alike(candidate, title), key=lambda pair: (-pair[0], pair[1])):
            why = "near-equal title within a year" if ratio >= SAME_TITLE else "title and authors"
            found.setdefault(name, Match(name, why))
        return list(found.values())

    def _near(self, title: str) -> set[str]:
        keys = self._rarest(title)
        crowd = accumulate(len(self._by_key.get(key, ())) for key in keys)
        ranked = enumerate(zip(keys, crowd, strict=True))
        asked = (key for rank, (key, met) in ranked if rank < SURE or met <= CROWD)
        return {name for key in asked for name in self._by_key.get(key, ())}

    def _rarest(self, title: str) -> list[str]:
        counted = sorted((count, key) for key in _keys(title) if (count := self._common[hash(key)]))
        return [key for _, key in counted[:KEYS]]

    def _alike(self, candidate: Candidate, title: str) -> Iterator[tuple[float, str]]:
        """Papers whose titles decide, with the ratio: nearly equal, or alike with half of the authors the same."""
        near = {name: self._titles[name] for name in self._near(title)}
        least = LIKE_TITLE if candidate.authors else SAME_TITLE
        for _, ratio, name in process.extract(title, near, scorer=fuzz.ratio, score_cutoff=least, limit=None):
            other = self.papers[name]
            if not _within_a_year(candidate, other):
                continue
            if ratio >= SAME_TITLE or shared_authors(candidate, other) >= SAME_AUTHORS:
                yield ratio, name


def find(candidate: Candidate, known: Known) -> Match | None:
    """The known paper that a candidate is, or None; an outside id outweighs a title."""
    return next(iter(known.matches(candidate)), None)


def groups(candidates: Iterable[Candidate]) -> list[list[Candidate]]:
    """The candidates sorted into papers: two stand together when they match, directly or through others.

    The order in which they are given decides nothing: members of a group and the groups stand in `sort_key` order.
    """
    ordered = sorted(candidates, key=sort_key)
    known = Known({str(n): candidate for n, candidate in enumerate(ordered)})
    parent = list(range(len(ordered)))

    def root(n: int) -> int:
        while parent[n] != n:
            parent[n] = parent[parent[n]]
            n = parent[n]
        return n

    for n, candidate in enumerate(ordered):
        for match in known.matches(candidate):
            low, high = sorted((root(n), root(int(match.id))))
            parent[high] = low
    members: dict[int, list[Candidate]] = defaultdict(list)
    for n, candidate in enumerate(ordered):
        members[root(n)].append(candidate)
    return list(members.values())


def twins(papers: Iterable[Paper]) -> Iterator[tuple[Paper, Paper]]:
    """Each later paper with an earlier one whose title is nearly equal, less than a year apart."""
    entries = list(papers)
    bare = {str(n): Candidate(paper.title, date=paper.date) for n, paper in enumerate(entries)}  # titles alone
    known = Known(bare, closed=True)
    for n, paper in enumerate(entries):
        for earlier in sorted(int(match.id) for match in known.matches(bare[str(n)])):
            if earlier < n:
                yield paper, entries[earlier]


def sort_key(candidate: Candidate) -> tuple[str, ...]:
    """An order of candidates by what they say, not by where they stand: earliest first, then by title and ids."""
    day = candidate.first_public
    ids = (candidate.ids.get(kind, "") for kind in LABELS)
    words = (candidate.venue, candidate.type, candidate.stage, candidate.slug, candidate.nickname)
    lists = (candidate.authors, sorted(candidate.links.values()), candidate.tags, candidate.unsure)
    rest = (*(word or "" for word in words), *("\n".join(each) for each in lists))
    return (day.isoformat() if day else "9999", normal(candidate.title), candidate.title, *ids, *rest)


def normal(title: str) -> str:
    """A title as titles are compared: lower case words without punctuation."""
    return re.sub(r"\W+", " ", unicodedata.normalize("NFKC", title).casefold()).strip()


def likeness(one: str, other: str) -> float:
    """How alike two titles are, from 0 to 100, words in any order and a part standing for the whole."""
    return fuzz.token_set_ratio(normal(one), normal(other))


def shared_authors(one: Candidate, other: Candidate) -> float:
    """The share of the shorter author list that stands in the other, by family name and first initial."""
    mine, theirs = ({_person(name) for name in each.authors} for each in (one, other))
    return len(mine & theirs) / min(len(mine), len(theirs)) if mine and theirs else 0.0


def _ids(candidate: Candidate) -> dict[str, str]:
    """The ids without regard to case, and the ACL id that a DOI of the ACL holds."""
    held = {str(kind): value.casefold() for kind, value in candidate.ids.items()}
    acl = held.get("doi", "").partition("10.18653/v1/")[2]
    return {"acl": acl, **held} if acl else held


def _person(name: str) -> tuple[str, str]:
    plain = "".join(c for c in unicodedata.normalize("NFKD", name.casefold()) if not unicodedata.combining(c))
    family, comma, given = plain.partition(",")
    if not comma:
        given, _, family = plain.strip().rpartition(" ")
    return re.sub(r"\W", "", family), given.strip()[:1]


def _within_a_year(one: Candidate, other: Candidate) -> bool:
    days = [each.first_public for each in (one, other)]
    return days[0] is None or days[1] is None or abs((days[0] - days[1]).days) <= YEAR


def _keys(title: str) -> set[str]:
    """Neighbouring words of a normalised title, the title without spaces, and the words of a short one."""
    words = title.split()
    pairs = {f"{one} {two}" for one, two in pairwise(words)} | {"".join(words)}
    return pairs.union(words) if len(words) <= SHORT else pairs
