"""`hft meta`: pooling, networks and regressions of any table of studies, and of our own records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from catalog.commands.shared import Json
from catalog.meta.agreement_command import agreement_command
from catalog.meta.bias_command import bias_command
from catalog.meta.network_command import network_command
from catalog.meta.options import (
    Ci,
    Cluster,
    Csv,
    Events,
    Label,
    Level,
    MeasureOf,
    ModelOf,
    Mods,
    Pi,
    Results,
    Tau2,
    Totals,
    Vi,
    Yi,
    faults,
    of_method,
    read_table,
)
from catalog.meta.plan_command import plan_command
from catalog.meta.report_command import report_command
from catalog.meta.verdict_command import verdict_command
from catalog.terminal import emit

if TYPE_CHECKING:
    from catalog.meta.analysis import Choices, Data
    from catalog.meta.document import Document
    from catalog.meta.weighted import Matrix

app = typer.Typer(no_args_is_help=True, help="Meta-analysis: effects pooled, compared and explained.")

app.command("bias")(bias_command)
app.command("network")(network_command)
app.command("report")(report_command)
app.command("verdict")(verdict_command)
app.command("agreement")(agreement_command)
app.command("plan")(plan_command)

Plot = Annotated[Path | None, typer.Option(help="Draw a forest plot as SVG.")]


@app.command("pool")
def pool_command(
    csv: Csv = None,
    yi: Yi = None,
    vi: Vi = None,
    measure: MeasureOf = None,
    events: Events = None,
    totals: Totals = None,
    label: Label = None,
    model: ModelOf = None,
    tau2: Tau2 = "REML",
    ci: Ci = None,
    pi: Pi = "hts",
    cluster: Cluster = None,
    level: Level = None,
    mods: Mods = None,
    method: Annotated[str | None, typer.Option(metavar="ID", help="Pool a method of our records against SFT.")] = None,
    effect: Annotated[
        Literal["hs_rd", "hs_or", "fa_rd"],
        typer.Option(help="With --method: harmful score as risk difference or log odds ratio, accuracy as difference."),
    ] = "hs_rd",
    testbed: Annotated[str, typer.Option(help="With --method: whose runs.")] = "micro",
    attack: Annotated[
        str, typer.Option(help="With --method: declared conditions, as in graded,strong, or all.")
    ] = "graded",
    records: Annotated[
        Path | None,
        typer.Option(
            "--records",
            help="With --method: counts from a CSV: method model ratio seed harmful_k harmful_n correct_k correct_n.",
            dir_okay=False,
        ),
    ] = None,
    results: Results = None,
    leave_one_out: Annotated[
        bool | None, typer.Option("--leave-one-out/--no-leave-one-out", help="[default: up to 200 effects or clusters]")
    ] = None,
    cumulative: Annotated[bool, typer.Option("--cumulative", help="Add effects one by one, in file order.")] = False,
    order: Annotated[str | None, typer.Option(metavar="COL", help="Cumulative in the order of this column.")] = None,
    influence: Annotated[bool, typer.Option("--influence", help="Diagnostics of every effect.")] = False,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Pool effects: estimate, confidence and prediction interval, heterogeneity, leave-one-out.

    Effects come from a table (--csv with --yi and --vi, or with --measure, --events and --totals), or from runs
    (--method). Where a prediction interval is given, read it first: it is about the next setting.

    JSON, in the unit of the effects: measure model estimate se ci_low ci_high pi_low pi_high tau2 tau2_ci_low
    tau2_ci_high i2 i2_definition h2 q q_df q_p k clusters k_excluded notes[]; rows[] {label yi vi weight};
    coefficients[] {name estimate se ci_low ci_high p}; r2; leave_one_out[] {label estimate se ci_low ci_high tau2 i2 q
    q_p}; method {what was done, in words}. On request cumulative[], like leave_one_out, and influence[].
    """
    with faults():
        from catalog.meta import document, inputs, words
        from catalog.meta.analysis import ChoiceError, choose

        places = None
        names: list[str] = []
        if method is not None:
            if csv or yi or vi or measure or events or totals or cluster or level or mods or order:
                raise ChoiceError("--method: brings its own effects and clusters; give it without the options of --csv")
            data, X = of_method(method, effect, testbed, attack, records, results), None
            origin: Document = {"of": method, "effect": effect, "testbed": None if records else testbed}
            model = model or "clusters"
        else:
            if records or results:
                raise ChoiceError("--records and --results: name the method with --method")
            if csv is None:
                raise ChoiceError("give a table with --csv, or a method of our records with --method")
            studies = read_table(csv, label)
            data, X, names = inputs.from_table(
                studies,
                yi=yi,
                vi=vi,
                measure=measure,
                events=events,
                totals=totals,
                cluster=cluster,
                level=level,
                mods=mods,
            )
            origin = {"input": str(csv)}
            if order:
                sequence = studies.numbers(order)[inputs.kept(studies, measure, events, totals)].tolist()
                places = sorted(range(len(data.yi)), key=sequence.__getitem__)
        choices = choose(data, model, tau2, ci, pi, 0.95)
        if mods and X is not None:
            if plot or cumulative or influence:
                raise ChoiceError("--mods: no forest plot, cumulative or influence analysis with moderators")
            _regress(data, X, names, choices, origin, 0, 0, as_json=as_json)
            return
        made, found = document.pooled(
            data,
            choices,
            leave_one_out=leave_one_out,
            cumulative=(places or list(range(len(data.yi)))) if cumulative or order else None,
            influence=influence,
            origin=origin,
        )
        if plot:
            from catalog.charts import sheet
            from catalog.meta.forest import forest

            plot.parent.mkdir(parents=True, exist_ok=True)
            plot.write_text(sheet(forest(data, found)), encoding="utf-8")
            typer.echo(f"{plot}: forest plot", err=True)
    if as_json:
        emit(made)
    else:
        words.show(data, found, made)


