"""Read papers.yaml: parsed with the line of every key, then validated entry by entry."""

import datetime
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, SingleQuotedScalarString

from catalog import ids, schema
from catalog.problems import Problem, RefusedError, did_you_mean

FILE = "papers.yaml"

Place = tuple[str | int, ...]
Model = TypeVar("Model", bound=schema.Strict)


@dataclass(frozen=True)
class Document:
    """papers.yaml as parsed: not validated, every node knowing its line."""

    path: Path
    text: str
    data: CommentedMap

    @property
    def entries(self) -> list[Any]:
        """The raw entries, of whatever type they are."""
        papers = self.data.get("papers")
        return papers if isinstance(papers, list) else []

    def line(self, place: Place) -> int:
        """Line (from 1) of a key or list item, or of its nearest parent when it is absent."""
        node: Any = self.data
        found = 0
        for step in place:
            if isinstance(node, CommentedMap) and step in node:
                found = node.lc.key(step)[0]
            elif isinstance(node, CommentedSeq) and isinstance(step, int) and step < len(node):
                found = node.lc.item(step)[0]
            else:
                continue
            node = node[step]
        return found + 1

    def slug(self, place: Place) -> str:
        """What to call the entry a place lies in: its id, or its number when it has none."""
        if len(place) < 2 or place[0] != "papers":
            return ""
        entry = self.entries[int(place[1])]
        name = entry.get("id") if isinstance(entry, dict) else None
        return str(name) if name is not None else f"entry {int(place[1]) + 1}"

    def problem(self, code: str, place: Place, message: str, fix: str, *, warning: bool = False) -> Problem:
        """A problem at a place of the file."""
        return Problem(code, f"{FILE}:{self.line(place)}", self.slug(place), message, fix, warning)


@dataclass(frozen=True)
class Catalogue:
    """What of papers.yaml fits the schema; `places[i]` is the index in the file of `papers[i]`."""

    document: Document
    head: schema.Head | None
    papers: list[schema.Paper]
    places: list[int]

    def numbered(self) -> Iterator[tuple[int, schema.Paper]]:
        """Each paper with the index of its entry in the file."""
        return zip(self.places, self.papers, strict=True)


def read(path: Path) -> Document:
    """Parse papers.yaml; RefusedError names line and fix when it is no YAML mapping."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise RefusedError([_broken(line, "a byte that is not UTF-8")]) from error
    return Document(path, text, parse(text))


def load(path: Path) -> tuple[schema.Head, list[schema.Paper]]:
    """Head and papers of a file that fits the schema; RefusedError otherwise."""
    catalogue, problems = validate(read(path))
    if problems or catalogue.head is None:
        raise RefusedError(problems)
    return catalogue.head, catalogue.papers


def validate(document: Document) -> tuple[Catalogue, list[Problem]]:
    """Everything that fits the schema, and a problem for every key that does not."""
    rest = {key: value for key, value in document.data.items() if key != "papers"}
    head, problems = _validated(document, (), schema.Head, rest)
    if not isinstance(document.data.get("papers"), list):
        problems.append(document.problem("schema", ("papers",), "no list of papers", "add `papers:` with entries"))
    papers, places = [], []
    for index, entry in enumerate(document.entries):
        paper, found = _validated(document, ("papers", index), schema.Paper, entry)
        problems += found
        if paper:
            papers.append(paper)
            places.append(index)
    return Catalogue(document, head, papers, places), problems + list(unquoted(document))


def add(path: Path, *entries: Mapping[str, Any]) -> None:
    """Put new entries, in the form of `schema.Paper`, into papers.yaml: each in its place by date and id.

    Comments, order and every other byte stay; the file changes whole or, on RefusedError, not at all.
    """
    from catalog import editing  # it reads with this module

    editing.save(path, editing.insert(read(path), entries))


def unquoted(document: Document) -> Iterator[Problem]:
    """A problem for every outside id written without quotes, where YAML may have eaten a zero."""
    for index, entry in enumerate(document.entries):
        given = entry.get("ids") if isinstance(entry, dict) else None
        for kind, value in given.items() if isinstance(given, dict) else ():
            if value is None or isinstance(value, DoubleQuotedScalarString | SingleQuotedScalarString):
                continue
            place = ("papers", index, "ids", kind)
            message = f"{kind} id {value} is not quoted, so YAML may have changed it"
            fix = f'look the id up, a zero at its end may be lost, and write it in quotes, as in {kind}: "{value}"'
            yield document.problem("unquoted-id", place, message, fix if kind == "arxiv" else f'{kind}: "{value}"')


def round_trip() -> YAML:
    """The one YAML style of this project; None is written as null."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(type(None), _null)
    return yaml


