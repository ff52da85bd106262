"""`hft meta plan`: prompts and seeds for an interval or a test, from assumptions or from committed records."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalog.commands.shared import Json, fail, find_subject, refusals, root
from catalog.meta.options import Results
from catalog.terminal import emit, table

if TYPE_CHECKING:
    from catalog.meta.plan import Components

Document = dict[str, Any]


def plan_command(
    half_width: Annotated[float, typer.Option(help="Half of the 95 % interval that is wanted, a proportion.")] = 0.05,
    p: Annotated[
        str, typer.Option(metavar="P,…", help="Expected proportions of a single arm.")
    ] = "0.05,0.1,0.2,0.3,0.5",
    sd: Annotated[
        str | None,
        typer.Option(
            metavar="SD,…",
            help="Standard deviations of seed-paired differences [default: with --from the measured one, "
            "else 0.02,0.03,0.04,0.05,0.06,0.08,0.1].",
        ),
    ] = None,
    prompts: Annotated[str, typer.Option(metavar="N,…", help="Numbers of prompts to compare.")] = "100,200,300,500",
    seeds: Annotated[str, typer.Option(metavar="S,…", help="Numbers of seeds to compare.")] = "3,5,8,10",
    s2_a: Annotated[float | None, typer.Option("--s2-a", help="Variance between prompts [default: 0.10].")] = None,
    sd_b: Annotated[
        float | None, typer.Option("--sd-b", help="Standard deviation between seeds [default: 0.02].")
    ] = None,
    s2_e: Annotated[float | None, typer.Option("--s2-e", help="Variance of the rest [default: 0.15].")] = None,
    effect: Annotated[float, typer.Option(help="True effect of the paired t test.")] = 0.05,
    margin: Annotated[float, typer.Option(help="Margin of the equivalence test, true effect 0.")] = 0.05,
    wanted: Annotated[float, typer.Option("--power", help="Power to find the number of seeds for.")] = 0.8,
    source: Annotated[
        str | None, typer.Option("--from", metavar="ID", help="Estimate the variances from the records of this method.")
    ] = None,
    metric: Annotated[str, typer.Option(help="With --from: harmful or accuracy, as in the records.")] = "harmful",
    testbed: Annotated[str, typer.Option(help="With --from: whose runs.")] = "micro",
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Plan a run: prompts for a proportion, seeds and prompts for a paired difference, power.

    All numbers are proportions (0.05 is 5 points). Seeds alone keep the prompts fixed; the total adds that other
    prompts would have been asked. Replace the assumed variances by those of a first run with --from.

    JSON: assumptions {half_width s2_a s2_b s2_e source}; prompts[] {p n}; seeds[] {sd_d seeds}; total[] {prompts seeds
    half_width df enough}; power[] and tost[] {sd_d seeds power}; seeds_to_power[] {sd_d seeds}; components[] {setting
    prompts seeds s2_a s2_b s2_e sd_d} of --from.
    """
    from catalog.meta import plan

    for name, value in (("half-width", half_width), ("effect", effect), ("margin", margin), ("power", wanted)):
        if not 0 < value < 1:
            fail(f"--{name} {value:g}: give a proportion above 0 and below 1, 0.05 for 5 points", 2)
    for name, given in (("s2-a", s2_a), ("sd-b", sd_b), ("s2-e", s2_e)):
        if given is not None and not 0 <= given <= 1:
            fail(f"--{name} {given:g}: give a number from 0 to 1, in proportions", 2)
    shares, spreads = _numbers("--p", p), _numbers("--sd", sd or "0.02,0.03,0.04,0.05,0.06,0.08,0.1")
    asked, repeats = _counts("--prompts", prompts), _counts("--seeds", seeds)
    found: list[Document] = []
    parts, origin = plan.ASSUMED, "planning assumptions"
    if source:
        with refusals():
            parts, found = _measured(source, metric, testbed, results)
        origin = f"records of {source} on {testbed}, {metric}"
        if sd is None:
            spreads = [parts.sd_d(found[0]["prompts"])]
    parts = plan.Components(
        parts.s2_a if s2_a is None else s2_a,
        parts.s2_b if sd_b is None else sd_b**2,
        parts.s2_e if s2_e is None else s2_e,
    )
    spreads = [value for value in spreads if value > 0]
    try:
        made = _document(parts, half_width, shares, spreads, asked, repeats, effect, margin, wanted)
    except ValueError as error:
        fail(f"{error}: ask for a wider interval or less power", 2)
    made["assumptions"]["source"] = origin
    made["components"] = found
    if as_json:
        emit(made)
    else:
        _show(made, effect, margin, wanted)


