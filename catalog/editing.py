"""Change single entries of papers.yaml and leave every other byte as it is."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from catalog import atomic, canonical
from catalog.papers import FILE, Document, validate
from catalog.problems import Problem, RefusedError

Change = Callable[[CommentedMap], None]
BOM = b"\xef\xbb\xbf"


def insert(document: Document, entries: Iterable[Mapping[str, Any]]) -> str:
    """The text of the document with new entries in their places by date and id, nothing else changed.

    An entry is a mapping in the form of `schema.Paper`; RefusedError names what does not fit.
    """
    return revise(document, entries, {})


def amend(document: Document, slug: str, change: Change) -> str:
    """The text of the document with one entry changed in place and written canonically, its comments kept."""
    return revise(document, (), {slug: change})


def revise(document: Document, entries: Iterable[Mapping[str, Any]], changes: Mapping[str, Change]) -> str:
    """The text of the document with new entries inserted and others changed, as `insert` and `amend` do it."""
    lines, bounds = _lines(document)
    known = [] if canonical.is_empty(document) else list(document.plain_entries())
    keys = [canonical.sort_key(entry) for entry in known]
    edits: list[tuple[int, int, str]] = []
    for entry in sorted(entries, key=canonical.sort_key):
        block = text(entry)
        place = bisect_right(keys, canonical.sort_key(entry))
        edits.append((bounds[place], bounds[place], f"{block}\n\n" if place == 0 else f"\n{block}\n"))
    if edits and not known:
        edits[-1] = (*edits[-1][:2], edits[-1][2].rstrip("\n") + "\n")
    slugs = {str(entry.get("id")): index for index, entry in reversed(list(enumerate(known)))}
    for slug, change in changes.items():
        if slug not in slugs:
            raise RefusedError([Problem("unknown-paper", f"{FILE}:1", slug, f"no entry '{slug}'", "see `hft list`")])
        begin, end = bounds[slugs[slug]], bounds[slugs[slug] + 1]
        begin += next(n for n, line in enumerate(lines[begin:end]) if line.strip())
        own = [line.rstrip() for line in lines[begin:end] if line.strip()]
        edits.append((begin, end, _fitting(canonical.entry_text(own, change)[1]) + "\n"))
    edits.sort(key=lambda edit: edit[:2])
    for begin, end, new in reversed(edits):  # from the end, so that line numbers hold
        lines[begin:end] = [new]
    return "".join(lines)


def text(entry: Mapping[str, Any]) -> str:
    """The lines of a new entry as they stand in the file; RefusedError when it does not fit the schema."""
    return _fitting(canonical.block(entry))


def without(document: Document, slug: str) -> Document:
    """The document without one entry and the comments above it."""
    index = [entry.get("id") for entry in document.entries].index(slug)
    lines, bounds = _lines(document)
    begin, end = bounds[index], bounds[index + 1]
    if index == 0:  # the blank line that parts it from the next entry goes with it
        end += next((n for n, line in enumerate(lines[end:]) if line.strip()), 0)
    rest = "".join(lines[:begin] + lines[end:])
    return Document(document.path, rest)


def save(path: Path, text: str) -> None:
    """Write the text in one step, with the byte order mark and the line ends the file had."""
    atomic.write(path, encoded(path, text))


def encoded(path: Path, text: str) -> bytes:
    """The bytes of a text, with the byte order mark and the line ends that the file has."""
    old = path.read_bytes() if path.is_file() else b""
    data = text.encode()
    if b"\r\n" in old:
        data = data.replace(b"\n", b"\r\n")
    return BOM + data if old.startswith(BOM) else data


def _lines(document: Document) -> tuple[list[str], list[int]]:
    """The lines of the document, and where each entry begins; RefusedError unless they stand as `hft fmt` has them."""
    if canonical.is_empty(document):
        lines = document.text.splitlines(keepends=True)
        row = next(number for number, line in enumerate(lines) if line.startswith("papers:"))
        return [*lines[:row], "papers:\n", *lines[row + 1 :]], [row + 1]
    if not canonical.is_splittable(document) or canonical.depth(document) != len("  "):
        message, fix = "entries do not stand one below the other as `  - id: …` at the end", "run `hft fmt` first"
        raise RefusedError([document.problem("format", ("papers",), message, fix)])
    lines = document.text.splitlines(keepends=True)
    if not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return lines, canonical.bounds(document)


def _fitting(text: str) -> str:
    """The text of one entry, once it is shown to fit the schema when read back."""
    _, problems = validate(Document(Path(FILE), f"papers:\n{text}\n"))
    if problems := [problem for problem in problems if problem.paper]:
        raise RefusedError(problems)
    return text
