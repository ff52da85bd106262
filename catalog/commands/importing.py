"""`hft import`: papers of a BibTeX, CSV, JSON, RIS or Markdown file into the catalogue."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

import typer

from catalog.commands.shared import Json, fail, refusals, root
from catalog.taxonomy import FileFormat, PaperType, Stage
from catalog.terminal import complain, emit, table


def import_papers(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to read.")],
    form: Annotated[FileFormat | None, typer.Option("--format", help="Format [default: by the file's name].")] = None,
    kind: Annotated[PaperType | None, typer.Option("--type", help="Type where the file says none.")] = None,
    stage: Annotated[Stage | None, typer.Option(help="Stage of defenses where the file says none.")] = None,
    source: Annotated[str | None, typer.Option(help="Source for curation [default: the file's name].")] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Change nothing; only say what would happen.")] = False,
    as_json: Json = False,
) -> None:
    """Add the papers of a BibTeX, CSV, RIS, Markdown or exported JSON file; known ones only gain what they lack."""
    from catalog import importing
    from catalog.importers import files, interpreting
    from catalog.papers import FILE

    if stage and kind not in (None, "defense"):
        fail("--stage goes with defenses; leave it out or give --type defense", 2)
    today = datetime.date.today()
    with refusals():
        home = root()
        reading = files.read(file, form, today)
        interpreting.with_defaults(reading, kind or ("defense" if stage else None), stage)
        report = importing.run(home / FILE, reading, source or file.name, today, dry=dry)
    if as_json:
        emit(report.as_dict())
    else:
        complain(report.problems)
        rows = [("would add" if dry else "added", each["id"], ", ".join(each["origins"])) for each in report.added]
        verb = "would complete" if dry else "completed"
        rows += [(verb, each["id"], ", ".join(each["filled"])) for each in report.merged]
        if rows:
            table(["", "entry", "from / with"], rows)
        errors = sum(not problem.warning for problem in report.problems)
        counts = f"{len(report.added)} new, {len(report.merged)} completed, {len(report.duplicates)} known already"
        typer.echo(f"{counts}, {errors} problems, {len(report.problems) - errors} warnings")
    raise typer.Exit(1 if any(not problem.warning for problem in report.problems) else 0)
