"""The one way to write papers.yaml: fixed order and style, comments kept, facts never touched."""

import datetime
import io
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from catalog import excluded, schema
from catalog.papers import FILE, Document, parse, plain, read, round_trip, unquoted
from catalog.problems import Problem, RefusedError

SCHEMA_LINE = "# yaml-language-server: $schema=catalog/papers.schema.json"
FLOW = re.compile(
    r"(authors|ids|venue|tags|setting|links|unsure|curation|reported\.item"
    r"|claims\.item\.(setting|reported|test)|reproduction\.differs\.item)"
)
"""Places of an entry that stand on one line, as dotted keys."""
QUOTED = re.compile(r"title|ids\.\w+|claims\.item\.(says|source)|reported\.item\.source")
"""Texts of an entry that a tool writes in double quotes, as people do."""


def canonical(document: Document) -> str:
    """The canonical text of a document: entries by date, one blank line between them.

    RefusedError when an id is unquoted (its last zero may be lost already), or when a fact or a comment would
    not survive.
    """
    if problems := list(unquoted(document)):
        raise RefusedError(problems)
    if is_empty(document):
        return _empty(document)
    if not is_splittable(document):
        message, fix = "no list of blocks at the end", "write `papers:` last, each entry as `  - id: …`"
        raise RefusedError([document.problem("format", ("papers",), message, fix)])
    head, entries, footer = _split(document)
    if head[0] != SCHEMA_LINE:
        head.insert(0, SCHEMA_LINE)
    try:
        blocks = [entry_text(lines) for lines in entries]
    except RefusedError as alias:
        parse(document.text)  # which says where, when the file is broken
        message, fix = "an entry cannot be read alone", "write out what stands behind anchors and aliases"
        raise RefusedError([document.problem("format", ("papers",), message, fix)]) from alias
    blocks.sort(key=lambda each: each[0])
    text = "\n\n".join([_head(head) + blocks[0][1], *(text for _, text in blocks[1:]), *footer]) + "\n"
    if text != document.text:
        _assert_kept(document, text)
    return text


def is_empty(document: Document) -> bool:
    """Whether the last line but comments is `papers: []`."""
    return re.search(r"(?m)^papers:[ \t]*\[\][ \t]*\n?(?:[ \t]*(?:#.*)?(?:\n|\Z))*\Z", document.text) is not None


def _empty(document: Document) -> str:
    """The canonical text of a catalogue without entries."""
    lines = document.text.splitlines()
    row = next(number for number, line in enumerate(lines) if line.startswith("papers:"))
    head = lines[:row] if lines[0] == SCHEMA_LINE else [SCHEMA_LINE, *lines[:row]]
    footer = [f"{line.strip()}\n" for line in lines[row + 1 :] if line.strip()]
    return "".join([_head([*head, "papers:"]).removesuffix("\n"), " []\n", *footer])


def is_splittable(document: Document) -> bool:
    """Whether `papers` is the last key and every entry begins on the line of its dash."""
    if _plainly_split(document):
        return True
    papers, lines = document.data.get("papers"), document.text.splitlines()
    if not isinstance(papers, CommentedSeq) or not papers or list(document.data)[-1] != "papers":
        return False
    if lines[document.data.lc.key("papers")[0]].rstrip() != "papers:" or papers.fa.flow_style():
        return False
    starts = [papers.lc.item(index)[0] for index in range(len(papers))]
    begun = all(lines[start].lstrip().startswith("- ") for start in starts)
    return begun and all(isinstance(entry, CommentedMap) for entry in papers)


def _plainly_split(document: Document) -> bool:
    """Whether the entries are seen to be mappings without parsing the file as a whole, which takes seconds."""
    blocks, lines = document.blocks, document.text.splitlines()
    if blocks is None or len(lines) != len(document.text.rstrip("\n").split("\n")):
        return False
    return all(re.match(r" *- +(?:\{|[a-z_]+:(?:\s|$))", entry) for entry in blocks)


def depth(document: Document) -> int:
    """The number of spaces before the dashes of a splittable document."""
    if document.blocks is not None and _plainly_split(document):
        return document.blocks.indent
    return int(document.data["papers"].lc.item(0)[1]) - 2


def bounds(document: Document) -> list[int]:
    """Where each entry's lines begin (blank lines and comments above it included), and where the last one ends."""
    lines, dash = document.text.splitlines(), depth(document)
    if document.blocks is not None and _plainly_split(document):
        first = document.blocks.head.count("\n")
        starts = [line - 1 for line in document.blocks.lines]
    else:
        papers = document.data["papers"]
        first = document.data.lc.key("papers")[0] + 1
        starts = [papers.lc.item(index)[0] for index in range(len(papers))]
    ends = zip(starts, [*starts[1:], len(lines)], strict=True)
    return [first, *(_after(lines, start, stop, dash) for start, stop in ends)]


def _split(document: Document) -> tuple[list[str], list[list[str]], list[str]]:
    """Lines up to `papers:`, lines of each entry with the comments above it, comments at the end."""
    lines, places = document.text.splitlines(), bounds(document)
    pieces = [[line for line in lines[begin:end] if line.strip()] for begin, end in pairwise(places)]
    footer = [line.strip() for line in lines[places[-1] :] if line.strip()]
    return lines[: places[0]], pieces, ["\n".join(footer)] if footer else []


def _after(lines: list[str], start: int, stop: int, dash: int) -> int:
    """The line after an entry: comments at the depth of the dash belong to what follows."""
    end = stop
    while end - 1 > start:
        line = lines[end - 1]
        if line.strip() and not (line.lstrip().startswith("#") and len(line) - len(line.lstrip()) <= dash):
            break
        end -= 1
    return end