def _null(representer: Any, _: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def parse(text: str) -> CommentedMap:
    """The mapping in a YAML text; RefusedError with the line when there is none."""
    try:
        data = round_trip().load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = " ".join(str(part) for part in (error.context, error.problem) if part)
        raise RefusedError([_broken(mark.line + 1 if mark else 1, message)]) from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RefusedError([_broken(line, f"a character that YAML does not allow ({error.reason})")]) from error
    except ValueError as error:
        raise RefusedError([_broken(_impossible_date(text), str(error))]) from error
    if not isinstance(data, CommentedMap):
        raise RefusedError([_broken(1, "the root is no mapping of schema, tags, venues and papers")])
    return data


def _impossible_date(text: str) -> int:
    """Line of the first thing that looks like a date and is none; 1 when there is none."""
    for number, line in enumerate(text.splitlines(), 1):
        for found in re.findall(r"\b\d{4}-\d\d-\d\d\b", line):
            try:
                datetime.date.fromisoformat(found)
            except ValueError:
                return number
    return 1


def plain(node: Any) -> Any:
    """The same data in Python's own types, without ruamel's wrappers."""
    if isinstance(node, dict):
        return {plain(key): plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [plain(item) for item in node]
    if isinstance(node, datetime.datetime):
        return node.isoformat()
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _broken(line: int, message: str) -> Problem:
    return Problem(
        "yaml", f"{FILE}:{line}", "", f"broken YAML: {message}", "mend the syntax on or just above this line"
    )


def _validated(document: Document, place: Place, model: type[Model], raw: Any) -> tuple[Model | None, list[Problem]]:
    try:
        return model.model_validate(plain(raw)), []
    except ValidationError as error:
        found = [_misfit(document, place, dict(detail)) for detail in error.errors(include_url=False)]
        return None, [problem for problem in found if problem]


def _misfit(document: Document, start: Place, detail: dict[str, Any]) -> Problem | None:
    """One pydantic error as a problem; None for an unquoted id, which `unquoted` reports."""
    steps, kind, given = detail["loc"], detail["type"], detail["input"]
    field, parent = str(steps[-1] if steps else ""), str(steps[-2] if len(steps) > 1 else "")
    where = ".".join(map(str, steps))
    if parent == "ids" and kind == "string_type":
        return None
    if kind == "literal_error":
        code = f"unknown-{field}" if field in ("stage", "type") else "unknown-value"
        known = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        message, fix = f"unknown {field} '{given}' ({where})", did_you_mean(str(given), known)
    elif kind == "missing" and steps[0] == "claims" and field == "source":
        code, message, fix = (
            "claim-without-source",
            f"{where}: a claim without its source",
            'add source: "Table 1"',
        )
    elif steps[:1] == ("reported",) and (field == "setting" and kind in ("missing", "empty_setting")):
        code, message = "reported-without-setting", f"{where}: a reported number without its setting"
        fix = "add setting: {model: …, task: …, ratio: …}"
    elif kind == "missing":
        code, message, fix = "missing-key", f"key {where} is missing", f"add `{field}:` to the entry"
    elif kind == "extra_forbidden":
        code, message, fix = "unknown-key", f"unknown key {where}", did_you_mean(field, _known_keys())
    elif parent == "ids" and kind == "string_pattern_mismatch":
        code, message, fix = "malformed-id", f"'{given}' is no bare {field} id", _bare(field, given)
    else:
        code, message, fix = (
            "schema",
            f"{where}: {detail['msg']}, found {given!r}",
            "see catalog/papers.schema.json",
        )
    return document.problem(code, (*start, *steps), message, fix)


def _bare(kind: str, given: str) -> str:
    try:
        found = ids.PaperId.parse(given)
    except ValueError:
        found = None
    if found and found.kind == kind:
        return f'write {kind}: "{found.value}"'
    return "write the id alone, without address, prefix or version"


def _known_keys() -> list[str]:
    definitions = schema.Root.model_json_schema()["$defs"].values()
    return sorted({key for definition in definitions for key in definition.get("properties", {})})
