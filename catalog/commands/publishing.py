"""Commands that generate what readers see: readme, site."""

from __future__ import annotations

from typing import Annotated

import typer

from catalog.commands.shared import fail, refusals, root


def readme(
    check_only: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 on drift.")] = False,
) -> None:
    """Regenerate the measured parts of README.md."""
    from catalog import readme as generated

    with refusals():
        if not check_only:
            generated.write(root())
        drift = generated.drift(root())
    typer.echo("\n".join(drift) or "README.md is current")
    raise typer.Exit(1 if drift else 0)


def site(
    serve: Annotated[bool, typer.Option("--serve", help="Serve it on http://127.0.0.1:8000 afterwards.")] = False,
) -> None:
    """Build the site from the catalogue and the records."""
    from catalog import pages

    try:
        with refusals():
            built = pages.build(root())
    except RuntimeError as error:
        fail(f"site/mkdocs.yml: the build failed:\n{error}", 1)
    typer.echo(f"site: {built / 'index.html'}; to read it: hft site --serve")
    if serve:
        pages.serve(built)
