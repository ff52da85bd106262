"""`hft meta network`: all treatments of a table compared at once, with ranks, splits and inconsistency."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from catalog.commands.shared import Json, fail, refusals
from catalog.terminal import complain, emit, table

if TYPE_CHECKING:
    from catalog.meta.network_document import Analysis

Figure = Literal["league", "graph", "ranks", "heat"]


def network_command(
    file: Annotated[Path, typer.Option("--csv", help="Table of arms or contrasts.", dir_okay=False)],
    form: Annotated[
        Literal["arms", "contrasts"],
        typer.Option("--format", help="Columns: study treatment events n (MD: mean sd n); study treat1 treat2 te se."),
    ] = "arms",
    scale: Annotated[
        Literal["RD", "OR", "MD"], typer.Option("--sm", help="Risk difference, log odds ratio, mean difference.")
    ] = "RD",
    reference: Annotated[
        str | None, typer.Option("--ref", help="Treatment to compare with [default: sft, else the first named].")
    ] = None,
    tau2: Annotated[
        Literal["common", "DL", "REML"],
        typer.Option("--tau2", help="Variance between studies: none, or how estimated."),
    ] = "REML",
    better: Annotated[Literal["smaller", "larger"], typer.Option(help="Which values are good.")] = "smaller",
    cluster: Annotated[
        str | None, typer.Option(metavar="COL", help="Column of base model or paper: ranks again without each.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw a figure as SVG.")] = None,
    figure: Annotated[
        Figure, typer.Option(help="With --plot: league heat map, network graph, rank plot, or net heat.")
    ] = "league",
    as_json: Json = False,
) -> None:
    """Compare all treatments of a network of studies, directly and through one another.

    Prints estimates with confidence and prediction intervals, P-scores with rank intervals, node splits, and
    whether designs agree.

    JSON, in the unit of --sm: measure model method reference treatments[] k tau2 q q_df q_p i2; effects {a {b {estimate
    se ci_low ci_high pi_low pi_high}}}, a minus b; p_scores {}; ranks {a {median low high best}}; inconsistency
    {testable verdict q df p, within designs, random}; net_heat; splits[] {treat1 treat2 studies share direct indirect
    difference z p p_holm testable}; leave_one_cluster_out[]; notes[].
    """
    from catalog.meta import network_csv, network_document
    from catalog.meta.studies_csv import ColumnError
    from catalog.problems import did_you_mean

    with refusals():
        try:
            studies, repeats, notes = network_csv.read(file, form, scale, cluster)
        except ColumnError as error:
            fail(str(error), 2)
        complain(repeats)
        names = list(dict.fromkeys(name for study in studies for name in study.treatments))
        chosen = reference or next((name for name in names if name.lower() == "sft"), names[0])
        if chosen not in names:
            fail(f"--ref {chosen}: no study has it; {did_you_mean(chosen, names)}", 2)
        analysis = network_document.analyse(studies, chosen, scale, tau2, better, str(file))
        if plot and figure == "heat" and analysis.heat is None:
            fail("--figure heat: inconsistency is not testable in this network; draw league, graph or ranks", 2)
        if plot:
            _draw(analysis, figure, plot)
    if as_json:
        emit(network_document.document(analysis, notes))
    else:
        _show(analysis, notes)


def _draw(analysis: "Analysis", figure: Figure, to: Path) -> None:
    from catalog.charts import sheet
    from catalog.meta import network_charts

    chart = getattr(network_charts, figure)(analysis)
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(sheet(chart), encoding="utf-8")
    typer.echo(f"{to}: {figure}", err=True)


def _show(analysis: "Analysis", notes: Sequence[str]) -> None:
    from catalog.meta.network_document import verdict

    found, tested = analysis.found, analysis.inconsistency
    points, unit = (
        (100, " (points)") if analysis.scale == "RD" else (1, {"OR": " (log odds ratio)"}.get(analysis.scale, ""))
    )
    low, high = found.interval()
    new_low, new_high = found.prediction()
    heterogeneity = "heterogeneity not testable: Q has no degrees of freedom"
    if found.df:
        heterogeneity = f"Q {found.q:.2f} on {found.df} df (p {tested.total.p:.3g}); I² {found.i2:.0%} (Q-based)"
    typer.echo(f"{len(analysis.studies)} studies of {len(found.treatments)} treatments")
    typer.echo(f"tau {points * found.tau2**0.5:.3g}{unit} by {found.method}; {heterogeneity}")
    rows = []
    for name in sorted(found.treatments, key=lambda name: -analysis.p_scores[name]):
        at, rank = found.treatments.index(name), analysis.ranks[name]
        shown: tuple[str, ...] = ("reference", "", "")
        if at:
            values = found.estimate[at, 0], (low[at, 0], high[at, 0]), (new_low[at, 0], new_high[at, 0])
            shown = (f"{points * values[0]:.3g}", *(_limits(points * one, points * two) for one, two in values[1:]))
        ranks = f"{rank.median:.0f} ({rank.low:.0f} to {rank.high:.0f})"
        rows.append((name, *shown, f"{analysis.p_scores[name]:.3f}", ranks, f"{rank.best:.0%}"))
    header = [f"against {found.treatments[0]}{unit}", "estimate", "95 % CI", "95 % PI", "P-score", "rank", "best"]
    table(header, rows)
    between = f"Q {tested.between_random.q:.2f} on {tested.between_random.df} df, p {tested.between_random.p:.3g}"
    typer.echo(f"between designs: {verdict(tested)}" + (f" ({between})" if tested.testable else ""))
    split = [
        (
            f"{s.treat1} - {s.treat2}",
            f"{points * s.direct:.3g}",
            f"{points * s.indirect:.3g}",
            f"{s.p:.3g}",
            f"{s.p_holm:.3g}",
        )
        for s in analysis.splits
        if s.testable
    ]
    if split:
        table(["node split", "direct", "indirect", "p", "p (Holm)"], split)
    for note in (*notes, *analysis.notes):
        typer.echo(f"note: {note}")


def _limits(low: float, high: float) -> str:
    return "none" if low != low else f"{low:.3g} to {high:.3g}"
