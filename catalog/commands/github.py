"""`hft github`: what the workflows run; every text from outside comes in as a file, every answer leaves as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from catalog.commands.shared import Output, fail, refusals, root

app = typer.Typer(no_args_is_help=True, help="Steps of the workflows, for running them by hand too.")

Event = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The event, as in $GITHUB_EVENT_PATH.")]
Folder = Annotated[Path, typer.Option("-o", "--output", help="Folder for pull.json and comment.json.")]
Yaml = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A papers.yaml.")]


@app.command()
def form(
    event: Event,
    output: Folder,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask arXiv.")] = False,
    arxiv_url: Annotated[str | None, typer.Option(help="Another arXiv server [default: HFT_ARXIV_URL].")] = None,
) -> None:
    """Turn a new-paper issue into an entry, and write the pull request and the answer."""
    import datetime

    from catalog.github import proposal
    from catalog.sources.arxiv import Server

    try:
        server = None if offline else Server.given(arxiv_url)
    except ValueError as error:
        fail(str(error), 2)
    with refusals():
        proposed = proposal.propose(root(), event, output, server, datetime.date.today())
    typer.echo("proposed" if proposed else "nothing to propose", err=True)


@app.command()
def entry(base: Yaml, head: Yaml, output: Output) -> None:
    """Write a comment on what changes in the catalogue from BASE to HEAD; both are read as data."""
    from catalog import atomic
    from catalog.github import markdown, review

    output.parent.mkdir(parents=True, exist_ok=True)
    with refusals():
        text = review.review(base, head)
        atomic.write(output, text.encode() if output.suffix == ".md" else markdown.payload(body=text))


@app.command()
def tests(
    files: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Changed files, one a line.")],
) -> None:
    """Print the test files that a change calls for, one a line."""
    from catalog.github import changed

    for name in changed.tests(files.read_text(encoding="utf-8").splitlines()):
        typer.echo(name)


@app.command()
def report(
    title: Annotated[str, typer.Argument(help="Title of the pull request.")],
    logs: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="What commands printed.")],
    branch: Annotated[str, typer.Option(help="Branch it comes from.")],
    output: Folder,
) -> None:
    """Write a pull request that shows what commands printed."""
    from catalog.github import markdown, proposal

    shown = [f"`{log.name}`\n\n{markdown.fenced(log.read_text(encoding='utf-8', errors='replace'))}" for log in logs]
    output.mkdir(parents=True, exist_ok=True)
    with refusals():
        proposal.write_pull(output, title, branch, markdown.joined(shown))


@app.command()
def release(tag: Annotated[str, typer.Argument(help="The tag, as in v0.1.0.")], output: Output) -> None:
    """Check that all files agree with a tag, and write its release notes."""
    from catalog import atomic
    from catalog.github import release as published

    with refusals():
        atomic.write(output, published.notes(root(), tag).encode())
