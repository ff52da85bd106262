"""Run records as JSON Lines: one row a record, flat, from which the record itself can be built again."""

import json
from collections.abc import Iterable
from typing import Any

Record = dict[str, Any]

OPENED = dict.fromkeys(("spec", "cost", "digests", "environment", "mechanisms"), 1)
OPENED |= dict.fromkeys(("before", "metrics", "findings"), 2)
"""Parts of a record that become columns, with the number of levels that do; other values stay as they are."""


def to_lines(records: Iterable[Record]) -> str:
    """One line a record: columns such as `metrics.harmful.k`, sorted; `seal` is the digest of all the others."""
    return "".join(json.dumps(row(record), sort_keys=True, ensure_ascii=False) + "\n" for record in records)


def from_lines(text: str) -> list[Record]:
    """The records of such a text."""
    return [record(json.loads(line)) for line in text.splitlines()]


def row(record: Record) -> dict[str, Any]:
    """A record as a flat row; a part that is empty stays as an empty object."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        _open(found, name, value, OPENED.get(name, 0))
    return found


def record(row: dict[str, Any]) -> Record:
    """The record of a flat row."""
    found: Record = {}
    for name, value in row.items():
        levels = OPENED.get(name.partition(".")[0], 0)
        *above, last = name.split(".", levels)
        place = found
        for key in above:
            place = place.setdefault(key, {})
        place[last] = value
    return found


def _open(found: dict[str, Any], name: str, value: Any, levels: int) -> None:
    if not levels or not isinstance(value, dict) or not value:
        found[name] = value
        return
    for key, inner in value.items():
        _open(found, f"{name}.{key}", inner, levels - 1)
