"""What `hft` prints: problems, JSON documents, tables, reference cards."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from catalog.problems import Problem


def complain(problems: Iterable[Problem]) -> None:
    """Print problems on stderr, one a line."""
    for problem in problems:
        typer.echo(f"{'warning: ' if problem.warning else ''}{problem}", err=True)


def emit(value: Any) -> None:
    """Print one JSON document on stdout."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows as a table as wide as the terminal, or 120 columns into a pipe."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 120)
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(columns):
        grid.add_column(name, no_wrap=number == 0)
    for row in rows:
        grid.add_row(*map(Text, row))
    console.print(grid)


def card(facts: dict[str, Any]) -> None:
    """Print one paper, as `query.show` gives it, as a reference card."""
    venue = facts["venue"]
    typer.secho(facts["title"], bold=True)
    typer.echo(", ".join(facts["authors"]) or "authors not known yet")
    typer.echo(f"{venue['name']} {venue['year']} ({venue['status']}), first public {facts['date']}")
    typer.echo(" · ".join([facts["type"], *([facts["stage"]] if "stage" in facts else []), *facts["tags"]]))
    for kind, address in facts["links"].items():
        typer.echo(f"{kind}: {address}")
    if said := facts["arxiv"]:
        withdrawn = ", WITHDRAWN" if said["withdrawn"] else ""
        typer.echo(f"arXiv: version {said['version']} of {said['updated']}, {' '.join(said['categories'])}{withdrawn}")
    typer.echo(f"status: {facts['status']}")
    for testbed, counts in facts["runs"].items():
        typer.echo(f"runs on {testbed}: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    if facts["claims"]:
        claims = [(claim["id"], claim["kind"], claim["says"], claim["source"]) for claim in facts["claims"]]
        table(["claim", "kind", "says", "source"], claims)
    if facts["reported"]:
        columns = ["reported", "method", "value", "source", "setting"]
        table(columns, [_reported(number) for number in facts["reported"]])


def _reported(number: dict[str, Any]) -> tuple[str, ...]:
    value = f"{number['value']:g} {number['unit']}"
    bare = ("model", "task", "note")
    setting = [str(v) if key in bare else f"{key} {v}" for key, v in number["setting"].items()]
    return number["metric"], number["method"], value, number["source"], ", ".join(setting)
