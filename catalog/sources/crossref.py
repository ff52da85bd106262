"""Crossref: where a paper with a DOI appeared, and the DOI of a paper whose title it knows (https://api.crossref.org)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rapidfuzz import fuzz

from catalog.sources.http import BrokenAnswerError, Web
from catalog.sources.published import Published, doi, plain

URL = "https://api.crossref.org"
VARIABLE = "HFT_CROSSREF_URL"
SAME_TITLE = 95.0
PUBLISHED = ("journal-article", "proceedings-article", "book-chapter")
FIELDS = "DOI,title,author,container-title,event,published,type"


def by_doi(web: Web, dois: Iterable[str]) -> dict[str, Published]:
    """Where the papers with these DOIs appeared, by DOI; unknown ones are left out."""
    wanted = list(dois)
    found: dict[str, Published] = {}
    for start in range(0, len(wanted), 20):
        batch = wanted[start : start + 20]
        query = {"filter": ",".join(f"doi:{each}" for each in batch), "rows": str(len(batch)), "select": FIELDS}
        for work in _works(web.get("/works", query)):
            if (name := doi(work.get("DOI"))) in batch and (said := _said(work)):
                found[str(name)] = said
    return found


def by_title(web: Web, title: str, authors: Iterable[str]) -> Published | None:
    """Where a paper appeared, when a work has nearly the same title and an author in common."""
    query = {"query.bibliographic": title, "rows": "3", "select": FIELDS}
    families = {plain(name).split()[-1] for name in authors if plain(name)}
    for work in _works(web.get("/works", query)):
        near = max((fuzz.ratio(plain(title), plain(each)) for each in work.get("title") or []), default=0.0)
        named = [plain(str(author.get("family", ""))).split() for author in work.get("author") or []]
        names = {name[-1] for name in named if name}
        if near >= SAME_TITLE and families & names and (said := _said(work)):
            return said
    return None


def _said(work: dict[str, Any]) -> Published | None:
    """The statement in one work; None for preprints and works without a container."""
    held_in = next(iter(work.get("container-title") or []), "") or (work.get("event") or {}).get("name", "")
    year = ((work.get("published") or {}).get("date-parts") or [[None]])[0][0]
    if work.get("type") not in PUBLISHED or not held_in:
        return None
    return Published("Crossref", f"{held_in} {year or ''}".strip(), doi(work.get("DOI")))


def _works(answer: Any) -> list[dict[str, Any]]:
    if answer is None:
        return []
    try:
        works = answer["message"]["items"]
        return [work for work in works if isinstance(work, dict)]
    except (KeyError, TypeError) as error:
        raise BrokenAnswerError("Crossref sent no list of works") from error
