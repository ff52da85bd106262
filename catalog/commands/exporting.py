"""`hft export`: the catalogue in other formats."""

from __future__ import annotations

import typer

from catalog.commands.shared import Output, refusals, root

app = typer.Typer(no_args_is_help=True, help="Write the catalogue in another format.")


@app.command()
def bibtex(output: Output) -> None:
    """Write all papers as a BibTeX file."""
    from catalog import exporters, papers

    with refusals():
        head, entries = papers.load(root() / papers.FILE)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(exporters.bibliography(entries, head.venues), encoding="utf-8")
    typer.echo(f"{output}: {len(entries)} entries", err=True)