def _document(
    parts: Components,
    half_width: float,
    shares: list[float],
    spreads: list[float],
    prompts: list[int],
    seeds: list[int],
    effect: float,
    margin: float,
    wanted: float,
) -> Document:
    from catalog.meta import plan

    totals = []
    for n in prompts:
        for s in seeds:
            reach, df = plan.total(parts, n, s)
            enough = reach <= half_width
            totals.append(
                {
                    "prompts": n,
                    "seeds": s,
                    "half_width": reach,
                    "df": df if math.isfinite(df) else None,
                    "enough": enough,
                }
            )
    pairs = [(spread, s) for spread in spreads for s in seeds]
    return {
        "assumptions": {"half_width": half_width, "s2_a": parts.s2_a, "s2_b": parts.s2_b, "s2_e": parts.s2_e},
        "prompts": [{"p": share, "n": plan.prompts_for(share, half_width)} for share in shares],
        "seeds": [{"sd_d": spread, "seeds": plan.seeds_for(spread, half_width)} for spread in spreads],
        "total": totals,
        "power": [{"sd_d": spread, "seeds": s, "power": plan.power(effect, spread, s)} for spread, s in pairs],
        "tost": [{"sd_d": spread, "seeds": s, "power": plan.power_tost(margin, spread, s)} for spread, s in pairs],
        "seeds_to_power": [
            {"sd_d": spread, "seeds": plan.seeds_to_power(effect, spread, wanted)} for spread in spreads
        ],
    }


def _measured(source: str, metric: str, testbed: str, results: Path | None) -> tuple[Components, list[Document]]:
    """Components of a method's main arm against SFT in every setting, and their average."""
    from catalog import measured, papers, running
    from catalog import results as cells
    from catalog.meta import plan
    from catalog.problems import did_you_mean
    from reproduce import record

    if metric not in measured.METRICS:
        fail(f"--metric {metric}: {did_you_mean(metric, measured.METRICS)}", 2)
    slug = find_subject(source, papers.load(root() / papers.FILE)[1])
    found, rows = [], []
    for cell in measured.cells(cells.select(running.read(results or record.RESULTS), slug)):
        usable = cell.paper == slug and cell.arm == "main" and cell.twin and cell.condition.get("testbed") == testbed
        if not usable or cell.twin is None:
            continue
        estimated = plan.components(cell.outcomes(metric), cell.twin.outcomes(metric))
        if estimated:
            parts, prompts, seeds = estimated
            found.append((parts, seeds))
            setting = cells.attack_name(cell) + (f", {cell.ratio:.0%} harmful" if cell.ratio is not None else "")
            row = {"setting": setting, "prompts": prompts, "seeds": seeds}
            rows.append(row | {"s2_a": parts.s2_a, "s2_b": parts.s2_b, "s2_e": parts.s2_e, "sd_d": parts.sd_d(prompts)})
    if not found:
        fail(f"--from {source}: no setting on {testbed} with 2 seeds or more beside SFT; run more, or leave it out", 1)
    return plan.pooled(found), rows


def _show(made: Document, effect: float, margin: float, wanted: float) -> None:
    assumed = made["assumptions"]
    width = 100 * assumed["half_width"]
    typer.echo(
        f"{assumed['source']}: s2_a {assumed['s2_a']:.3g}, s2_b {assumed['s2_b']:.3g} "
        f"(sd {100 * math.sqrt(assumed['s2_b']):.3g} points), s2_e {assumed['s2_e']:.3g}"
    )
    if made["components"]:
        names = ("setting", "prompts", "seeds", "s2_a", "s2_b", "s2_e", "sd_d")
        table(["variances in", *names[1:]], [[_cell(row[name]) for name in names] for row in made["components"]])
    typer.echo(f"\none arm, Wilson interval of ± {width:g} points")
    table(["expected proportion", "prompts"], [(f"{100 * row['p']:g} %", str(row["n"])) for row in made["prompts"]])
    typer.echo(f"\npaired difference, new prompts and seeds: half-width in points (* at most {width:g})")
    seeds = list(dict.fromkeys(row["seeds"] for row in made["total"]))
    rows: dict[int, list[str]] = {}
    for row in made["total"]:
        cells = rows.setdefault(row["prompts"], [str(row["prompts"])])
        cells.append(f"{100 * row['half_width']:.1f}{' *' if row['enough'] else ''}")
    table(["prompts", *(f"{s} seeds" for s in seeds)], rows.values())
    typer.echo(
        f"\npaired difference, prompts fixed: seeds for ± {width:g} points, and for a power of {wanted:.0%} at an "
        f"effect of {100 * effect:g} points; power of t test / of equivalence within {100 * margin:g} points"
    )
    lines = []
    for fewest, powered in zip(made["seeds"], made["seeds_to_power"], strict=True):
        spread = fewest["sd_d"]
        of = [
            f"{one['power']:.2f} / {other['power']:.2f}"
            for one, other in zip(made["power"], made["tost"], strict=True)
            if one["sd_d"] == spread
        ]
        lines.append((f"{100 * spread:.3g}", str(fewest["seeds"]), str(powered["seeds"]), *of))
    table(["sd between seeds", "seeds for ±", "for power", *(f"{s} seeds" for s in seeds)], lines)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _numbers(option: str, text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",") if part]
    except ValueError:
        found = []
    if not found or not all(0 < value < 1 for value in found):
        fail(f"{option} {text}: give proportions above 0 and below 1 with commas between, as in 0.05,0.1", 2)
    return list(dict.fromkeys(found))


def _counts(option: str, text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",") if part]
    except ValueError:
        found = []
    if not found or min(found) < 2:
        fail(f"{option} {text}: give whole numbers from 2 on with commas between, as in 200,300", 2)
    return list(dict.fromkeys(found))
