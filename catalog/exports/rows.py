"""The catalogue as CSV and as JSON, and both back again: nothing of an entry is lost in either."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from catalog import schema
from catalog.exports.columns import Column, columns

SEPARATOR = "; "


def to_json(head: schema.Head, papers: Iterable[schema.Paper]) -> str:
    """The whole of papers.yaml as one JSON document with the same keys, empty ones left out."""
    top = head.model_dump(mode="json", by_alias=True)
    entries = [paper.model_dump(mode="json", exclude_defaults=True) for paper in papers]
    return json.dumps({**top, "papers": entries}, indent=1, ensure_ascii=False) + "\n"


def from_json(text: str) -> tuple[schema.Head, list[schema.Paper]]:
    """Head and papers of such a document. Raises pydantic's ValidationError."""
    found = schema.Root.model_validate_json(text)
    return found, found.papers


def to_csv(papers: Iterable[schema.Paper]) -> str:
    """One row a paper with the columns of `columns.columns`, as in RFC 4180 (lines end in CR LF, UTF-8)."""
    layout = columns()
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow([column.name for column in layout])
    for paper in papers:
        entry = paper.model_dump(mode="json", exclude_defaults=True)
        writer.writerow([_cell(column, entry) for column in layout])
    return out.getvalue()


def from_csv(text: str) -> list[schema.Paper]:
    """The papers of such a table; absent columns and empty cells are unknown. Raises pydantic's ValidationError."""
    return [from_row(row) for row in csv.DictReader(io.StringIO(text, newline=""))]


def from_row(row: Mapping[str, str]) -> schema.Paper:
    """The paper of one row, given by column. Raises ValueError, of which pydantic's ValidationError is one."""
    return schema.Paper.model_validate_json(json.dumps(_entry(columns(), row)))


def _cell(column: Column, entry: dict[str, Any]) -> str:
    value: Any = entry
    for key in column.path:
        value = value.get(key) if value else None
    if value is None or value == []:
        return ""
    if column.form == "json" or (column.form == "list" and any(_is_divided(item) for item in value)):
        return json.dumps(value, ensure_ascii=False)
    return SEPARATOR.join(value) if column.form == "list" else str(value)


def _is_divided(item: str) -> bool:
    """Whether a word would be taken apart, or for JSON, when read back; other readers part names at commas too."""
    return re.search(r"[;,]|\band\b|^\[", item) is not None


def _entry(layout: list[Column], row: Mapping[str, str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"authors": [], "ids": {}}
    for column in layout:
        if not (cell := row.get(column.name)):
            continue
        *above, last = column.path
        place = entry
        for key in above:
            place = place.setdefault(key, {})
        place[last] = _value(column, cell)
    return entry


def _value(column: Column, cell: str) -> Any:
    if column.form == "json" or (column.form == "list" and cell.startswith("[")):
        return json.loads(cell)
    if column.form == "list":
        return cell.split(SEPARATOR)
    return int(cell) if column.name == "venue.year" else cell
