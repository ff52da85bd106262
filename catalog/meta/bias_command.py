"""`hft meta bias`: small-study effects, optimism of own evaluations, and the worst case corrected for the search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalog.commands.shared import Json, find_subject, root
from catalog.meta.options import (
    Cluster,
    Csv,
    Events,
    Label,
    MeasureOf,
    Results,
    Tau2,
    Totals,
    Vi,
    Yi,
    faults,
    read_table,
)
from catalog.terminal import emit

if TYPE_CHECKING:
    from catalog.meta.document import Document
    from catalog.meta.heterogeneity import Tau2Method
    from catalog.meta.studies_csv import Studies
    from catalog.meta.weighted import Vector


def bias_command(
    csv: Csv = None,
    yi: Yi = None,
    vi: Vi = None,
    measure: MeasureOf = None,
    events: Events = None,
    totals: Totals = None,
    label: Label = None,
    n: Annotated[
        str | None, typer.Option("--n", metavar="COL", help="Column of sizes, for effects without counts.")
    ] = None,
    runs: Annotated[
        str | None, typer.Option("--runs", metavar="COL", help="Column of seeds behind each effect [default: one].")
    ] = None,
    tau2: Tau2 = "REML",
    cluster: Cluster = None,
    own: Annotated[
        str | None,
        typer.Option("--self", metavar="COL", help="Column that says whether the authors evaluated: yes, no."),
    ] = None,
    reported: Annotated[str | None, typer.Option(metavar="COL", help="Column of reported effects.")] = None,
    measured: Annotated[str | None, typer.Option(metavar="COL", help="Column of the same, measured.")] = None,
    worst: Annotated[
        str | None, typer.Option(metavar="ID", help="Corrected worst case of a method of our records.")
    ] = None,
    testbed: Annotated[str, typer.Option(help="With --worst: whose runs.")] = "micro",
    results: Results = None,
    plot: Annotated[Path | None, typer.Option(help="Draw a funnel plot as SVG.")] = None,
    as_json: Json = False,
) -> None:
    """Look for small-study effects, optimism and the winner's curse.

    Tests of asymmetry and trim-and-fill run with 10 clusters or more whose sizes differ fourfold. --self contrasts
    own with third-party evaluations, --reported with --measured gives their gap. --worst takes a method of our records.

    JSON: measure estimate se ci_low ci_high k clusters k_excluded; tests[] and trim_and_fill[] that ran, not_run {name:
    reason}; funnel {height points[]}; self_evaluated {difference se ci_low ci_high p self third_party};
    reported_minus_measured {mean se df ci_low ci_high p limit_low limit_high pairs clusters}; notes[]. With --worst
    only: of testbed worst[] {protocol task n harmful harmful_vs_sft not_run}.
    """
    with faults():
        from catalog.meta.analysis import ChoiceError

        if (reported is None) != (measured is None):
            raise ChoiceError("--reported and --measured go together")
        if worst is not None:
            if csv or plot:
                raise ChoiceError("--worst: takes the records; give it without --csv and --plot")
            made = _worst(worst, testbed, results)
        else:
            if csv is None:
                raise ChoiceError("give a table with --csv, or a method of our records with --worst")
            studies = read_table(csv, label)
            pairs = (reported, measured) if reported and measured else None
            wanted = bool(yi or vi or measure or events or totals)
            if not wanted and (pairs is None or own or plot):
                raise ChoiceError("give --yi and --vi, or --measure with --events and --totals")
            asked = {"yi": yi, "vi": vi, "measure": measure, "events": events, "totals": totals, "cluster": cluster}
            made = _of_effects(studies, asked, n, runs, own, tau2, plot) if wanted else {}
            if pairs:
                made["reported_minus_measured"] = _gap(studies, *pairs, cluster)
    if as_json:
        emit(made)
    else:
        _show(made)


def _of_effects(
    studies: Studies,
    asked: dict[str, Any],
    n: str | None,
    runs: str | None,
    own: str | None,
    tau2: Tau2Method,
    plot: Path | None,
) -> Document:
    import numpy as np

    from catalog.meta import analysis, bias, bias_document, inputs, optimism
    from catalog.meta.analysis import ChoiceError

    data, _, _ = inputs.from_table(studies, level=None, **asked)
    kept = inputs.kept(studies, asked["measure"], asked["events"], asked["totals"])
    choices = analysis.choose(data, None, tau2, None, "none", 0.95)
    pooled = analysis.pooled(data, choices, profile=False)
    if n:
        given = studies.numbers(n)
        studies.refuse(given, given <= 0, n, "a size is positive")
        size: Vector | None = given[kept]
    else:
        size = None if data.counts is None else data.counts.total + data.counts.reference_total
    seeds = studies.numbers(runs)[kept] if runs else np.ones(len(data.yi))
    if (seeds <= 0).any():
        raise ChoiceError(f"--runs {runs}: every effect has at least one run")
    heights = np.sqrt(data.vi) if size is None else optimism.heights(size, seeds)
    axis = "standard error" if size is None else "1 / √(n S)"
    found = bias.diagnose(data, size, tau2)
    made = bias_document.document(data, pooled, found, size, heights, axis, studies.file)
    if own:
        marks = np.array(optimism.own_marks(own, studies.texts(own)))[kept]
        made["self_evaluated"] = bias_document.contrast(optimism.evaluators(data, marks.tolist(), tau2))
    if plot:
        from catalog.charts import sheet
        from catalog.meta.funnel import funnel

        plot.parent.mkdir(parents=True, exist_ok=True)
        drawn = funnel(data, heights, axis, pooled.estimate, found.filled[0] if found.filled else None)
        plot.write_text(sheet(drawn), encoding="utf-8")
        typer.echo(f"{plot}: funnel plot", err=True)
    return made


def _gap(studies: Studies, reported: str, measured: str, cluster: str | None) -> Document:
    from catalog.meta import bias_document, optimism

    names = studies.texts(cluster) if cluster else None
    return bias_document.gap(
        optimism.reported_minus_measured(studies.numbers(reported), studies.numbers(measured), names)
    )


def _worst(text: str, testbed: str, results: Path | None) -> Document:
    """Each line of the method's standings: highest harmful score, least gain over SFT."""
    from catalog import measured, papers, running, standings
    from catalog import results as cells
    from catalog.meta import bias_document
    from catalog.meta.analysis import ChoiceError
    from reproduce import record

    slug = find_subject(text, papers.load(root() / papers.FILE)[1])
    found = measured.cells(cells.select(running.read(results or record.RESULTS), slug))
    made = []
    for one in standings.standings(found):
        if one.cell.paper != slug or one.cell.condition.get("testbed") != testbed or not one.measured:
            continue
        condition = {name: one.cell.condition.get(name) for name in ("protocol", "task", "n")}
        gain = one.corrected_gain
        made.append(
            condition
            | {
                "harmful": bias_document.worst(one.corrected) if one.corrected else None,
                "harmful_vs_sft": bias_document.worst(gain) if gain else None,
                "not_run": one.missing,
            }
        )
    if not made:
        raise ChoiceError(f"--worst {text}: no run of it under a declared condition on {testbed}")
    return {"of": slug, "testbed": testbed, "worst": made}


