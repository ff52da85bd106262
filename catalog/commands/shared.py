"""What commands share: the checkout, the paper a user means, refusals as messages and exit codes."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from catalog.taxonomy import BASELINES
from catalog.terminal import complain

if TYPE_CHECKING:
    from catalog.schema import Paper

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="File to write.")]


def root() -> Path:
    """The directory that holds papers.yaml: here or above, or beside the installed package."""
    here = Path.cwd()
    folders = (here, *here.parents, Path(__file__).resolve().parents[2])
    found = next((folder for folder in folders if (folder / "papers.yaml").is_file()), None)
    if found is None:
        fail(f"papers.yaml: not found in {here} or above; change to a checkout of HFT Atlas", 1)
    return found


def find_paper(text: str, entries: list[Paper]) -> Paper:
    """The entry a user means; ends the program with exit code 2 and the nearest ids when there is none."""
    from catalog import ids

    try:
        return ids.resolve(text, entries)
    except ids.UnknownPaperError as error:
        fail(str(error), 2)


def find_subject(text: str, entries: list[Paper]) -> str:
    """The slug of a baseline or of the entry a user means."""
    return text if text in BASELINES else find_paper(text, entries).id


@contextmanager
def refusals() -> Iterator[None]:
    """Turn refused input, and files that cannot be read or written, into messages on stderr and exit code 1."""
    from catalog.problems import RefusedError

    try:
        yield
    except RefusedError as refused:
        complain(refused.problems)
        raise typer.Exit(1) from None
    except OSError as error:
        fail(f"{error.filename2 or error.filename or 'disk'}: {error.strerror}; check the path and its permissions", 1)


def calendar_day(option: str, text: str) -> datetime.date:
    """The day an option names; ValueError says which option and how to write it."""
    try:
        return datetime.date.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{option} '{text}' is no day; write it as 2024-02-29") from error


def fail(message: str, code: int) -> NoReturn:
    """End the program with a message on stderr."""
    typer.echo(message, err=True)
    raise typer.Exit(code)
