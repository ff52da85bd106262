"""RIS files, as reference managers write them."""

import datetime
import re
from typing import Any

import rispy

from catalog.importers import interpreting, keywords
from catalog.importers.reading import Reading, Reference

TAG = re.compile(r"([A-Z][A-Z0-9])  - ?(.*)")
FIX = "begin every record with `TY  - …`, end it with `ER  -`, two letters and two spaces before every dash"


def read(text: str, reading: Reading, today: datetime.date) -> None:
    """Add to the reading every record, and a problem for every line outside one and every record cut off."""
    start, lines = 0, list[str]()
    for number, line in enumerate(text.split("\n"), 1):
        tag = TAG.match(line.strip())
        if tag and tag[1] == "TY":
            if start:
                reading.complain(start, "ris-syntax", "a record without its end", FIX)
            start, lines = number, []
        if not start:
            if line.strip():
                reading.complain(number, "ris-syntax", f"a line outside of a record: '{line.strip()[:40]}'", FIX)
            continue
        lines.append(line.strip() if tag else f"  {line.strip()}")
        if tag and tag[1] == "ER":
            _record("\n".join([*lines[:-1], "ER  - "]), start, reading, today)
            start = 0
    if start:
        reading.complain(start, "ris-syntax", "a record without its end", FIX)


def _record(text: str, line: int, reading: Reading, today: datetime.date) -> None:
    try:
        (found,) = rispy.loads(text)
    except (ValueError, OSError, KeyError) as error:
        reading.complain(line, "ris-syntax", f"broken record: {error}", FIX)
        return
    reference = Reference(line, _first(found, "title", "primary_title"))
    reference.authors = [_turned(name) for name in found.get("authors") or found.get("first_authors") or ()]
    year = _first(found, "year", "publication_year").strip("/")
    reference.date = _first(found, "date") or year
    reference.venue = _first(found, "journal_name", "secondary_title", "alternate_title3", "publisher", "custom3")
    if reference.venue and not re.search(r"(?:19|20)\d\d", reference.venue):
        reference.venue += f" {year[:4]}"
    reference.nickname = _first(found, "short_title")
    reference.addresses = [("doi", _named(doi, "doi")) for doi in _all(found, "doi")]
    reference.addresses += [("", url) for url in _all(found, "urls", "file_attachments1", "file_attachments2", "url")]
    reference.addresses += [("code", url) for url in _all(found, "link_code") if url]
    notes = " ".join(_all(found, "notes", "note", "custom1", "accession_number"))
    reference.addresses += re.findall(r"(?:\b(code|data|project): )?(https?://[^\s,;]+)", notes)
    reference.addresses += [("arXiv", name) for name in re.findall(r"(?i)arxiv:\s*[\w./-]+\d", notes)]
    keywords.sort(_all(found, "keywords"), reference)
    interpreting.take(reference, reading, today)


def _named(value: str, kind: str) -> str:
    return value if value.startswith("http") or value.casefold().startswith(kind) else f"{kind}:{value}"


def _first(record: dict[str, Any], *names: str) -> str:
    return next(iter(_all(record, *names)), "")


def _all(record: dict[str, Any], *names: str) -> list[str]:
    values: list[str] = []
    for name in names:
        value = record.get(name) or ()
        values += [value] if isinstance(value, str) else value
    return [value.strip() for value in values if value.strip()]


def _turned(name: str) -> str:
    """`Family, Given, Suffix` as it is spoken."""
    family, _, rest = name.partition(",")
    given, _, suffix = rest.partition(",")
    return " ".join(part.strip() for part in (given, family, suffix) if part.strip())
