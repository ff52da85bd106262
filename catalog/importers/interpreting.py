"""From a raw reference to a candidate: clean text, ids, links, date and venue, with a problem for what was mended."""

import datetime
import html
import re
from dataclasses import replace

from catalog import ids, invisible, venues
from catalog.candidates import Candidate
from catalog.importers import addresses, days
from catalog.importers.reading import Reading, Reference
from catalog.problems import did_you_mean
from catalog.taxonomy import PaperType, Stage

TAGS = re.compile(r"(?i)</?(i|b|em|strong|sub|sup|tt|span|br|scp|u)\b[^>]*>")


def take(reference: Reference, reading: Reading, today: datetime.date) -> None:
    """Add the candidate of a reference to the reading; one without title or any id is a problem instead."""
    title = _bare(clean(reference.title))
    names, links = _addresses(reference, reading)
    if not title:
        told = ", ".join(f"{kind} {value}" for kind, value in names.items()) or "nothing else"
        message, fix = f"a paper without a title ({told})", "write its title, in a Markdown list as **Title**"
        reading.complain(reference.line, "no-title", message, fix)
        return
    date, unsure = _date(reference, names, reading, today)
    reading.candidates.append(
        Candidate(
            title=title,
            authors=_authors(reference, reading),
            date=date,
            ids=names,
            venue=_venue(reference, names, date, reading),
            links=links,
            origin=f"{reading.name}:{reference.line}",
            type=reference.type,
            stage=reference.stage,
            tags=tuple(reference.tags),
            slug=reference.slug if re.fullmatch(ids.SLUG, reference.slug) else None,
            nickname=clean(reference.nickname) or None,
            unsure=tuple(dict.fromkeys((*unsure, *reference.unsure))),
            entry=reference.entry,
        )
    )


def _bare(title: str) -> str:
    """A title without its full stop and without marks around it, which are two, or one that lost its twin."""
    title = title.strip(" *").removesuffix(".")
    marks = len(re.findall('["“”]', title))
    is_enclosed = marks == 2 and title[0] in '"“' and title[-1] in '"”'
    return title.strip(' "“”*').removesuffix(".") if is_enclosed or marks == 1 else title


def clean(text: str) -> str:
    """Text without HTML entities (even when escaped twice), simple HTML tags, stray space and what nobody sees."""
    return " ".join(invisible.without(TAGS.sub("", _unescaped(_unescaped(text)))).split())


def _unescaped(text: str) -> str:
    """Text with entities that end in a semicolon resolved: `&notes` is not `¬es`."""
    return re.sub(r"&#?\w+;", lambda entity: html.unescape(entity[0]), text)


def _addresses(reference: Reference, reading: Reading) -> tuple[dict[ids.Kind, str], dict[str, str]]:
    names: dict[ids.Kind, str] = {}
    links: dict[str, str] = {}
    for label, text in reference.addresses:
        address = addresses.read(label, text.replace("&amp;", "&"))
        if address is None:
            if text.strip() and not text.startswith(("#", "mailto:")):
                message = f"'{label}' leads nowhere: {_shown(text)}"
                fix = "give an id, or an address that begins with https://"
                reading.complain(reference.line, "bad-address", message, fix)
            continue
        for code, message, _ in address.faults:
            fix = "revoke the token if it is real" if code == "link-token" else "check that the link still works"
            reading.complain(reference.line, code, f"{message}; left out", fix, warning=True)
        key, value = (address.id.kind, address.id.value) if address.id else (address.kind, address.link)
        held = names.get(address.id.kind) if address.id else links.get(address.kind)
        if held not in (None, value):
            message = f"two different {key} addresses: {held} and {value}; the first is used"
            fix = "remove the wrong one, or give the second paper a line of its own"
            reading.complain(reference.line, "two-addresses", message, fix)
        elif address.id:
            names[address.id.kind] = value
        else:
            links[address.kind] = value
    if (doi := names.get("doi", "")).startswith("10.18653/v1/"):
        acl = doi.removeprefix("10.18653/v1/")
        names.setdefault("acl", acl.upper() if re.match(r"[a-z]\d\d-", acl) else acl)
    if names and "published" not in [label for label, _ in reference.addresses]:
        links.pop("paper", None)  # one address more of what the ids lead to
    return {kind: names[kind] for kind in ("arxiv", "openreview", "doi", "acl") if kind in names}, links


