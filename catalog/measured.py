"""Run records to measured numbers: seeds become one value with its interval here and nowhere else.

A cell is everything that was measured under one condition with one arm: all its seeds. Records stay
what they are; nothing computed here is ever written back to them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from catalog.meta import effects
from catalog.meta.effects import Estimate, Replicate

if TYPE_CHECKING:
    import pandas as pd

Record = Mapping[str, Any]

METRICS = ("harmful", "accuracy", "harmful_plus", "refusal", "over_refusal", "benign_help", "coherent")
IDENTITY = ("kind", "paper", "arm", "version", "method", "method_arm", "method_version", "study", "seed")
"""Fields of a spec that say who was run; all others together are the condition it was run under."""


@dataclass(frozen=True)
class Failure:
    """Seeds that gave no numbers, and why."""

    status: str
    reason: str
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One arm under one condition, over its seeds; proportions are 0–1.

    `method_arm` is the arm of a defense under another paper's attack, whose arm `arm` then is.
    `twin` is SFT under the same condition and `versus_sft` pairs each metric with it; None and empty for SFT itself
    and where no twin was run.
    """

    paper: str
    arm: str
    method_arm: str
    version: int
    method: str
    settings: dict[str, Any]
    condition: dict[str, Any]
    runs: tuple[Record, ...] = field(repr=False)
    failures: tuple[Failure, ...]
    metrics: dict[str, Estimate]
    before: dict[str, Estimate]
    mechanisms: dict[str, Estimate]
    versus_sft: dict[str, Estimate] = field(default_factory=dict)
    twin: Cell | None = field(default=None, repr=False)

    @property
    def attack(self) -> dict[str, Any]:
        return dict(self.condition.get("attack") or {})

    @property
    def ratio(self) -> float | None:
        ratio = self.condition.get("ratio")
        return None if ratio is None else float(ratio)

    @property
    def seeds(self) -> int:
        return len(self.runs)

    @property
    def combined(self) -> list[str]:
        """Slugs of the defenses deployed together; empty for a single one."""
        return self.method.split("+") if "+" in self.method else []

    @property
    def swept(self) -> tuple[str, float] | None:
        """Knob and value of an arm of a sweep (`rho=5`)."""
        knob, mark, value = self.arm.partition("=")
        return (knob, float(value)) if mark else None

    @property
    def borrowed(self) -> bool:
        """Is this a defense under the own attack of another paper, whose record it is?"""
        return self.paper != self.method and self.method not in ("sft", "non-aligned")

    @property
    def steps(self) -> int | None:
        """Fine-tuning steps, from the recorded curves; None when none was recorded."""
        last = {run["curves"]["step"][-1] for run in self.runs if run.get("curves", {}).get("step")}
        return int(last.pop()) if len(last) == 1 else None

    def outcomes(self, name: str) -> dict[Replicate, str]:
        """Outcome string of each replicate that has this metric."""
        return {replicate(run): run["metrics"][name]["outcomes"] for run in self.runs if name in run["metrics"]}


def cells(records: Iterable[Record]) -> list[Cell]:
    """Group run records into cells with intervals, each paired with its SFT twin where one exists.

    Only the newest version of a paper's module counts. Of records that repeat a run on the same base the first stands;
    on another base it is a replicate of its own. Sorted by paper, arm and condition.
    """
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in newest(records):
        spec = record["spec"]
        if spec["kind"] != "run":
            continue
        who = [spec[name] for name in ("paper", "arm", "version", "method")] + [spec.get("method_arm")]
        groups[canonical([*who, condition(spec)])].append(record)
    found = [_cell(groups[key]) for key in sorted(groups)]
    twins = {canonical(cell.condition): cell for cell in reversed(found) if cell.method == "sft"}
    return [_paired(cell, twins.get(canonical(cell.condition))) for cell in found]


def frame(found: Iterable[Cell]) -> pd.DataFrame:
    """Lay cells out as a tidy table, one row per cell.

    Columns: who (paper, arm, version, method, settings), the fields of the condition (attack and strength
    or level apart), and for each metric its value, _low, _high, _prompts, and _vs_sft with its bounds.
    """
    import pandas as pd

    return pd.DataFrame([_row(cell) for cell in found])