def _show(made: Document) -> None:
    from catalog.meta.bias_document import lines, span

    limits = ("value", "low", "high")
    for one in made.get("worst", []):
        typer.echo(f"{made['of']} on {made['testbed']}, {one['protocol']}, task {one['task']}, n {one['n']}")
        for name, title in (("harmful", "worst harmful score"), ("harmful_vs_sft", "least change of it against SFT")):
            found = one[name]
            if found is None:
                continue
            naive = found["naive"]
            over = f"{len(found['conditions'])} conditions, {found['prompts']} prompts × {found['seeds']} seeds"
            typer.echo(f"{title}: {span(found, 'RD', *limits)} %, corrected for the search over {over}")
            typer.echo(f"  without correction {span(naive, 'RD', *limits)} ({naive['condition']})")
            typer.echo(f"  may be the worst: {', '.join(found['plausible'])}")
        if one["not_run"]:
            typer.echo(f"  not run: {', '.join(one['not_run'])}")
    if "measure" in made:
        typer.echo("\n".join(lines(made)))
    if found := made.get("self_evaluated"):
        shown = span(found, made["measure"], "difference", "ci_low", "ci_high")
        typer.echo(f"self-evaluated minus third-party: {shown}, p {found['p']:.3g}")
        for name in ("self", "third_party"):
            group = found[name]
            shown = span(group, made["measure"], "estimate", "ci_low", "ci_high")
            typer.echo(f"  {name.replace('_', '-')}: {shown}, {group['k']} effects")
        _notes(found)
    if found := made.get("reported_minus_measured"):
        shown = span(found, "GEN", "mean", "ci_low", "ci_high")
        single = (
            f"{found['limit_low']:.3g} to {found['limit_high']:.3g}" if found["limit_low"] is not None else "unknown"
        )
        typer.echo(f"reported minus measured: {shown}; single pairs {single}; {found['pairs']} pairs")
        _notes(found)


def _notes(made: Document) -> None:
    for note in made["notes"]:
        typer.echo(f"note: {note}")