@app.command("regress")
def regress_command(
    csv: Csv = None,
    mods: Mods = None,
    yi: Yi = None,
    vi: Vi = None,
    measure: MeasureOf = None,
    events: Events = None,
    totals: Totals = None,
    label: Label = None,
    model: ModelOf = None,
    tau2: Tau2 = "REML",
    ci: Ci = None,
    cluster: Cluster = None,
    level: Level = None,
    permutations: Annotated[
        int, typer.Option(min=0, help="Permutation test with so many orderings (all of them for up to 7 effects).")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the permutations.")] = 0,
    as_json: Json = False,
) -> None:
    """Explain how effects differ by moderators: coefficients, test of all together, what is left unexplained.

    Clusters alone give cluster-robust intervals, clusters with levels the three-level model.

    JSON: the keys of hft meta pool, with estimate to pi_high null; coefficients[] also p_permutation; qm qm_df qm_p df
    for all moderators together; permutation {qm_p orderings exact}.
    """
    with faults():
        from catalog.meta import inputs
        from catalog.meta.analysis import ChoiceError, choose

        if not mods:
            raise ChoiceError("--mods: name the moderators")
        studies = read_table(csv, label)
        data, X, names = inputs.from_table(
            studies,
            yi=yi,
            vi=vi,
            measure=measure,
            events=events,
            totals=totals,
            cluster=cluster,
            level=level,
            mods=mods,
        )
        if cluster and not level and model is None:
            model, ci = "random", ci or "cr2"
        choices = choose(data, model, tau2, ci, "none", 0.95)
        _regress(data, X, names, choices, {"input": str(csv)}, permutations, seed, as_json=as_json)


def _regress(
    data: Data,
    X: Matrix,
    names: list[str],
    choices: Choices,
    origin: Document,
    permutations: int,
    seed: int,
    *,
    as_json: bool,
) -> None:
    from catalog.meta import document, words
    from catalog.meta.analysis import ChoiceError
    from catalog.meta.clustered_regression import regressed
    from catalog.meta.regress import permutation_test

    found = regressed(data, X, names, choices)
    permuted = None
    if permutations:
        if choices.model != "random" or choices.ci == "cr2":
            raise ChoiceError("--permutations: for --model random with --ci z or hk, whose effects are exchangeable")
        permuted = permutation_test(
            data.yi, data.vi, X, names, orderings=permutations, seed=seed, tau2_method=choices.tau2, interval=choices.ci
        )
    made = document.regression(data, choices, found, permuted, origin)
    if as_json:
        emit(made)
    else:
        words.show_regression(made)