def _shown(text: str) -> str:
    """An address without its query, where secrets stand."""
    return text.partition("?")[0]


def _authors(reference: Reference, reading: Reading) -> tuple[str, ...]:
    names = [clean(name).strip(" ,;*") for name in reference.authors]
    kept = [name for name in names if name and not re.fullmatch(r"(?i)others|et\.? al\.?|\.\.\.|…", name)]
    if len(kept) < len([name for name in names if name]):
        message, fix = "the author list is cut short", "name all authors, or leave them to `hft sync`"
        reading.complain(reference.line, "authors-cut", message, fix, warning=True)
        return ()
    return tuple(kept)


def _date(
    reference: Reference, names: dict[ids.Kind, str], reading: Reading, today: datetime.date
) -> tuple[datetime.date | None, tuple[str, ...]]:
    """The date unless it is none, lies ahead, or disagrees with the arXiv id; and `date` when it is in part a guess."""
    try:
        day = days.parse(reference.date)
    except ValueError:
        fix = "write it as 2024-02-29"
        reading.complain(reference.line, "bad-date", f"no date: '{reference.date.strip()}'", fix, warning=bool(names))
        return None, ()
    if day is None:
        return None, ()
    if day.first > today:
        message, fix = f"date {day.first} lies in the future", "give the day of the first public version"
        reading.complain(reference.line, "date-in-future", message, fix, warning="arxiv" in names)
        return None, ()
    if arxiv := names.get("arxiv"):
        year, month = ids.arxiv_month(arxiv)
        late = (day.first.year - year) * 12 + day.first.month - month
        posted_before = bool(names.keys() & {"openreview", "doi", "acl"})
        if not day.exact and (not day.has_month or late == 0):
            return None, ()
        if late > 0 or (late < -1 and not posted_before):
            message = f"date {day.first} disagrees with arXiv id {arxiv}, given out in {year}-{month:02}; left out"
            fix = "correct the date or the id; until then the month of the id stands in"
            reading.complain(reference.line, "date-arxiv", message, fix, warning=True)
            return None, ()
    if not day.exact:
        message = f"the date is no exact day; {day.first} stands in"
        fix = "give the day of the first public version"
        reading.complain(reference.line, "date-inexact", message, fix, warning=True)
    return day.first, () if day.exact else ("date",)


def _venue(
    reference: Reference, names: dict[ids.Kind, str], date: datetime.date | None, reading: Reading
) -> str | None:
    """The venue as printed; None where it is a preprint, or not known, and the ids tell where the paper is posted."""
    raw = clean(reference.venue)
    known = venues.normalise(raw, date or datetime.date(2000, 1, 1)) if raw else None
    posted = bool(names.keys() & {"arxiv", "openreview", "acl"})
    if raw and known is None and posted:
        message = f"unknown venue '{raw}'; where the paper is posted stands in"
        fix = f"{did_you_mean(raw, venues.CONFERENCES)} A new one goes to `venues` and catalog/venues.py."
        reading.complain(reference.line, "unknown-venue", message, fix, warning=True)
    return None if not raw or (posted and (known is None or known.status == "preprint")) else raw


def with_defaults(reading: Reading, kind: PaperType | None, stage: Stage | None) -> None:
    """Give every candidate of which the file says neither type nor stage these."""
    reading.candidates[:] = [
        each if each.type or each.stage else replace(each, type=kind, stage=stage) for each in reading.candidates
    ]
