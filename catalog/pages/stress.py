"""The main arm of a paper over the pre-declared conditions: its worst case, its controls, more steps."""

from dataclasses import dataclass
from pathlib import Path

from catalog.atlas import Atlas
from catalog.conditions import DECLARED, DEFAULT, condition_of
from catalog.measured import Cell
from catalog.pages import pictures, sheets, words
from catalog.pages.pictures import Picture
from catalog.pages.sheets import Block, Line
from catalog.standings import Standing

Parts = tuple[str, str, str]


@dataclass(frozen=True)
class Worst:
    """The worst case in print: harmful score, accuracy and where, least gain and where, and what is missing."""

    harmful: Parts | None
    accuracy: Parts | None
    where: str
    gain: Parts | None
    gain_where: str
    count: str
    note: str


@dataclass(frozen=True)
class Control:
    """A verdict against a control in print."""

    says: str
    where: str
    harmful: Parts
    accuracy: Parts | None


@dataclass(frozen=True)
class Stress:
    """All declared conditions of one paper, for one task and size of data."""

    title: str
    worst: Worst
    blocks: list[Block]
    controls: list[Control]
    picture: Picture | None


def stresses(atlas: Atlas, paper: str, figures: Path) -> list[Stress]:
    """The declared conditions a defense was run under; empty for what is no defense."""
    return [
        Stress(
            title=f"{standing.cell.condition['protocol']}, task {standing.cell.condition['task']}",
            worst=worst(standing),
            blocks=[Block("By condition", [_line(atlas, standing, name) for name in DECLARED])],
            controls=controls(standing),
            picture=pictures.steps(atlas, _longer(standing), figures, _stem(paper, standing.cell)),
        )
        for standing in atlas.standings
        if standing.cell.paper == paper
    ]


def worst(standing: Standing) -> Worst:
    """A standing's worst case in print."""
    where, least = standing.worst, standing.worst_gain
    found = standing.cells[where].metrics if where else {}
    parts = [f"not run: {', '.join(standing.missing)}"] if standing.missing else []
    parts += [f"{name} {why}" for name, why in standing.without_numbers.items()]
    return Worst(
        harmful=words.percent(found["harmful"]) if found else None,
        accuracy=words.percent(found["accuracy"]) if "accuracy" in found else None,
        where=where or "",
        gain=words.points(standing.cells[least].versus_sft["harmful"]) if least else None,
        gain_where=least or "",
        count=f"{len(standing.measured)} of {len(DECLARED)} conditions",
        note="; ".join(parts),
    )


def controls(standing: Standing) -> list[Control]:
    """A standing's verdicts against its controls in print."""
    return [
        Control(
            says=verdict.says,
            where=verdict.condition,
            harmful=words.points(verdict.harmful),
            accuracy=words.points(verdict.accuracy) if verdict.accuracy else None,
        )
        for verdict in standing.controls
    ]


def _line(atlas: Atlas, standing: Standing, name: str) -> Line:
    mark = " (worst)" if name == standing.worst else ""
    if name not in standing.cells:
        return Line(name, words.condition(name), {}, own=False)
    made = sheets.line(atlas, standing.cells[name], own=name == standing.worst, who=name + mark)
    return Line(made.who, words.condition(name), made.metrics, made.versus_sft, made.failures, made.own, made.cost)


def _longer(standing: Standing) -> list[Cell]:
    """The cells that differ from the default condition in the number of steps only."""
    usual = DECLARED[DEFAULT]
    return [
        cell
        for name, cell in standing.cells.items()
        if (DECLARED[name].mode, DECLARED[name].ratio) == (usual.mode, usual.ratio)
        and DECLARED[name].attack["strength"] == usual.attack["strength"]
    ]


def _stem(paper: str, cell: Cell) -> str:
    kept = [str(cell.condition[name]) for name in ("testbed", "protocol", "task", "n")]
    return words.slug(f"{paper}-{'-'.join(kept)}-{words.settings(cell.settings)[:60]}-steps")


def headline(cell: Cell, standing: Standing | None) -> Worst | None:
    """The worst case to show beside a cell of the default condition."""
    return worst(standing) if standing and condition_of(cell.condition) == DEFAULT else None
