"""What `hft check` says about everything beside the entries: format, schema, modules, records, README."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from catalog import excluded, expressions, pending, schema
from catalog.canonical import canonical
from catalog.papers import FILE, Catalogue
from catalog.problems import Problem, RefusedError, did_you_mean
from catalog.taxonomy import BASELINES
from reproduce import find, record

Record = dict[str, Any]
RESULTS = Path("reproduce", "results")


def check(root: Path, catalogue: Catalogue) -> list[Problem]:
    """Problems of the file's format, the JSON Schema, the modules, the records and the README."""
    problems = [*format_is_canonical(catalogue), *schema_is_current(), *excluded.check(root, catalogue)]
    problems += [*expressions.check(), *pending.check(root, catalogue)]
    try:
        modules, records = reproduction(root)
    except RefusedError as refused:
        return [*problems, *refused.problems]
    return [
        *problems,
        *readme_is_current(root),
        *modules_have_entries(catalogue, modules),
        *hooks_are_written(modules.values()),
        *records_have_entries(catalogue, records),
        *versions_follow_modules(catalogue, modules, records),
    ]


def reproduction(root: Path) -> tuple[dict[str, find.Module], list[Record]]:
    """All modules and records; RefusedError names a file that cannot be read as one, or was edited."""
    if edited := list(records_are_intact(root)):
        raise RefusedError(edited)
    try:
        return find.modules(), list(record.read(root / RESULTS))
    except ValueError as error:
        where, _, message = str(error).partition(": ")
        reason, _, fix = message.partition("; ")
        raise RefusedError([Problem("unreadable", where, "", reason, fix or "rename or remove it")]) from error


def format_is_canonical(catalogue: Catalogue) -> Iterator[Problem]:
    """papers.yaml reads as `hft fmt` writes it; silent when an unquoted id, told elsewhere, forbids that."""
    try:
        text = canonical(catalogue.document)
    except RefusedError as refused:
        yield from (problem for problem in refused.problems if problem.code == "format")
        return
    if text != catalogue.document.text:
        lines = zip(text.splitlines(), catalogue.document.text.splitlines(), strict=False)
        number = next((n for n, (new, old) in enumerate(lines, 1) if new != old), 1)
        yield Problem("format", f"{FILE}:{number}", "", "not in canonical form from this line on", "run `hft fmt`")


def schema_is_current() -> Iterator[Problem]:
    """The JSON Schemas beside the package are those of the models."""
    for file, source, text in (
        (schema.SCHEMA_FILE, "schema.py", schema.json_schema()),
        (excluded.SCHEMA_FILE, "excluded.py", excluded.json_schema()),
    ):
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            message = f"differs from catalog/{source}"
            yield Problem("schema-drift", f"catalog/{file.name}:1", "", message, "run `hft fmt`")


def modules_have_entries(catalogue: Catalogue, modules: dict[str, find.Module]) -> Iterator[Problem]:
    """Every module is named by the entry with its arXiv id, and every named module exists."""
    named = set()
    for index, paper in catalogue.numbered():
        if not paper.reproduction:
            continue
        place, name = ("papers", index, "reproduction", "module"), paper.reproduction.module
        named.add(name)
        if name not in modules:
            message = f"module {name} does not exist"
            fix = f"write reproduce/papers/{name}.py, or correct the name or remove `reproduction:`"
            yield catalogue.document.problem("entry-without-module", place, message, fix)
        elif modules[name].arxiv != paper.ids.arxiv:
            message = f"module {name} is of arXiv {modules[name].arxiv}, the entry of {paper.ids.arxiv}"
            yield catalogue.document.problem("module-mismatch", place, message, "name the module after the entry's id")
    document, fitting = catalogue.document, set(catalogue.places)
    for index in range(len(document)):  # also those that do not fit the schema, whose errors are told elsewhere
        if index in fitting:
            continue
        entry = document.entry(index)
        reproduction_ = entry.get("reproduction") if isinstance(entry, dict) else None
        named.add(str(reproduction_.get("module")) if isinstance(reproduction_, dict) else "")
    for name in sorted(modules.keys() - named):
        message = f"no entry names the module {name}"
        fix = f"add `reproduction: {{module: {name}}}` to the entry of arXiv {modules[name].arxiv} in {FILE}"
        yield Problem("module-without-entry", f"reproduce/papers/{name}.py:1", "", message, fix)


def hooks_are_written(modules: Iterable[find.Module]) -> Iterator[Problem]:
    """No module has a hook as `hft new` left it: one that raises NotImplementedError."""
    for module in modules:
        for node in ast.walk(ast.parse(module.path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and "NotImplementedError" in ast.dump(node):
                where = f"reproduce/papers/{module.name}.py:{node.lineno}"
                yield Problem("hook-unwritten", where, "", "this hook is not written yet", "write it, or remove it")


def records_have_entries(catalogue: Catalogue, records: Iterable[Record]) -> Iterator[Problem]:
    """Records speak only of papers in the catalogue, of the baselines, and of combinations of papers ("a+b")."""
    known = {paper.id for paper in catalogue.papers} | BASELINES.keys()
    unknown = {part: entry for entry in records for part in entry["spec"]["paper"].split("+") if part not in known}
    for slug, entry in sorted(unknown.items()):
        where = f"{RESULTS}/{entry['spec']['testbed']}/{entry['spec']['paper']}"
        yield Problem(
            "record-without-entry",
            where,
            slug,
            f"records of an unknown paper '{slug}'",
            did_you_mean(slug, known),
        )


def versions_follow_modules(
    catalogue: Catalogue, modules: dict[str, find.Module], records: Iterable[Record]
) -> Iterator[Problem]:
    """A module that changed since its records were made has a higher version than they have."""
    sources: dict[tuple[str, int], set[str]] = {}
    for entry in records:
        spec = entry["spec"]
        sources.setdefault((spec["paper"], spec["version"]), set()).add(entry["digests"].get("source", ""))
    for paper in catalogue.papers:
        module = modules.get(paper.reproduction.module) if paper.reproduction else None
        if not module:
            continue
        version = module_version(module.path)
        if sources.get((paper.id, version), set()) - {module.digest, ""}:
            message = f"{module.name} changed, but version {version} has records of another source"
            fix = f"set `version = {version + 1}` in the module, or undo the change"
            yield Problem("version-not-bumped", f"reproduce/papers/{module.name}.py:1", paper.id, message, fix)


def module_version(path: Path) -> int:
    """The `version` a module's class declares, read without importing it; 1 when it declares none."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
                value = getattr(line, "value", None)
                if any(isinstance(t, ast.Name) and t.id == "version" for t in targets) and isinstance(
                    value, ast.Constant
                ):
                    return int(str(value.value))
    return 1


def records_are_intact(root: Path) -> Iterator[Problem]:
    """Keys and digests of all records derive from their contents."""
    for fault in record.verify(root / RESULTS):
        where = Path(fault["path"]).relative_to(root)
        yield Problem("record-broken", str(where), where.parent.name, fault["message"], fault["fix"])


def readme_is_current(root: Path) -> Iterator[Problem]:
    """The generated regions of the README are what `hft readme` would write."""
    from catalog import readme

    if not (root / "README.md").is_file():
        yield Problem("readme-drift", "README.md:1", "", "there is no README.md", "restore it with git")
        return
    try:
        stale = readme.drift(root)
    except RefusedError as refused:  # there is nothing to compare with as long as a source cannot be read
        yield from refused.problems
        return
    for sentence in stale:
        where, _, rest = sentence.partition(": ")
        message, _, fix = rest.partition("; ")
        yield Problem("readme-drift", f"{where}:1", "", message, fix)
