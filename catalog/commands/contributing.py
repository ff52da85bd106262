"""Commands for those who add: a paper to the catalogue, a module to the harness."""

from __future__ import annotations

from typing import Annotated

import typer

from catalog.commands.shared import Json, calendar_day, fail, find_paper, refusals, root
from catalog.taxonomy import PaperType, Stage
from catalog.terminal import emit


def add(
    paper: Annotated[str, typer.Argument(metavar="ID_OR_URL", help="arXiv, DOI, OpenReview or ACL id, or address.")],
    kind: Annotated[PaperType | None, typer.Option("--type", help="Type of paper.")] = None,
    stage: Annotated[Stage | None, typer.Option(help="Where a defense acts.")] = None,
    title: Annotated[str | None, typer.Option(help="Its title, when arXiv is not asked.")] = None,
    author: Annotated[list[str] | None, typer.Option(help="An author; once for each, in order.")] = None,
    date: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="Day of the first public version.")] = None,
    venue: Annotated[str | None, typer.Option(help="Where it appeared, as in 'ICLR 2025'.")] = None,
    code: Annotated[str | None, typer.Option(help="Address of the authors' code.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag of the controlled list; may be repeated.")] = None,
    nickname: Annotated[str | None, typer.Option(help="What the paper calls its method.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask nobody; write what is known.")] = False,
    arxiv_url: Annotated[str | None, typer.Option(help="Another arXiv server [default: HFT_ARXIV_URL].")] = None,
    as_json: Json = False,
) -> None:
    """Add a paper to papers.yaml: one entry more, every other byte as it was."""
    import datetime

    from catalog import contribute, papers
    from catalog.candidates import Candidate
    from catalog.sources.arxiv import Server

    try:
        found = contribute.identify(paper)
        day = calendar_day("--date", date) if date else None
        server = None if offline else Server.given(arxiv_url)
    except ValueError as error:
        fail(f"{error}", 2)
    if stage and kind not in (None, "defense"):
        fail(f"--stage {stage} is for defenses, not for --type {kind}", 2)
    given = Candidate(
        title=" ".join((title or "").split()),
        authors=tuple(author or ()),
        date=day,
        ids={found.kind: found.value},
        venue=venue,
        links={"code": code} if code else {},
        origin="hft add",
        type=kind,
        stage=stage,
        tags=tuple(tag or ()),
        nickname=nickname,
    )
    with refusals():
        outcome = contribute.add(root() / papers.FILE, given, server, datetime.date.today())
    if as_json:
        emit(outcome.as_dict())
        return
    for note in outcome.notes:
        typer.echo(f"note: {note}", err=True)
    if outcome.known:
        typer.echo(f"{outcome.where}: there already as {outcome.id} ({outcome.known}); nothing changed")
        return
    typer.echo(f"{outcome.where}: added {outcome.id}\n\n{outcome.text}\n")
    if outcome.unsure:
        typer.echo(f"guessed: {', '.join(outcome.unsure)}; correct them and remove `unsure:`", err=True)
    typer.echo("next: hft readme, hft check", err=True)


def new(
    paper: Annotated[str, typer.Argument(metavar="ID", help="Slug, arXiv id or URL of an entry.")],
) -> None:
    """Scaffold the module of a paper and its test, and name the module in the entry."""
    from catalog import papers, scaffold

    home = root()
    with refusals():
        entry = find_paper(paper, papers.load(home / papers.FILE)[1])
        files = scaffold.write(home, entry)
    for path in files:
        typer.echo(path.relative_to(home))
    typer.echo("next: write the hooks (`hft check` names what is missing), then CONTRIBUTING.md", err=True)