def block(entry: Mapping[str, Any]) -> str:
    """The canonical text of a new entry, given in Python's own types; RefusedError is left to who reads it back."""
    data = CommentedMap(papers=CommentedSeq([_quoted(entry, ())]))
    _arrange(data["papers"][0], schema.Paper)
    _style(data["papers"][0], ())
    return "\n".join(_dump(data).splitlines()[1:])


def sort_key(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Entries stand by date, then by id."""
    return str(entry.get("date")), str(entry.get("id"))


def entry_text(lines: list[str], change: Callable[[CommentedMap], None] | None = None) -> tuple[tuple[str, str], str]:
    """Sort key and canonical text of one entry given its lines, comments above it included, after a change."""
    above = 0
    while lines[above].lstrip().startswith("#"):
        above += 1
    comments = [f"  {line.strip()}" for line in lines[:above]]
    data = parse("\n".join(["papers:", *lines[above:]]))
    entry = data["papers"][0]
    if change:
        change(entry)
    _arrange(entry, schema.Paper)
    _style(entry, ())
    body = _dump(data).splitlines()[1:]
    return sort_key(entry), "\n".join([*comments, *(line for line in body if line.strip())])


def _quoted(value: Any, place: tuple[str, ...]) -> Any:
    """The same data as ruamel writes it, with the places of QUOTED in double quotes."""
    if isinstance(value, Mapping):
        return CommentedMap((key, _quoted(item, (*place, key))) for key, item in value.items())
    if isinstance(value, list | tuple):
        return CommentedSeq(_quoted(item, (*place, "item")) for item in value)
    if isinstance(value, str) and QUOTED.fullmatch(".".join(place)):
        return DoubleQuotedScalarString(value)
    return value.replace() if isinstance(value, datetime.date) else value  # a date of its own gets no YAML anchor


def _arrange(node: Any, model: type[schema.Strict]) -> None:
    """Put the keys of a mapping, and of the mappings in it, in the order of the schema."""
    if not isinstance(node, CommentedMap):
        return
    for name, field in model.model_fields.items():
        if name not in node:
            continue
        node.move_to_end(name)
        for inner in _models(field.annotation, node[name]):
            for item in node[name] if isinstance(node[name], list) else [node[name]]:
                _arrange(item, inner)


def _models(annotation: Any, value: Any) -> Iterable[type[schema.Strict]]:
    """The models a type annotation mentions; of the kinds of test only the one that fits."""
    tests = schema.KINDS_OF_TEST.values()
    is_model = isinstance(annotation, type) and issubclass(annotation, schema.Strict)
    if is_model and (annotation not in tests or _fits(annotation, value)):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models(argument, value)


def _fits(model: type[schema.Strict], value: Any) -> bool:
    return isinstance(value, dict) and schema.KINDS_OF_TEST[schema.kind_of_test(value)] is model


def _style(node: Any, place: tuple[str, ...]) -> None:
    """Write the places of FLOW on one line, all others in block style; nodes with comments keep theirs."""
    if not isinstance(node, CommentedMap | CommentedSeq):
        return
    if FLOW.fullmatch(".".join(place)):
        if not _has_comment(node):
            node.fa.set_flow_style()
        return
    node.fa.set_block_style()
    for key, value in node.items() if isinstance(node, CommentedMap) else enumerate(node):
        _style(value, (*place, key if isinstance(key, str) else "item"))


def _has_comment(node: Any) -> bool:
    if not isinstance(node, CommentedMap | CommentedSeq):
        return False
    children = node.values() if isinstance(node, CommentedMap) else node
    return bool(node.ca.comment or node.ca.items) or any(_has_comment(child) for child in children)


def _head(lines: list[str]) -> str:
    """The canonical head; blank lines in it stay where they are."""
    text = "\n".join(lines)
    return _dump(parse(text.removesuffix("papers:").rstrip())) + "papers:\n"


def _dump(data: CommentedMap) -> str:
    out = io.StringIO()
    round_trip().dump(data, out)
    return out.getvalue()


def _assert_kept(document: Document, text: str) -> None:
    """RefusedError unless the new text holds the same facts and as many comments as the old one."""
    old, new = plain(document.data), plain(parse(text))
    for data in (old, new):
        data["papers"].sort(key=sort_key)
    marks = [
        len(re.findall(r"(?m)(?:^|\s)#", each))
        for each in (document.text.removeprefix(SCHEMA_LINE), text.removeprefix(SCHEMA_LINE))
    ]
    if old != new or marks[0] != marks[1]:
        lost = "a fact" if old != new else "a comment"
        fix = "move comments to a line of their own above an entry, and use one-line values"
        raise RefusedError([Problem("format", f"{FILE}:1", "", f"formatting would change {lost}", fix)])


def write(root: Path, *, dry: bool = False) -> list[str]:
    """Bring papers.yaml and the JSON Schemas into canonical form; return the names of files that change(d)."""
    path = root / FILE
    document = read(path)
    wanted = {
        path: canonical(document),
        schema.SCHEMA_FILE: schema.json_schema(),
        excluded.SCHEMA_FILE: excluded.json_schema(),
    }
    changed = {
        file: text for file, text in wanted.items() if not file.is_file() or file.read_text(encoding="utf-8") != text
    }
    for file, text in () if dry else changed.items():
        file.write_text(text, encoding="utf-8")
    return [file.name for file in changed]
