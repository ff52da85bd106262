"""From what is known of a paper to its entry: slug, date, venue, type; what had to be guessed is marked."""

import datetime
import re
import unicodedata
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from catalog import ids, taxonomy, venues
from catalog.candidates import Candidate
from catalog.problems import Problem, RefusedError
from catalog.schema import Publication

SMALL_WORDS = set(
    "a an and are as at be by can do does for from how in into is it its not of on or the to via with".split()
)
MAX_SLUG = 40
GUESSES: tuple[tuple[taxonomy.PaperType, str], ...] = (
    ("survey", r"survey|review|overview"),
    ("benchmark", r"benchmark|evaluating|toolkit|bench\b|testbed"),
    ("defense", r"defen[sc]|defend|safeguard|mitigat|protect|immuni|resistan|preserv|robust|restor|realign|re-align"),
    ("mechanism", r"mechanis|landscape|interpret|understanding|unveil|dynamics|probing|neurons"),
    ("attack", r"attack|jailbreak|compromis|undo|undermin|break|remov|poison|bypass|subver|malicious|unalign|vulnerab"),
)
"""Words of titles that tell the type, the first that fits; else a defense, as two thirds of the field are."""


@dataclass(frozen=True)
class Draft:
    """An entry in the form of `schema.Paper`, and the keys of it that are guesses."""

    entry: dict[str, Any]
    unsure: tuple[str, ...]


def draft(paper: Candidate, taken: Container[str], today: datetime.date) -> Draft:
    """The whole entry of a paper; `taken` are the slugs in use.

    Only with an arXiv id can the title or the date be missing. RefusedError names what else is wanted.
    """
    unsure = [] if paper.title else ["title", *([] if paper.authors else ["authors"])]
    date = paper.date or _earliest(paper)
    title = paper.title or (f"arXiv {paper.ids['arxiv']}" if "arxiv" in paper.ids else "")
    venue = publication(paper, date)
    wanted = {"title": bool(title), "date": bool(date), "venue": bool(venue)}
    if date is None or venue is None or not title:
        flags = ", ".join(f"--{name}" for name, known in wanted.items() if not known)
        message = "not enough is known to write an entry" if not paper.venue or venue else _unknown_venue(paper.venue)
        raise RefusedError([Problem("incomplete", paper.origin, "", message, f"give {flags}")])
    unsure += [] if paper.date else ["date"]
    kind = paper.type or ("defense" if paper.stage else guess(title))
    unsure += [] if paper.type or paper.stage else ["type"]
    stage = paper.stage if kind == "defense" else None
    if kind == "defense" and not stage:
        stage, unsure = "fine-tuning", [*unsure, "stage"]
    unsure += [key for key in paper.unsure if key not in unsure]
    nickname = paper.nickname or (name_in(title) if paper.title else None)
    facts: dict[str, Any] = {
        "id": paper.slug or slug(nickname or title, date, taken),
        "title": title,
        "nickname": nickname,
        "authors": list(paper.authors),
        "date": date,
        "ids": {key: paper.ids.get(key) for key in ("arxiv", "openreview", "doi", "acl")},
        "venue": venue.model_dump(),
        "type": kind,
        "stage": stage,
        "tags": list(paper.tags),
        "links": dict(paper.links),
        "unsure": unsure,
        "curation": {"added": today, "source": paper.origin, "checked": today},
    }
    return Draft({key: value for key, value in facts.items() if value or key == "authors"}, tuple(unsure))


def publication(paper: Candidate, date: datetime.date | None) -> Publication | None:
    """Where a paper appeared: as its venue says, else as its ACL id does, else as a preprint."""
    if paper.venue:
        return venues.normalise(paper.venue, date)
    if found := re.match(r"(\d{4})\.(findings-)?([a-z]+)", paper.ids.get("acl", "")):
        named = venues.normalise(f"{'Findings of ' if found[2] else ''}{found[3].upper()} {found[1]}", date)
        if named:
            return named
    if date and (server := next((s for s in ("arxiv", "openreview") if s in paper.ids), None)):
        name = {"arxiv": "arXiv", "openreview": "OpenReview"}[server]
        year = ids.arxiv_month(paper.ids["arxiv"])[0] if server == "arxiv" else date.year
        return Publication(name=name, year=year, status="preprint")
    return None


def slug(name: str, date: datetime.date, taken: Container[str]) -> str:
    """A short id from a nickname or a title that no other entry has: first its year, then a number is added."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name.casefold()) if not unicodedata.combining(c))
    words = re.findall(r"[a-z0-9]+", re.sub(r"['’]", "", plain))
    telling = [word for word in words if word not in SMALL_WORDS] or words or ["paper"]
    base = telling[0][:MAX_SLUG]
    for word in telling[1:3]:
        base = f"{base}-{word}" if len(base) + len(word) < MAX_SLUG else base
    names = (base, f"{base}-{date.year}", *(f"{base}-{date.year}-{n}" for n in range(2, 10_000)))
    free: str = next(each for each in names if each not in taken and each not in taxonomy.BASELINES)
    return free


def name_in(title: str) -> str | None:
    """The name a title gives its method before a colon: 'Vaccine: …' → 'Vaccine'; None when that is a phrase."""
    name, colon, _ = title.partition(":")
    words = name.split()
    is_name = len(words) == 1 or (len(words) <= 3 and all(re.search(r"[A-Z0-9]", word) for word in words))
    told = {"survey", "position", "on", "towards"} & {word.casefold() for word in words}
    return name.strip() if colon and words and is_name and not told else None


def guess(title: str) -> taxonomy.PaperType:
    """The type that words of the title suggest."""
    found = (kind for kind, words in GUESSES if re.search(words, title, re.IGNORECASE))
    return next(found, "defense")


def _earliest(paper: Candidate) -> datetime.date | None:
    """The first day of the month of the arXiv id."""
    arxiv = paper.ids.get("arxiv")
    return datetime.date(*ids.arxiv_month(arxiv), 1) if arxiv else None


def _unknown_venue(raw: str) -> str:
    return f"unknown venue '{raw}'"
