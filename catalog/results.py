"""`hft results`: measured cells, findings of studies, how each defense stands; as JSON values and as table lines."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from catalog import conditions, costs, measured, standings, studies
from catalog.conditions import condition_of
from catalog.measured import Cell
from catalog.meta.effects import Estimate
from catalog.meta.worst import Worst
from catalog.schema import Paper
from catalog.standings import Standing
from catalog.studies import Finding
from catalog.taxonomy import BASELINES
from reproduce.protocol import MICRO
from reproduce.record import Record

METHOD = "method"
COSTS = ("passes", "seconds", "memory")
DEFAULT = [METHOD, "HS", "SFT", "HS−SFT", "FA", "SFT", "FA−SFT", "over refusal", *(f"{kind} / SFT" for kind in COSTS)]
WORST = [
    METHOD,
    "worst HS",
    "where",
    "FA there",
    "corrected",
    "SFT there",
    "worst HS−SFT",
    "where",
    "measured",
    "against its controls",
]
CELLS = [METHOD, "attack", "p", "HS", "HS+", "refusal", "FA", "over refusal", "help", "seeds"]
FINDINGS = ["study", "finding", "value", "unit", "seeds", "what it is"]
SHOWN = ("harmful", "harmful_plus", "refusal", "accuracy", "over_refusal", "benign_help")
PAIRED = ("harmful", "accuracy", "over_refusal")

Lines = tuple[list[str], list[tuple[str, ...]]]


def select(records: Iterable[Record], slug: str | None) -> list[Record]:
    """The records that count of one paper or combination and what they are compared with; of all without a slug.

    A defense's combinations come along. Its runs under the attacks of papers come with their undefended twins.
    Baselines come under the conditions of the paper's own runs and under the default one; beside a defense, under all
    declared ones, so that their worst case is the same everywhere.
    """
    every = list(records)
    counting = {id(one) for one in measured.newest(every)}
    kept = [one for one in every if id(one) in counting]
    if slug is None:
        return kept
    own = [one for one in kept if is_of(one, slug)]
    met = {_met(one) for one in own}
    judged = conditions.DECLARED if any(condition_of(one["spec"]) for one in own) else (conditions.DEFAULT,)
    beside = [
        one
        for one in kept
        if (_method(one) in BASELINES and _met(one) in met)
        or (one["spec"]["paper"] in BASELINES and condition_of(one["spec"]) in judged)
    ]
    return list({id(one): one for one in (*own, *beside)}.values())


def _met(record: Record) -> str:
    return measured.canonical(measured.condition(record["spec"]))


def _method(record: Record) -> str:
    return str((record["spec"].get("method") or {}).get("paper", ""))


def is_of(record: Record, slug: str) -> bool:
    """Is the record of this paper's, alone, in a combination, or as a defense under another paper's attack?"""
    owner, method = str(record["spec"]["paper"]), _method(record)
    return slug in (owner, method, *owner.split("+"), *method.split("+"))


def tidy(records: Iterable[Record], papers: Iterable[Paper] = ()) -> list[dict[str, Any]]:
    """One object a cell (arm and condition): values, intervals, the SFT twin, paired differences, cost.

    `worst_case` and `controls` stand on one row of each method, that of its default condition, and are null elsewhere.
    After the cells one object a finding of a study; `kind` is "run" or "study".
    """
    every = list(records)
    found = measured.cells(every)
    known = standings.standings(found, papers)
    rows = measured.frame(found).to_dict("records")
    cells = [
        {"kind": "run"}
        | {str(name): _plain(value) for name, value in row.items()}
        | {
            "failures": [
                {"status": one.status, "reason": one.reason, "seeds": list(one.seeds)} for one in cell.failures
            ]
        }
        | {"condition": condition_of(cell.condition), "sft": _twin(cell), "cost_ratio": _many(costs.ratios(cell))}
        | _standing(next((one for one in known if one.cell is cell), None))
        | {"records": [run["key"] for run in cell.runs]}
        for cell, row in zip(found, rows, strict=True)
    ]
    return [*cells, *map(_finding, studies.findings(every))]


def _finding(found: Finding) -> dict[str, Any]:
    who = {"kind": "study", "paper": found.paper, "arm": found.arm, **found.condition}
    return who | {"finding": found.name, "unit": found.unit, "says": found.says, "estimate": _estimate(found.estimate)}


def _standing(standing: Standing | None) -> dict[str, Any]:
    if standing is None:
        return {"worst_case": None, "controls": None}
    controls = [
        {"arm": verdict.arm, "condition": verdict.condition, "verdict": verdict.says, "no_better": verdict.no_better}
        | {"harmful": _estimate(verdict.harmful), "accuracy": _estimate(verdict.accuracy)}
        for verdict in standing.controls
    ]
    return {"worst_case": _worst(standing), "controls": controls}


def _worst(standing: Standing) -> dict[str, Any]:
    worst, gain = standing.worst, standing.worst_gain
    cell = standing.cells[worst] if worst else None
    return {
        "condition": worst,
        "harmful": _estimate(cell.metrics["harmful"]) if cell else None,
        "accuracy": _estimate(cell.metrics.get("accuracy")) if cell else None,
        "sft": _twin(cell) if cell else None,
        "corrected": _corrected(standing.corrected),
        "gain_condition": gain,
        "harmful_vs_sft": _estimate(standing.cells[gain].versus_sft["harmful"]) if gain else None,
        "gain_corrected": _corrected(standing.corrected_gain),
        "measured": len(standing.measured),
        "declared": len(conditions.DECLARED),
        "complete": standing.complete,
        "not_run": standing.missing,
        "without_numbers": standing.without_numbers,
    }


def _corrected(found: Worst | None) -> dict[str, Any] | None:
    """The maximum over conditions, corrected for having been looked for."""
    if found is None:
        return None
    limits = {"value": found.value, "low": found.low, "high": found.high}
    return limits | {"conditions": list(found.conditions), "plausible": list(found.plausible)}


def _twin(cell: Cell) -> dict[str, Any] | None:
    if cell.twin is None:
        return None
    return _many({name: cell.twin.metrics[name] for name in PAIRED if name in cell.twin.metrics})


def _many(estimates: dict[str, Estimate]) -> dict[str, Any]:
    return {name: _estimate(estimate) for name, estimate in estimates.items()}


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    names = ("value", "low", "high", "prompts", "seeds")
    return {name: _plain(getattr(estimate, name)) for name in names}


def _plain(value: Any) -> Any:
    """NaN as null, so that what is printed is JSON."""
    return None if isinstance(value, float) and math.isnan(value) else value


def standing_tables(records: Iterable[Record], papers: Iterable[Paper] = ()) -> tuple[Lines, Lines]:
    """Columns and a line for each method: under the default condition; in the worst case and against its controls.

    Baselines stand only beside a defense that was run with the same task and data.
    """
    every = standings.standings(measured.cells(records), papers)
    beside = {one.line for one in every if one.cell.method not in BASELINES}
    shown = [one for one in every if one.line in beside]
    return (DEFAULT, [_default_line(one) for one in shown]), (WORST, [_worst_line(one) for one in shown])


def _default_line(standing: Standing) -> tuple[str, ...]:
    cell = standing.cell
    twin = cell.twin.metrics if cell.twin else {}
    cost = costs.ratios(cell)
    values = [_name(cell)]
    for name in ("harmful", "accuracy"):
        values += [_percent(cell.metrics.get(name)), _percent(twin.get(name)), _points(cell.versus_sft.get(name))]
    values += [_percent(cell.metrics.get("over_refusal"))]
    return *values, *(f"{cost[kind].value:.2f}" if kind in cost else "–" for kind in COSTS)


def _worst_line(standing: Standing) -> tuple[str, ...]:
    worst, gain = standing.worst, standing.worst_gain
    cell, gained = standing.cells.get(worst or ""), standing.cells.get(gain or "")
    return (
        _name(standing.cell), _percent(cell.metrics["harmful"] if cell else None), worst or "–",
        _percent(cell.metrics.get("accuracy") if cell else None), _percent(standing.corrected),
        _percent(cell.twin.metrics.get("harmful") if cell and cell.twin else None),
        _points(gained.versus_sft["harmful"] if gained else None), gain or "–",
        f"{len(standing.measured)} of {len(conditions.DECLARED)}{'' if standing.complete else ': incomplete'}",
        "; ".join(f"{verdict.says} ({verdict.condition})" for verdict in standing.controls) or "–",
    )  # fmt: skip


def _name(cell: Cell) -> str:
    """The method, with the condition where the default one was not run."""
    known = condition_of(cell.condition)
    return cell.method if known == conditions.DEFAULT else f"{cell.method} ({known})"


def summary(records: Iterable[Record]) -> Lines:
    """Columns and a line for each cell: value [95 % interval] in percent."""
    found = measured.cells(records)
    return CELLS, [(*_who(cell), *_values(cell), _seeds(cell)) for cell in found]


def findings(records: Iterable[Record]) -> Lines:
    """Columns and a line for each finding of a study: mean and 95 % t interval over seeds, in the unit it names."""
    return FINDINGS, [
        (
            _arm(one.paper, one.arm),
            one.name,
            _value(one.estimate),
            one.unit,
            str(one.estimate.seeds) if one.estimate else "0",
            one.says,
        )
        for one in studies.findings(records)
    ]


def _value(estimate: Estimate | None) -> str:
    """Three digits and the interval; without one where a single seed has the quantity."""
    if estimate is None:
        return "undefined"
    interval = f" [{estimate.low:.3g}, {estimate.high:.3g}]"
    return f"{estimate.value:.3g}" + ("" if math.isnan(estimate.low) else interval)


def _seeds(cell: Cell) -> str:
    """How many seeds gave numbers, and what became of the others."""
    return ", ".join([str(cell.seeds), *(f"{len(one.seeds)} {one.status}" for one in cell.failures)])


def _who(cell: Cell) -> tuple[str, str, str]:
    n, task = cell.condition.get("n"), cell.condition.get("task")
    unusual = [f"n {n}" if n not in (None, MICRO.n) else "", task if task not in (None, MICRO.task) else ""]
    attack = " ".join(part for part in (attack_name(cell), *unusual) if part)
    return _arm(cell.method, cell.arm), attack, "" if cell.ratio is None else f"{cell.ratio:g}"


def _arm(name: str, arm: str) -> str:
    return name if arm == "main" else f"{name} ({arm})"


def attack_name(cell: Cell) -> str:
    """The attack in a word: the declared condition, else strength, dose and mode, else the paper it is of."""
    attack = cell.attack
    if "strength" not in attack:
        return str(attack.get("paper", ""))
    dose, mode = attack.get("dose", 1), str(cell.condition.get("mode"))
    parts = [str(attack["strength"]), f"{dose:g} × steps" if dose != 1 else "", mode if mode != "full" else ""]
    return " ".join(part for part in parts if part)


def _values(cell: Cell) -> Sequence[str]:
    return [_percent(cell.metrics.get(metric)) for metric in SHOWN]


def _percent(estimate: Estimate | Worst | None) -> str:
    if estimate is None:
        return "–"
    return f"{100 * estimate.value:.0f} [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


def _points(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    value, low, high = (f"{100 * part:+.0f}" for part in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"
