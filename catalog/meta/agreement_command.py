"""`hft meta agreement`: how measured effects agree with the reported ones."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from catalog.commands.shared import Json, fail, refusals
from catalog.meta.options import Results
from catalog.terminal import complain, emit, table

if TYPE_CHECKING:
    from catalog.meta.agreement import Agreement, Bounded, Pairs


def agreement_command(
    names: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Papers [default: all reproduced].")] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Pairs of a table instead of the records.", dir_okay=False)
    ] = None,
    reported: Annotated[str, typer.Option(metavar="COL", help="With --csv: column of reported effects.")] = "reported",
    measured: Annotated[str, typer.Option(metavar="COL", help="With --csv: column of measured effects.")] = "measured",
    testbed: Annotated[str, typer.Option(help="Of the records: whose runs.")] = "micro",
    metric: Annotated[str, typer.Option(help="Of the records: effects on which metric.")] = "harmful_score",
    kind: Annotated[
        Literal["defense", "attack", "all"],
        typer.Option("--type", help="Of the records: defenses against SFT, comparisons of attack papers, or all."),
    ] = "defense",
    ratio: Annotated[
        float | None,
        typer.Option(help="Error variance of measured to reported [default: from the standard errors, else 1]."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the resampling of papers.")] = 0,
    results: Results = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the scatter as SVG.")] = None,
    as_json: Json = False,
) -> None:
    """Compare measured with reported effects: bias and limits, Deming line, concordance, ranks.

    One pair a claim, clusters are papers. Other columns of --csv, where it has them: paper, setting (ranks are also
    compared inside each), reported_se, se. Fewer than 10 pairs are exploratory: intervals by resampling papers.

    JSON: input type pairs papers exploratory; bias {value low high se df}; limits {sd low high, each {value low high}};
    deming {slope intercept ratio}; ccc spearman kendall; within_setting {value low high settings pairs}; rows[];
    notes[].
    """
    from catalog.meta.agreement import agree

    if ratio is not None and not (ratio > 0 and math.isfinite(ratio)):
        fail(f"--ratio {ratio:g}: a ratio of variances is above 0", 2)
    with refusals():
        if csv:
            if names:
                fail(f"{names[0]}: a table names its own papers; give ids or --csv, not both", 2)
            pairs = _from_csv(csv, reported, measured)
        else:
            from catalog.meta import pairs as sources
            from catalog.meta.verdict_command import from_records

            pairs = sources.from_claims(from_records(names or [], results), testbed, metric, kind)
        try:
            found = agree(pairs, ratio, seed=seed)
        except ValueError as error:
            where = str(csv) if csv else f"{metric} on {testbed}, --type {kind}"
            fail(f"{where}: {error}; give more claims with reported and measured effects", 1)
        if plot:
            _draw(found, plot, points=csv is None)
    if as_json:
        emit({"input": str(csv) if csv else None, "type": None if csv else kind} | document(found))
    else:
        _show(found, points=csv is None)


def document(found: Agreement) -> dict[str, Any]:
    """All of it as JSON values in the unit of the effects; null where there is none."""
    from catalog.meta.document import plain

    bias, pairs = found.bias, found.pairs
    made = {
        "pairs": len(pairs),
        "papers": found.papers,
        "exploratory": found.exploratory,
        "bias": {"value": bias.estimate, "low": bias.low, "high": bias.high, "se": bias.se, "df": bias.df},
        "limits": asdict(found.limits),
        "deming": asdict(found.deming),
        "ccc": asdict(found.ccc),
        "spearman": asdict(found.spearman),
        "kendall": asdict(found.kendall),
        "within_setting": asdict(found.within.tau) | {"settings": found.within.settings, "pairs": found.within.pairs},
        "rows": [
            {"label": label, "paper": paper, "setting": setting, "reported": x, "measured": y}
            for label, paper, setting, x, y in zip(
                pairs.labels,
                pairs.papers,
                pairs.settings,
                pairs.reported.tolist(),
                pairs.measured.tolist(),
                strict=True,
            )
        ],
        "notes": list(found.notes),
    }
    return cast("dict[str, Any]", plain(made))


def _from_csv(csv: Path, reported: str, measured: str) -> Pairs:
    from catalog.meta import pairs, studies_csv
    from catalog.meta.studies_csv import ColumnError

    try:
        named = studies_csv.read(csv)
        if "claim" in named.columns:
            named = studies_csv.read(csv, "claim")
        complain(named.warnings)
        return pairs.from_table(named, reported, measured)
    except ColumnError as error:
        fail(str(error), 2)


def _draw(found: Agreement, to: Path, *, points: bool) -> None:
    from catalog.charts import sheet
    from catalog.meta.agreement_chart import scatter

    to.parent.mkdir(parents=True, exist_ok=True)
    factor, unit = (100.0, " effect (points)") if points else (1.0, "")
    to.write_text(sheet(scatter(found, factor, unit)), encoding="utf-8")
    typer.echo(f"{to}: scatter of {len(found.pairs)} claims", err=True)


def _show(found: Agreement, *, points: bool) -> None:
    from catalog.meta.agreement import Bounded

    factor, unit = (100.0, " (points)") if points else (1.0, "")
    bias = Bounded(found.bias.estimate, found.bias.low, found.bias.high)
    rows = [
        (f"bias, measured − reported{unit}", bias, factor),
        (f"lower limit of agreement{unit}", found.limits.low, factor),
        (f"upper limit of agreement{unit}", found.limits.high, factor),
        (f"Deming slope (variance ratio {found.deming.ratio:.3g})", found.deming.slope, 1.0),
        (f"Deming intercept{unit}", found.deming.intercept, factor),
        ("concordance (Lin)", found.ccc, 1.0),
        ("rank correlation (Spearman)", found.spearman, 1.0),
        ("rank correlation (Kendall tau-b)", found.kendall, 1.0),
        (f"tau-b inside settings, mean of {found.within.settings}", found.within.tau, 1.0),
    ]
    papers = "1 paper" if found.papers == 1 else f"{found.papers} papers"
    typer.echo(f"{len(found.pairs)} claims of {papers}" + (", exploratory" if found.exploratory else ""))
    table(["agreement", "estimate", "95 %"], [(name, *_shown(one, scale)) for name, one, scale in rows])
    for note in found.notes:
        typer.echo(f"note: {note}")


def _shown(one: Bounded, factor: float) -> tuple[str, str]:
    if math.isnan(one.value):
        return "none", "none"
    limits = "none" if math.isnan(one.low) else f"{factor * one.low:.3g} to {factor * one.high:.3g}"
    return f"{factor * one.value:.3g}", limits
