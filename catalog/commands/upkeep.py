"""Commands that keep the catalogue current: sync."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from catalog.commands.shared import Json, fail, find_paper, refusals, root
from catalog.terminal import emit

if TYPE_CHECKING:
    from catalog.sync import Report


def sync(
    papers: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Papers [default: all].")] = None,
    ids: Annotated[str | None, typer.Option(metavar="ID,...", help="The same, with commas.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Make the proposed edits of papers.yaml.")] = False,
    titles: Annotated[bool, typer.Option("--titles", help="With --apply: also replace titles of our own.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report, and write nothing.")] = False,
    allow_many: Annotated[
        bool, typer.Option("--allow-many", help="Accept changes to more than 10 % of the entries.")
    ] = False,
    sources: Annotated[
        str, typer.Option(help="Sources beside arXiv, with commas; empty for none.")
    ] = "semanticscholar,openreview,crossref",
    arxiv_url: Annotated[str | None, typer.Option(help="Another arXiv server [default: HFT_ARXIV_URL].")] = None,
    crossref_url: Annotated[str | None, typer.Option(help="[default: HFT_CROSSREF_URL]")] = None,
    openreview_url: Annotated[str | None, typer.Option(help="[default: HFT_OPENREVIEW_URL]")] = None,
    semanticscholar_url: Annotated[str | None, typer.Option(help="[default: HFT_SEMANTICSCHOLAR_URL]")] = None,
    delay: Annotated[
        float | None,
        typer.Option(envvar="HFT_ARXIV_DELAY", help="Seconds between requests [default: 3]; less only elsewhere."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Refresh what arXiv and others say of the papers; propose edits of papers.yaml."""
    from catalog import enrich
    from catalog import papers as catalogue
    from catalog import sync as syncing
    from catalog.problems import did_you_mean
    from catalog.sources.arxiv import Server

    try:
        server = Server.given(arxiv_url, delay)
    except ValueError as error:
        fail(str(error), 2)
    chosen = tuple(name.strip() for name in sources.split(",") if name.strip())
    for name in chosen:
        if name not in enrich.SOURCES:
            fail(f"no source '{name}'; {did_you_mean(name, enrich.SOURCES)}", 2)
    places = enrich.Places(crossref_url, openreview_url, semanticscholar_url, server.delay)
    with refusals():
        home = root()
        names = [*(papers or []), *(name.strip() for name in (ids or "").split(",") if name.strip())]
        entries = catalogue.load(home / catalogue.FILE)[1] if names else []
        only = frozenset(find_paper(name, entries).id for name in names) if names else None
        options = syncing.Options(server, places, chosen, only, apply, titles, dry_run, allow_many)
        report = syncing.run(home, options, lambda line: typer.echo(line, err=True))
    if as_json:
        emit(report.as_dict())
    else:
        _print(report)
    if report.stopped:
        typer.echo(f"stopped: {report.stopped}", err=True)
    raise typer.Exit(1 if report.stopped or report.failed else 0)


def _print(report: Report) -> None:
    for change in report.changes:
        typer.echo(str(change))
    for proposal in report.proposals:
        typer.echo(f"{'made' if proposal in report.applied else 'proposed'}: {proposal}")
    for name, reason in report.failed.items():
        typer.echo(f"{name}: {reason}", err=True)
    for name, state in report.sources.items():
        if state != "ok":
            typer.echo(f"warning: {name}: {state}", err=True)
    typer.echo(
        f"{report.found} of {report.asked} papers found ({report.first_seen} for the first time), "
        f"{len(report.changes)} changes, {len(report.proposals)} proposals, {len(report.applied)} made; "
        f"written: {', '.join(report.written) or 'nothing'}"
    )
