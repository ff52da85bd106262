"""Several descriptions of one paper as one: what is empty is filled, what disagrees is told."""

import datetime
from collections.abc import Iterator
from dataclasses import replace

from catalog import dedupe, venues
from catalog.candidates import Candidate
from catalog.problems import Problem

OTHER_PAPER = 60.0
"""`dedupe.likeness` of titles below which one id stands on two papers."""
RETITLED = 90.0
"""The likeness below which the titles of one id are told, and nothing else is taken over."""


def merged(group: list[Candidate]) -> tuple[Candidate, list[Problem]]:
    """One candidate of a group of `dedupe.groups`, and every disagreement in it.

    The earliest goes before the others; those whose ids or title contradict it are left out.
    """
    first, *others = group
    problems: list[Problem] = []
    for other in others:
        if wrong := list(contradictions(other, first, first.origin)):
            problems += wrong
            continue
        problems += differences(other, first, first.origin)
        if not retitled(other, first):
            first = _filled(first, other)
    return first, problems


def contradictions(one: Candidate, other: Candidate, name: str) -> Iterator[Problem]:
    """Why one description cannot be of the other's paper although they match; `name` is what the other is called."""
    for kind, value in sorted(one.ids.items()):
        if (held := other.ids.get(kind)) and held.casefold() != value.casefold():
            message = f"the same paper as {name}, but {kind} {value} is not {held}"
            yield Problem("id-conflict", one.origin, "", message, "correct the wrong id, or make the titles differ")
    if dedupe.likeness(one.title, other.title) < OTHER_PAPER:
        shared = ", ".join(f"{kind} {value}" for kind, value in sorted(one.ids.items()) if other.ids.get(kind) == value)
        message = f"'{one.title}' has the id ({shared}) of '{other.title}' ({name})"
        if shared:
            yield Problem("title-conflict", one.origin, "", message, "correct the id or the title")


def differences(one: Candidate, other: Candidate, name: str) -> Iterator[Problem]:
    """Warnings for facts of one that the other states differently, and that are therefore not taken over."""
    told: list[tuple[str, object, object]] = [
        ("type", one.type, other.type),
        ("stage", one.stage if one.type == other.type else None, other.stage),
        ("date", one.date, other.date),
        *((f"{kind} link", link, other.links.get(kind)) for kind, link in sorted(one.links.items())),
    ]
    mine, theirs = (venues.normalise(each.venue, each.first_public) if each.venue else None for each in (one, other))
    if mine and theirs and (mine.name, mine.track) != (theirs.name, theirs.track):
        told.append(("venue", f"{mine.name} {mine.year}", f"{theirs.name} {theirs.year}"))
    if retitled(one, other):
        told.append(("title", f"'{one.title}'", f"'{other.title}'"))
    for what, value, held in told:
        if value and held and str(value).rstrip("/") != str(held).rstrip("/"):
            fix = "nothing changed; correct the one that is wrong"
            message = f"{what} {value} differs from {held} of {name}"
            yield Problem("differs", one.origin, "", message, fix, warning=True)


def retitled(one: Candidate, other: Candidate) -> bool:
    """Whether the titles differ so far that other facts may belong to another paper."""
    return dedupe.likeness(one.title, other.title) < RETITLED


def _filled(first: Candidate, other: Candidate) -> Candidate:
    raw = next((each.venue for each in (first, other) if each.venue and _accepted(each)), first.venue or other.venue)
    return replace(
        first,
        authors=first.authors or other.authors,
        date=first.date or _agreeing(other.date, first),
        ids={**other.ids, **first.ids},
        venue=raw,
        links={**other.links, **first.links},
        type=first.type or other.type,
        stage=first.stage or (other.stage if first.type in (None, other.type) else None),
        tags=tuple(dict.fromkeys((*first.tags, *other.tags))),
        slug=first.slug or other.slug,
        nickname=first.nickname or other.nickname,
    )


def _accepted(candidate: Candidate) -> bool:
    found = venues.normalise(candidate.venue or "", candidate.first_public or datetime.date(2000, 1, 1))
    return found is not None and found.status == "accepted"


def _agreeing(date: datetime.date | None, first: Candidate) -> datetime.date | None:
    """The date when it is not after the month of the first one's arXiv id."""
    month = first.first_public
    late = date and month and (date.year, date.month) > (month.year, month.month)
    return None if late else date
