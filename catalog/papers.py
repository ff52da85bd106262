"""Read papers.yaml: parsed with the line of every key, then validated entry by entry."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, SingleQuotedScalarString

from catalog import ids, plainyaml, schema
from catalog.blocks import Blocks
from catalog.problems import Problem, RefusedError, did_you_mean
from catalog.roundtrip import FILE as FILE
from catalog.roundtrip import broken
from catalog.roundtrip import parse as parse
from catalog.roundtrip import plain as plain
from catalog.roundtrip import round_trip as round_trip

QUOTED_IDS = re.compile(r'^ +ids: \{(?:\w+: (?:null|"[^"\\\n]*")(?:, |(?=\})))*\}$', re.MULTILINE)

Place = tuple[str | int, ...]
Model = TypeVar("Model", bound=schema.Strict)


@dataclass(frozen=True)
class Document:
    """papers.yaml as text, not validated; parsed as far as someone asks, every node knowing its line.

    `given` is what ruamel made of the text, for who has it already.
    """

    path: Path
    text: str
    given: CommentedMap | None = field(default=None, repr=False, compare=False)

    @cached_property
    def data(self) -> CommentedMap:
        """The whole as ruamel parses it, with comments; RefusedError names line and fix when it is no YAML mapping."""
        return parse(self.text) if self.given is None else self.given

    @cached_property
    def blocks(self) -> Blocks | None:
        """Where each entry stands in the text; None when it is not written as a list of blocks at the end."""
        return Blocks.of(self.text) if self.given is None else None

    @property
    def entries(self) -> list[Any]:
        """The raw entries, of whatever type they are."""
        papers = self.data.get("papers")
        return papers if isinstance(papers, list) else []

    def __len__(self) -> int:
        """The number of entries."""
        return len(self.entries if self.blocks is None else self.blocks)

    def entry(self, index: int) -> Any:
        """One raw entry, parsed alone where that can be done."""
        data, item, _ = self._part(index)
        return data["papers"][item]

    def plain_entries(self) -> Iterator[Any]:
        """The entries one by one in Python's own types; RefusedError when the text is no YAML."""
        for index, block in enumerate(self.blocks if self.blocks is not None else ()):
            try:
                (entry,) = plainyaml.load(block)
            except ValueError:
                entry = plain(self.entry(index))
            yield entry
        if self.blocks is None:
            yield from map(plain, self.entries)

    @cached_property
    def head(self) -> CommentedMap:
        """The raw mapping above the entries, `papers` an empty key."""
        return self.data if self.blocks is None else parse(self.blocks.head)

    def _part(self, index: int) -> tuple[CommentedMap, int, int]:
        """A mapping that holds the entry, its place under `papers`, and the line of the file it begins after."""
        if self.blocks is not None:
            try:
                return _alone(self.blocks[index]), 0, self.blocks.lines[index] - 2
            except RefusedError:  # broken, which the whole tells with the right line, or an alias
                pass
        return self.data, index, 0

    def line(self, place: Place) -> int:
        """Line (from 1) of a key or list item, or of its nearest parent when it is absent."""
        node, above = self.head, 0
        if len(place) > 1 and place[0] == "papers":
            node, item, above = self._part(int(place[1]))
            place = ("papers", item, *place[2:])
        found = 0
        for step in place:
            if isinstance(node, CommentedMap) and step in node:
                found = node.lc.key(step)[0]
            elif isinstance(node, CommentedSeq) and isinstance(step, int) and step < len(node):
                found = node.lc.item(step)[0]
            else:
                continue
            node = node[step]
        return found + above + 1

    def slug(self, place: Place) -> str:
        """What to call the entry a place lies in: its id, or its number when it has none."""
        if len(place) < 2 or place[0] != "papers":
            return ""
        entry = self.entry(int(place[1]))
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
    """papers.yaml as a document; RefusedError names the line of a byte that is not UTF-8."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise RefusedError([broken(line, "a byte that is not UTF-8")]) from error
    return Document(path, text)


def load(path: Path) -> tuple[schema.Head, list[schema.Paper]]:
    """Head and papers of a file that fits the schema; RefusedError otherwise."""
    catalogue, problems = validate(read(path))
    if problems or catalogue.head is None:
        raise RefusedError(problems)
    return catalogue.head, catalogue.papers


def validate(document: Document) -> tuple[Catalogue, list[Problem]]:
    """Everything that fits the schema, and a problem for every key that does not."""
    rest = {key: value for key, value in document.head.items() if key != "papers"}
    head, problems = _validated(document, (), schema.Head, plain(rest))
    if document.blocks is None and not isinstance(document.data.get("papers"), list):
        problems.append(document.problem("schema", ("papers",), "no list of papers", "add `papers:` with entries"))
    papers, places = [], []
    alike: dict[schema.Strict, schema.Strict] = {}
    for index, entry in enumerate(document.plain_entries()):
        paper, found = _validated(document, ("papers", index), schema.Paper, entry)
        problems += found
        if paper:
            _share(paper, alike)
            papers.append(paper)
            places.append(index)
    return Catalogue(document, head, papers, places), problems + list(unquoted(document))


def _share(paper: schema.Paper, known: dict[schema.Strict, schema.Strict]) -> None:
    """Let papers with equal venue, setting, links or curation hold the same frozen object, which halves the memory."""
    for name in ("venue", "setting", "links", "curation"):
        if part := getattr(paper, name):
            paper.__dict__[name] = known.setdefault(part, part)


def add(path: Path, *entries: Mapping[str, Any]) -> None:
    """Put new entries, in the form of `schema.Paper`, into papers.yaml: each in its place by date and id.

    Comments, order and every other byte stay; the file changes whole or, on RefusedError, not at all.
    """
    from catalog import editing  # it reads with this module

    editing.save(path, editing.insert(read(path), entries))


def unquoted(document: Document) -> Iterator[Problem]:
    """A problem for every outside id written without quotes, where YAML may have eaten a zero."""
    for index in range(len(document)):
        if document.blocks is not None and _ids_are_quoted(document.blocks[index]):
            continue
        entry = document.entry(index)
        given = entry.get("ids") if isinstance(entry, dict) else None
        for kind, value in given.items() if isinstance(given, dict) else ():
            if value is None or isinstance(value, DoubleQuotedScalarString | SingleQuotedScalarString):
                continue
            place = ("papers", index, "ids", kind)
            message = f"{kind} id {value} is not quoted, so YAML may have changed it"
            fix = f'look the id up, a zero at its end may be lost, and write it in quotes, as in {kind}: "{value}"'
            yield document.problem("unquoted-id", place, message, fix if kind == "arxiv" else f'{kind}: "{value}"')


def _ids_are_quoted(block: str) -> bool:
    """Whether the lines of an entry show it at once: one mapping of ids, all of them in double quotes or null."""
    return block.count("ids:") == 1 and QUOTED_IDS.search(block) is not None


@lru_cache(maxsize=64)
def _alone(block: str) -> CommentedMap:
    """One entry parsed by itself, as the only one below `papers`."""
    return parse(f"papers:\n{block}")


def _validated(document: Document, place: Place, model: type[Model], raw: Any) -> tuple[Model | None, list[Problem]]:
    try:
        return model.model_validate(raw), []
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
