"""What a pull request does to the catalogue, as a comment: each entry that is new, changed or gone."""

import difflib
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from catalog import canonical, ids, lint
from catalog.github.markdown import fenced, joined
from catalog.papers import Document, plain, read
from catalog.problems import Problem, RefusedError

MARK = "<!-- hft entry -->"


def review(base: Path, head: Path) -> str:
    """The comment on going from one papers.yaml to the other."""
    try:
        before, after = _entries(read(base)), read(head)
        now = _entries(after)
        problems = lint.examine(after)[1]
        raw = {after.slug(("papers", n)): plain(entry) for n, entry in enumerate(after.entries)}
    except RefusedError as refused:
        return joined([MARK, "papers.yaml cannot be read:", fenced("\n".join(map(str, refused.problems)))])
    parts = []
    for slug, text in now.items():
        own = [problem for problem in problems if problem.paper == slug]
        if slug not in before:
            parts.append(_part(f"New: {_named(slug)}", fenced(text, "yaml"), raw[slug], own))
        elif before[slug] != text:
            lines = difflib.unified_diff(before[slug].splitlines(), text.splitlines(), n=2, lineterm="")
            diff = "\n".join(list(lines)[2:])
            parts.append(_part(f"Changed: {_named(slug)}", fenced(diff, "diff"), raw[slug], own))
    gone = [_named(slug) for slug in before if slug not in now]
    if gone:
        parts.append(f"### Gone\n\n{', '.join(gone)}: ids are never reused, and excluded papers go to `excluded.yaml`.")
    elsewhere = [problem for problem in problems if not problem.paper]
    if elsewhere:
        parts.append(fenced("\n".join(map(str, elsewhere))))
    return joined([MARK, *(parts or ["No entry of papers.yaml changes."])])


def _entries(document: Document) -> dict[str, str]:
    """The lines of each entry by its id, comments above it included."""
    if not canonical.is_splittable(document):
        raise RefusedError(
            [document.problem("format", ("papers",), "entries do not stand one below the other", "run `hft fmt`")]
        )
    lines = document.text.splitlines()
    pieces = ("\n".join(lines[begin:end]).strip("\n") for begin, end in pairwise(canonical.bounds(document)))
    return {document.slug(("papers", n)): piece for n, piece in enumerate(pieces)}


def _part(title: str, block: str, entry: Any, problems: list[Problem]) -> str:
    found = [block, *_addresses(entry)]
    if problems:
        found.append(fenced("\n".join(map(str, problems))))
    return "\n\n".join([f"### {title}", *found])


def _named(slug: str) -> str:
    return f"`{slug}`" if re.fullmatch(ids.SLUG, slug) else "an entry without a proper id"


def _addresses(entry: Any) -> list[str]:
    """The addresses its ids stand for, of those that are well-formed, to click on."""
    given = entry.get("ids") if isinstance(entry, dict) else None
    given = given if isinstance(given, dict) else {}
    found = []
    for kind, value in given.items():
        try:
            parsed = ids.PaperId.parse(f"{kind}:{value}") if value else None
        except ValueError:
            continue
        if parsed and parsed.url and re.fullmatch(r"[\w./:?=-]+", parsed.url):
            found.append(f"<{parsed.url}>")
    return [" · ".join(found)] if found else []
