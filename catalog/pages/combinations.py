"""Defenses deployed together: each combination beside its parts and beside no defense."""

from dataclasses import dataclass
from pathlib import Path

from catalog import charts, contrasts
from catalog.atlas import Atlas
from catalog.conditions import DEFAULT, condition_of
from catalog.measured import Cell
from catalog.pages import boards, pictures, sheets, stress, words
from catalog.pages.pictures import Picture
from catalog.pages.sheets import Block
from catalog.pages.stress import Worst

Parts = tuple[str, str, str]


@dataclass(frozen=True)
class Gain:
    """A combination minus one of its parts under one condition."""

    where: str
    part: str
    harmful: Parts
    accuracy: Parts | None
    says: str


@dataclass(frozen=True)
class Together:
    """One combination: a table for the conditions it was run under, and what it adds to each part."""

    title: str
    links: dict[str, str]
    blocks: list[Block]
    gains: list[Gain]
    worst: list[Worst]
    folders: list[str]


@dataclass(frozen=True)
class Combinations:
    """The page: all combinations, and one picture of them and their parts under the default condition."""

    all: list[Together]
    pictures: list[Picture]


def combinations(atlas: Atlas, figures: Path) -> Combinations:
    """All combinations that were run, by name."""
    names = sorted({cell.method for cell in atlas.cells if cell.combined and not cell.borrowed})
    return Combinations([_together(atlas, name) for name in names], _pictures(atlas, names, figures))


def _together(atlas: Atlas, name: str) -> Together:
    own = [cell for cell in atlas.cells if (cell.method, cell.arm) == (name, "main") and not cell.borrowed]
    blocks, gains = [], []
    for cell in own:
        parts = _parts(atlas, cell)
        compared = [*([cell.twin] if cell.twin else []), *parts, cell]
        where = f"{words.scenario(cell)}, {words.dose(cell)}"
        blocks.append(Block(where, [sheets.line(atlas, one, own=one is cell) for one in compared]))
        gains += [gain for part in parts if (gain := _gain(atlas, cell, part))]
    standings = [standing for standing in atlas.standings if standing.cell.method == name]
    return Together(
        title=atlas.name(name),
        links={atlas.name(part): part for part in name.split("+") if part in atlas.papers},
        blocks=blocks,
        gains=gains,
        worst=[stress.worst(standing) for standing in standings],
        folders=boards.folders(own),
    )


def _parts(atlas: Atlas, cell: Cell) -> list[Cell]:
    """The main arm of each part under the same condition."""
    alike = [one for one in atlas.cells if one.condition == cell.condition and one.arm == "main" and not one.borrowed]
    return [one for part in cell.combined for one in alike if one.method == part]


def _gain(atlas: Atlas, cell: Cell, part: Cell) -> Gain | None:
    harmful, accuracy = (contrasts.paired(cell, part, name) for name in ("harmful", "accuracy"))
    if harmful is None:
        return None
    says = (
        "lower harmful score"
        if harmful.high < 0
        else "higher harmful score"
        if harmful.low > 0
        else "no difference shown"
    )
    return Gain(
        where=condition_of(cell.condition) or f"{words.scenario(cell)}, {words.dose(cell)}",
        part=atlas.name(part.method),
        harmful=words.points(harmful),
        accuracy=words.points(accuracy) if accuracy else None,
        says=says,
    )


def _pictures(atlas: Atlas, names: list[str], figures: Path) -> list[Picture]:
    """Combinations, their parts and SFT between harmful score and accuracy under the default condition."""
    groups: dict[str, list[Cell]] = {}
    for standing in atlas.standings:
        if standing.cell.method in names and condition_of(standing.cell.condition) == DEFAULT:
            groups.setdefault(standing.line, []).append(standing.cell)
    drawn = []
    for cells in groups.values():
        everything = [one for cell in cells for one in (cell.twin, *_parts(atlas, cell), cell) if one]
        shown = {atlas.who(one): one for one in everything if {"harmful", "accuracy"} <= one.metrics.keys()}
        rows = [pictures.row(who, who, one) for who, one in shown.items()]
        if rows:
            under = f"{words.scenario(cells[0])}, {words.dose(cells[0])}"
            stem = words.slug(f"combinations-{cells[0].condition['protocol']}-{under}")
            drawn.append(pictures.draw(charts.trade(rows), figures, pictures.trade(rows, stem, under)))
    return drawn
