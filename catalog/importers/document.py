"""The JSON that `hft export json` writes; of entries that are not whole, what a list of papers can tell."""

import datetime
import json
from collections.abc import Iterator
from json.decoder import JSONDecoder
from typing import Any

from pydantic import ValidationError

from catalog.importers import table
from catalog.importers.reading import Reading
from catalog.schema import Paper

FIX = "give the file that `hft export json` writes: an object with a list `papers`"
SPACE = " \t\n\r"


def read(text: str, reading: Reading, today: datetime.date) -> None:
    """Add to the reading every paper of the document, and a problem for every entry that is no object."""
    try:
        papers = json.loads(text).get("papers")
    except (json.JSONDecodeError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        reading.complain(line, "json-syntax", f"no JSON: {error}", FIX)
        return
    except AttributeError:
        papers = None
    if not isinstance(papers, list):
        reading.complain(1, "json-syntax", "no list `papers`", FIX)
        return
    for entry, line in zip(papers, _lines(text), strict=True):
        if isinstance(entry, dict):
            cells = {table.plain(name): value for name, value in _cells(entry, "")}
            known = [(table.NAMES[name], value) for name, value in cells.items() if name in table.NAMES]
            table.take(known, line, reading, today, _whole(entry))
        else:
            reading.complain(line, "json-entry", f"no paper: {json.dumps(entry)[:40]}", FIX)


def _whole(entry: dict[str, Any]) -> Paper | None:
    try:
        return Paper.model_validate_json(json.dumps(entry))
    except ValidationError:
        return None


def _cells(value: dict[str, Any], above: str) -> Iterator[tuple[str, str]]:
    """The values that are there as cells of a table, named by their paths; lists as JSON text."""
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _cells(inner, f"{above}{name}.")
        elif inner not in (None, []):
            yield f"{above}{name}", inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False)


def _lines(text: str) -> Iterator[int]:
    """The line of each item of the last list `papers` in the outermost object of a sound document."""
    decoder, starts = JSONDecoder(), list[int]()
    place = _after(text, text.index("{") + 1, "")
    while text[place] != "}":
        key, place = decoder.raw_decode(text, place)
        place = _after(text, place, ":")
        if key == "papers" and text[place] == "[":
            starts, place = [], _after(text, place + 1, "")
            while text[place] != "]":
                starts.append(place)
                place = _after(text, decoder.raw_decode(text, place)[1], ",")
            place += 1
        else:
            place = decoder.raw_decode(text, place)[1]
        place = _after(text, place, ",")
    return (text.count("\n", 0, start) + 1 for start in starts)


def _after(text: str, place: int, sign: str) -> int:
    """The place of the next thing after white space and at most one sign."""
    while text[place] in SPACE or text[place] == sign:
        place += 1
    return place
