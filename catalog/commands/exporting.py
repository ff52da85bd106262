"""`hft export`: the catalogue and the records in other formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catalog.commands.shared import refusals, root

if TYPE_CHECKING:
    from catalog.schema import Head, Paper

Target = Annotated[Path, typer.Option("-o", "--output", help="File to write; - is standard output.")]

app = typer.Typer(no_args_is_help=True, help="Write the catalogue or the records in another format.")


@app.command()
def bibtex(output: Target) -> None:
    """Write all papers as a BibTeX file for bibtex or biber, with keys such as huang2024vaccine."""
    from catalog.exports import bibtex as bibliographies

    with refusals():
        head, entries = _catalogue()
        text = bibliographies.bibliography(entries, head.venues, classes=bibliographies.classes(root()))
        _write(output, text, f"{len(entries)} papers")


@app.command("csv")
def table(output: Target) -> None:
    """Write all papers as CSV, one row a paper; `hft export dictionary` explains the columns."""
    from catalog.exports import rows

    with refusals():
        _, entries = _catalogue()
        _write(output, rows.to_csv(entries), f"{len(entries)} papers")


@app.command("json")
def document(output: Target) -> None:
    """Write the whole of papers.yaml as one JSON document."""
    from catalog.exports import rows

    with refusals():
        head, entries = _catalogue()
        _write(output, rows.to_json(head, entries), f"{len(entries)} papers")


@app.command()
def ris(output: Target) -> None:
    """Write all papers as an RIS file for reference managers."""
    from catalog.exports import ris as references

    with refusals():
        head, entries = _catalogue()
        _write(output, references.references(entries, head.venues), f"{len(entries)} papers")


@app.command()
def records(output: Target) -> None:
    """Write all run records as JSON Lines, one flat row a record."""
    from catalog import integrity
    from catalog.exports import records as lines

    with refusals():
        found = integrity.reproduction(root())[1]
        _write(output, lines.to_lines(found), f"{len(found)} records")


@app.command()
def dictionary(output: Target) -> None:
    """Write what every column of the CSV and of the records means, as JSON."""
    from catalog.exports import dictionary as meanings

    lines = meanings.as_dicts()
    with refusals():
        _write(output, json.dumps(lines, indent=1, ensure_ascii=False) + "\n", f"{len(lines)} columns")


def _catalogue() -> tuple[Head, list[Paper]]:
    from catalog import papers

    return papers.load(root() / papers.FILE)


def _write(output: Path, text: str, told: str) -> None:
    from catalog import atomic

    if output == Path("-"):
        typer.echo(text.encode(), nl=False)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(output, text.encode())
    typer.echo(f"{output}: {told}", err=True)