def condition(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was done under, without who was run: twins agree in it."""
    return {key: spec[key] for key in sorted(spec) if key not in IDENTITY}


def curve(cell: Cell, name: str) -> tuple[list[float], list[float]]:
    """Steps and mean over seeds of one recorded curve; empty when no run has it."""
    curves = [run["curves"] for run in cell.runs if name in run.get("curves", {})]
    alike = [one for one in curves if one["step"] == curves[0]["step"]]
    if not alike:
        return [], []
    columns = zip(*(one[name] for one in alike), strict=True)
    return list(alike[0]["step"]), [sum(column) / len(alike) for column in columns]


def canonical(value: Any) -> str:
    """JSON with sorted keys: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def replicate(record: Record) -> Replicate:
    """The base model of a record's run."""
    return Replicate(record["spec"]["seed"], record["digests"].get("base", ""))


def newest(records: Iterable[Record]) -> list[Record]:
    """Drop superseded records and repeats of a key on the same base.

    A record is superseded once its paper has one of a higher version on the same testbed and protocol, whatever the
    arm; a defense under another paper's attack also once either of the two has.
    """
    first: dict[tuple[str, Replicate], Record] = {}
    for record in sorted(records, key=lambda record: (record["made"], record["key"])):
        first.setdefault((record["key"], replicate(record)), record)
    latest: dict[tuple[str, ...], int] = defaultdict(int)
    for record in first.values():
        for owner, version in _versions(record).items():
            latest[owner] = max(latest[owner], version)
    return [r for r in first.values() if all(version == latest[owner] for owner, version in _versions(r).items())]


def _versions(record: Record) -> dict[tuple[str, ...], int]:
    """Version of the paper whose record it is, and of a defense under its attack."""
    spec = record["spec"]
    found = {spec["paper"]: spec["version"]}
    if "method_version" in spec:
        found[spec["method"]["paper"]] = spec["method_version"]
    return {(spec["testbed"], spec["protocol"], paper): version for paper, version in found.items()}


def _cell(group: list[Record]) -> Cell:
    spec = group[0]["spec"]
    runs = fine(group)
    return Cell(
        paper=spec["paper"],
        arm=spec["arm"],
        method_arm=spec.get("method_arm", "main"),
        version=spec["version"],
        method=spec["method"]["paper"],
        settings={key: value for key, value in spec["method"].items() if key != "paper"},
        condition=condition(spec),
        runs=runs,
        failures=failures(group),
        metrics={
            name: effects.arm({replicate(run): run["metrics"][name]["outcomes"] for run in runs})
            for name in METRICS
            if runs and all(name in run["metrics"] for run in runs)
        },
        before=_before(runs),
        mechanisms={
            name: effects.over_seeds([run["mechanisms"][name] for run in runs])
            for name in (runs[0]["mechanisms"] if runs else {})
            if all(run["mechanisms"].get(name) is not None for run in runs)
        },
    )


def fine(group: Iterable[Record]) -> tuple[Record, ...]:
    fine = (record for record in group if record["status"] == "ok")
    return tuple(sorted(fine, key=replicate))


def failures(group: Iterable[Record]) -> tuple[Failure, ...]:
    seeds: dict[tuple[str, str], list[int]] = defaultdict(list)
    for record in group:
        if record["status"] != "ok":
            reason = record["reason"] or "no reason recorded"
            seeds[record["status"], reason].append(record["spec"]["seed"])
    return tuple(Failure(*why, tuple(sorted(which))) for why, which in sorted(seeds.items()))


def _before(runs: Sequence[Record]) -> dict[str, Estimate]:
    found = {}
    for name in METRICS:
        counted = [run["before"][name] for run in runs if name in run["before"]]
        if counted and len({count["n"] for count in counted}) == 1:
            found[name] = effects.counts([count["k"] for count in counted], counted[0]["n"])
    return found


def _paired(cell: Cell, twin: Cell | None) -> Cell:
    if twin is None or twin is cell or cell.method == "sft":
        return cell
    gaps = {
        name: effects.difference(cell.outcomes(name), twin.outcomes(name))
        for name in METRICS
        if cell.outcomes(name).keys() & twin.outcomes(name).keys()
    }
    return replace(cell, versus_sft=gaps, twin=twin)


def _row(cell: Cell) -> dict[str, Any]:
    attack = cell.attack
    row: dict[str, Any] = {
        "paper": cell.paper,
        "arm": cell.arm,
        "version": cell.version,
        "method": cell.method,
    }
    row |= {"settings": canonical(cell.settings), **cell.condition, "attack": attack.get("paper")}
    row |= {"level": attack.get("strength", attack.get("level")), "seeds": cell.seeds}
    row["failed"] = sum(len(failure.seeds) for failure in cell.failures)
    for name, estimate in cell.metrics.items():
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        row[f"{name}_prompts"] = estimate.prompts
    for name, gap in cell.versus_sft.items():
        row |= {f"{name}_vs_sft": gap.value, f"{name}_vs_sft_low": gap.low, f"{name}_vs_sft_high": gap.high}
    return row
