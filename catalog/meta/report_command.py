"""`hft meta report`: the living analysis over all records, and what changed since the last one."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalog.commands.shared import Json, fail, refusals, root
from catalog.meta.options import Results
from catalog.terminal import emit, table

if TYPE_CHECKING:
    from catalog.meta.report import Report

SHOWN = {"hs_rd": "harmful score", "fa_rd": "accuracy"}
LATEST = 3  # entries of the change log that are shown


def report_command(
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write report.json and its figures there.", file_okay=False)
    ] = None,
    since: Annotated[
        Path | None,
        typer.Option(help="Last report [default: DIR/report.json, else reproduce/report/report.json].", dir_okay=False),
    ] = None,
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Analyse every record anew: defenses, stages, networks, moderators, verdicts; and what changed since last time.

    Equal records, declared margins and last report give equal bytes.

    JSON: schema; records {count digest keys[]}; looks; changes[] {look digest records_added records_removed changed[]};
    margins; method; testbeds[] {testbed protocol conditions defenses[] stages {hs_rd fa_rd} networks[] moderators
    {hs_rd fa_rd}}; ledger, as from hft meta verdict; conclusions {name {says records[]}}. Effects are proportions,
    defense minus SFT.
    """
    with refusals():
        made = _report(_before(since, to), results)
        if to is not None:
            _write(made, to)
    if as_json:
        emit(made.document)
    else:
        _show(made.document)


def _before(since: Path | None, to: Path | None) -> Any:
    """The last report; None when there is none yet. A file that is no report ends the program."""
    from catalog.atlas import REPORT

    if since is not None and not since.is_file():
        fail(f"--since {since}: no such file", 2)
    places = [since] if since else [*([to / "report.json"] if to else []), root() / REPORT]
    place = next((place for place in places if place.is_file()), None)
    if place is None:
        return None
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
        found["conclusions"], found["records"]["keys"], found["looks"], found["changes"]
    except (ValueError, KeyError, TypeError):
        fail(f"{place}: not a report of hft meta report; restore it with git or give another with --since", 1)
    return found


def _report(before: Any, results: Path | None) -> Report:
    from catalog import measured, papers, running, studies
    from catalog.meta import margins, report
    from reproduce import record

    entries = {entry.id: entry for entry in papers.load(root() / papers.FILE)[1]}
    records = [one for one in running.read(results or record.RESULTS) if one["spec"].get("split", "test") == "test"]
    return report.report(measured.cells(records), studies.findings(records), entries, margins.load(), before)


def _write(made: Report, to: Path) -> None:
    from catalog.charts import sheet
    from catalog.meta.living_figures import figures

    to.mkdir(parents=True, exist_ok=True)
    for drawn in figures(made):
        _replace(to / f"{drawn.stem}.svg", sheet(drawn.chart()))
    # the document last: it stands for a report that is whole
    _replace(to / "report.json", json.dumps(made.document, indent=1, ensure_ascii=False) + "\n")
    typer.echo(f"{to / 'report.json'}: written, with its figures", err=True)


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def _show(made: dict[str, Any]) -> None:
    typer.echo(f"{made['records']['count']} records (digest {made['records']['digest']}), look {made['looks']}")
    for bed in made["testbeds"]:
        typer.echo(
            f"\n{bed['testbed']}, {bed['protocol']}: defense minus SFT in points (95 % interval) [prediction interval]"
        )
        rows = [
            (one["method"], row["condition"], *(_span(row[effect]) for effect in SHOWN), _concluded(row), _bases(row))
            for one in bed["defenses"]
            for row in one["conditions"]
        ]
        table(["defense", "condition", "harmful score", "accuracy", "conclusions", "bases"], rows)
        for effect, name in SHOWN.items():
            for stage in bed["stages"][effect]:
                typer.echo(
                    f"{stage['stage']} stage, {name}: mean of these {stage['k']} defenses on other bases {_span(stage)}"
                    f" (from {stage['clusters']}; in brackets another defense)"
                )
        for found in bed["networks"]:
            typer.echo(f"network {found['condition']}, {SHOWN[found['effect']]}: {found['notes'][0]}")
    counts = made["ledger"]["counts"]["papers"]
    typer.echo("\npapers: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count))
    for entry in made["changes"][-LATEST:]:
        added, removed = entry["records_added"], entry["records_removed"]
        typer.echo(
            f"look {entry['look']}: {added} records came, {removed} went, {len(entry['changed'])} conclusions changed"
        )
        for change in entry["changed"]:
            keys = change["added"] or change["removed"]
            cause = (
                f"{len(keys)} records, {' '.join(keys[:3])}{' …' if len(keys) > 3 else ''}" if keys else change["cause"]
            )
            typer.echo(f"  {change['conclusion']}: {change['before'] or 'new'} → {change['after'] or 'gone'} ({cause})")


def _span(found: Any) -> str:
    """Value, confidence interval and prediction interval in points."""
    if not found or found["estimate"] is None:
        return "–"
    low, high = (f"{100 * found[name]:+.0f}" for name in ("ci_low", "ci_high"))
    text = f"{100 * found['estimate']:+.1f} ({low}, {high})"
    if found["pi_low"] is None:
        return text
    return f"{text} [{100 * found['pi_low']:+.0f}, {100 * found['pi_high']:+.0f}]"


def _concluded(row: Any) -> str:
    return "; ".join(dict.fromkeys(row[effect]["conclusion"] for effect in SHOWN if row[effect]))


def _bases(row: Any) -> str:
    return str((row["hs_rd"] or row["fa_rd"] or {}).get("clusters", "–"))
