"""`hft meta verdict`: does a claim hold, by a rule and margins that were declared before the runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catalog.commands.shared import Json, fail, find_paper, refusals, root
from catalog.meta.options import Results
from catalog.terminal import complain, emit, table

if TYPE_CHECKING:
    from catalog.meta.ledger import Ledger, Tried
    from catalog.meta.margins import Margins


def verdict_command(
    names: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Papers [default: all reproduced].")] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Claims of a table instead of papers.yaml.", dir_okay=False)
    ] = None,
    results: Results = None,
    version: Annotated[
        int | None, typer.Option("--margins", metavar="N", help="Version of the declared margins [default: newest].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Judge claims: reproduced, partially, not reproduced, inconclusive, or baseline mismatch.

    The margins stand in catalog/meta/margins.yaml. Effects are method minus baseline. A baseline that does not come
    out within its margin of the reported one gives no verdict on the method; the claim's own direction test is shown
    beside it either way. Claims on lower harm and on kept accuracy that share a number are one claim.

    Columns of --csv, in proportions: paper claim reported measured, and se or ci_low ci_high; optional df
    baseline_reported baseline_measured reported_se metric better test margin joint primary testbed setting. Metric is
    harmful_score or fine_tune_accuracy; the second is tested for non-inferiority.

    JSON: margins, claims[], tests[] (p, p_holm within the paper, p_bh and p_by over all), papers[], counts.
    """
    from catalog.meta import margins, verdict_document
    from catalog.meta.ledger import ledger

    try:
        declared = margins.load(version)
    except KeyError as error:
        fail(f"--margins {version}: {error.args[0]}", 2)
    with refusals():
        found = ledger(_from_csv(csv, names, declared) if csv else from_records(names or [], results), declared)
    if as_json:
        emit({"input": str(csv) if csv else None} | verdict_document.document(found))
    else:
        _show(found)


def _from_csv(csv: Path, names: list[str] | None, declared: Margins) -> list[Tried]:
    from catalog.meta import verdict_csv
    from catalog.meta.studies_csv import ColumnError

    if names:
        fail(f"{names[0]}: a table names its own papers; give ids or --csv, not both", 2)
    try:
        tried, repeats = verdict_csv.read(csv, declared)
    except ColumnError as error:
        fail(str(error), 2)
    complain(repeats)
    return tried


def from_records(names: list[str], results: Path | None) -> list[Tried]:
    """Every claim of the named papers, or of all reproduced ones, with what the records measured for it."""
    from catalog import measured, papers, running, studies
    from catalog.meta import claims
    from reproduce import record

    entries = papers.load(root() / papers.FILE)[1]
    wanted = [find_paper(name, entries) for name in names] or [entry for entry in entries if entry.reproduction]
    records = [one for one in running.read(results or record.RESULTS) if one["spec"].get("split", "test") == "test"]
    return claims.tried(wanted, measured.cells(records), studies.findings(records))


def _show(found: Ledger) -> None:
    from catalog.meta import verdict_document

    declared = found.margins
    typer.echo(
        f"margins version {declared.version} of {declared.date}: m_sup {100 * declared.m_sup:g} points, m_eq "
        f"max({100 * declared.m_eq_floor:g} points, |R|·{declared.m_eq_share:.3g}), m_fa {100 * declared.m_fa:g}, "
        f"baseline {100 * declared.baseline:g}; effects in points"
    )
    for make in ("claims_table", "directions_table", "tests_table", "papers_table"):
        columns, rows = getattr(verdict_document, make)(found)
        if rows:
            typer.echo()
            table(columns, rows)
    silent = [entry for entry in found.entries if entry.judgement is None]
    reasons = sorted({entry.unjudged or "" for entry in silent})
    for reason in reasons:
        of = ", ".join(f"{one.tried.paper} {one.tried.claim}" for one in silent if one.unjudged == reason)
        typer.echo(f"no verdict ({reason}): {of}")
