"""Commands that keep and read the catalogue: check, fmt, build, list, show, search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from catalog.commands.shared import Json, fail, find_paper, refusals, root
from catalog.taxonomy import PaperType, Stage, Status
from catalog.terminal import card, complain, emit, table


def check(
    as_json: Json = False,
    info: Annotated[bool, typer.Option("--info", help="List also what entries lack without fault.")] = False,
) -> None:
    """Check papers.yaml, excluded.yaml, modules, records and everything generated from them.

    With --json and --info the document is {problems, information}, else the list of problems.
    """
    from catalog import lint, missing

    home = root()
    with refusals():
        found = lint.check(home)
    problems = [problem for problem in found if not problem.warning]
    complain([problem for problem in found if problem.warning or not as_json])
    with refusals():
        lacking = missing.information(home) if info else []
    if as_json:
        listed = [problem.as_dict() for problem in problems]
        emit({"problems": listed, "information": [fact.as_dict() for fact in lacking]} if info else listed)
    else:
        for fact in lacking:
            typer.echo(f"info: {fact}")
        if not problems:
            typer.echo("no problems")
    raise typer.Exit(1 if problems else 0)


def fmt(
    as_json: Json = False,
    check_only: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 if something would.")] = False,
) -> None:
    """Write papers.yaml in its canonical form, and the JSON Schemas for editors."""
    from catalog import canonical

    with refusals():
        changed = canonical.write(root(), dry=check_only)
    if as_json:
        emit({"changed": changed})
    else:
        verb = "would change" if check_only else "changed"
        typer.echo("\n".join(f"{verb} {name}" for name in changed) or "already canonical")
    raise typer.Exit(1 if check_only and changed else 0)


def build(
    as_json: Json = False,
    to: Annotated[Path | None, typer.Option("--db", help="File to write [default: build/hft.sqlite].")] = None,
) -> None:
    """Build the SQLite database from papers.yaml and the run records."""
    from catalog import db

    home = root()
    path = to or home / db.FILE_NAME
    with refusals():
        counts = db.build(home, path)
    if as_json:
        emit({"db": str(path), "rows": counts})
    else:
        typer.echo(f"{path}: {counts['paper']} papers, {counts['claim']} claims, {counts['run']} runs")


def list_papers(
    kind: Annotated[PaperType | None, typer.Option("--type", help="Type of paper.")] = None,
    stage: Annotated[Stage | None, typer.Option(help="Where a defense acts.")] = None,
    year: Annotated[int | None, typer.Option(help="Year of the first public version.")] = None,
    tag: Annotated[str | None, typer.Option(help="A tag of the controlled list.")] = None,
    status: Annotated[Status | None, typer.Option(help="How far it is reproduced.")] = None,
    as_json: Json = False,
) -> None:
    """List papers that pass all filters, by date."""
    from catalog import db, query
    from catalog.problems import did_you_mean

    with refusals():
        engine = db.current(root())
        if tag is not None and tag not in (known := query.tags(engine)):
            fail(f"papers.yaml: no tag '{tag}'; {did_you_mean(tag, known)}", 2)
        rows = query.papers(engine, kind=kind, stage=stage, year=year, tag=tag, status=status)
    if as_json:
        emit(rows)
        return
    shown = [
        (r["id"], r["date"], r["type"], r["stage"] or "", f"{r['venue']} {r['venue_year']}", r["status"]) for r in rows
    ]
    table(["id", "date", "type", "stage", "venue", "status"], shown)
    typer.echo(f"{len(rows)} papers")


def show(
    paper: Annotated[str, typer.Argument(metavar="ID", help="Slug, arXiv id, DOI or URL.")],
    as_json: Json = False,
) -> None:
    """Show one paper: its facts, claims, reported numbers and reproduction."""
    from catalog import db, papers, query

    with refusals():
        home = root()
        entry = find_paper(paper, papers.load(home / papers.FILE)[1])
        facts = query.show(db.current(home), entry)
    if as_json:
        emit(facts)
    else:
        card(facts)


def search(
    words: Annotated[list[str], typer.Argument(metavar="TEXT", help="Words that must all occur.")],
    limit: Annotated[int, typer.Option(min=1, help="At most so many papers.")] = 20,
    as_json: Json = False,
) -> None:
    """Search titles, authors, tags, claims and ids."""
    from catalog import db, query

    with refusals():
        hits = query.search(db.current(root()), " ".join(words), limit)
    if as_json:
        emit(hits)
    else:
        table(["id", "title", "where"], [(hit["id"], hit["title"], hit["snippet"]) for hit in hits])
