"""Records of studies (mechanisms, benchmarks) to findings and figures over seeds."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from catalog.measured import Failure, Record, canonical, condition, failures, fine, newest
from catalog.meta import effects
from catalog.meta.effects import Estimate


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A named quantity of a study: mean and t interval over the seeds in which it is defined, if any."""

    paper: str
    arm: str
    condition: dict[str, Any]
    name: str
    unit: str
    says: str
    estimate: Estimate | None


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A named figure of a study: each series averaged over the seeds that share its x values."""

    paper: str
    arm: str
    condition: dict[str, Any]
    name: str
    x: list[float]
    y: dict[str, list[float]]
    x_label: str
    y_label: str
    seeds: int


def findings(records: Iterable[Record]) -> list[Finding]:
    """Average the findings of study records over seeds, sorted by paper, arm and name."""
    return [
        Finding(
            paper=spec["paper"],
            arm=spec["arm"],
            condition=condition(spec),
            name=name,
            unit=group[0]["findings"][name]["unit"],
            says=group[0]["findings"][name]["says"],
            estimate=_over_seeds([record["findings"][name]["value"] for record in group]),
        )
        for spec, name, group in _study_parts(records, "findings")
    ]


def figures(records: Iterable[Record]) -> list[Figure]:
    """Average the figures of study records over the seeds that used the x values of the first."""
    found = []
    for spec, name, group in _study_parts(records, "figures"):
        first = group[0]["figures"][name]
        alike = [record["figures"][name] for record in group if record["figures"][name]["x"] == first["x"]]
        series = {
            line: [sum(column) / len(alike) for column in zip(*(one["y"][line] for one in alike), strict=True)]
            for line in first["y"]
        }
        found.append(
            Figure(
                paper=spec["paper"],
                arm=spec["arm"],
                condition=condition(spec),
                name=name,
                x=first["x"],
                y=series,
                x_label=first["x_label"],
                y_label=first["y_label"],
                seeds=len(alike),
            )
        )
    return found


def failed(records: Iterable[Record]) -> dict[str, tuple[Failure, ...]]:
    """Studies that gave no findings, by paper."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in _newest(records):
        groups[record["spec"]["paper"]].append(record)
    return {paper: failed for paper, group in groups.items() if (failed := failures(group))}


def _over_seeds(values: list[float | None]) -> Estimate | None:
    defined = [value for value in values if value is not None]
    return effects.over_seeds(defined) if defined else None


def _study_parts(records: Iterable[Record], part: str) -> list[tuple[Mapping[str, Any], str, tuple[Record, ...]]]:
    """Spec, name and records of each finding or figure that any fine study record holds."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in _newest(records):
        spec = record["spec"]
        groups[canonical([spec["paper"], spec["arm"], spec["study"], condition(spec)])].append(record)
    parts = []
    for key in sorted(groups):
        good = fine(groups[key])
        for name in sorted({name for record in good for name in record.get(part) or {}}):
            having = tuple(record for record in good if name in (record.get(part) or {}))
            parts.append((having[0]["spec"], name, having))
    return parts


def _newest(records: Iterable[Record]) -> list[Record]:
    return [record for record in newest(records) if record["spec"]["kind"] == "study"]
