"""The knob of a paper at several values, and all its arms between harmful score and accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from catalog import charts
from catalog.atlas import Atlas
from catalog.measured import Cell, canonical
from catalog.pages import pictures, sheets, words
from catalog.pages.pictures import Picture
from catalog.pages.sheets import HEADLINE_RATIO, Block

SFT, SWEPT, DEFAULT = "SFT", "other value", "default value"
BOTH = {"harmful", "accuracy"}


@dataclass(frozen=True)
class Sweep:
    """One knob under one condition: a chart and a line for each value."""

    knob: str
    title: str
    picture: Picture | None
    blocks: list[Block]


def sweeps(atlas: Atlas, paper: str, figures: Path) -> list[Sweep]:
    """Every knob that was swept, in every condition; the default value is the main arm."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in atlas.of(paper):
        if cell.swept and not cell.borrowed:
            groups.setdefault((cell.swept[0], canonical(cell.condition)), []).append(cell)
    return [_sweep(atlas, paper, knob, group, figures) for (knob, _), group in groups.items()]


def _sweep(atlas: Atlas, paper: str, knob: str, group: list[Cell], figures: Path) -> Sweep:
    condition = group[0].condition
    main = [cell for cell in atlas.of(paper) if cell.arm == "main" and cell.condition == condition]
    at = {value: cell for cell in main if (value := cell.settings.get(knob)) is not None}
    at |= {cell.swept[1]: cell for cell in group if cell.swept}
    cells = [at[value] for value in sorted(at)]
    sft = next((cell.twin for cell in cells if cell.twin), None)
    title = f"{words.scenario(group[0])}, {words.dose(group[0])}"
    stem = words.slug(f"{paper}-{condition['testbed']}-{condition['protocol']}-{knob}-{title}")
    lines = [sheets.line(atlas, cell, own=cell.arm == "main", who=_label(knob, cell)) for cell in cells]
    reference = [sheets.line(atlas, sft, own=False)] if sft else []
    return Sweep(
        knob=knob,
        title=title,
        picture=_picture(knob, title, cells, sft, figures, stem),
        blocks=[Block(f"Values of {knob}", [*reference, *lines])],
    )


def _label(knob: str, cell: Cell) -> str:
    return f"{knob} = {_value(knob, cell):g}{' (default)' if cell.arm == 'main' else ''}"


def _value(knob: str, cell: Cell) -> float:
    return cell.swept[1] if cell.swept else float(cell.settings[knob])


def _picture(
    knob: str, title: str, cells: Sequence[Cell], sft: Cell | None, figures: Path, stem: str
) -> Picture | None:
    full = [cell for cell in cells if cell.metrics.keys() >= BOTH]
    if len(full) < 2 or sft is None or not sft.metrics.keys() >= BOTH:
        return None
    rows = [
        {**pictures.row(DEFAULT if cell.arm == "main" else SWEPT, "", cell), "value": f"{_value(knob, cell):g}"}
        for cell in full
    ]
    reference = pictures.row(SFT, "", sft)
    spoken = [f"{r['harmful']:.0f} % harmful and {r['accuracy']:.0f} % accurate at {r['value']}" for r in rows]
    alternative = f"{knob}, {title}: {'; '.join(spoken)}; SFT {reference['harmful']:.0f} % harmful."
    caption = f"{title}. Values of {knob}, evenly spaced; bars and the band of SFT are 95 % intervals."
    drawing = charts.sweep(rows, reference, knob.replace("_", " "))
    return pictures.draw(drawing, figures, Picture(stem, alternative, caption))


def frontiers(atlas: Atlas, paper: str, figures: Path) -> list[Picture]:
    """All arms of a paper between harmful score and accuracy, in each condition in which an arm beside main was run."""
    groups: dict[str, list[Cell]] = {}
    for cell in atlas.of(paper):
        if cell.ratio == HEADLINE_RATIO and not cell.borrowed and cell.attack.get("paper") == "poison":
            groups.setdefault(canonical(cell.condition), []).append(cell)
    drawn = [_frontier(atlas, paper, group, figures) for group in groups.values()]
    return [picture for picture in drawn if picture]


def _frontier(atlas: Atlas, paper: str, group: list[Cell], figures: Path) -> Picture | None:
    full = [cell for cell in group if cell.metrics.keys() >= BOTH]
    arms = sorted((cell for cell in full if not cell.swept), key=lambda cell: (cell.arm != "main", cell.arm))
    if len(arms) < 2:
        return None
    sft = next((cell.twin for cell in arms if cell.twin and cell.twin.metrics.keys() >= BOTH), None)
    rows = [pictures.row(SFT, SFT, sft)] if sft else []
    rows += [pictures.row(cell.arm, cell.arm, cell) for cell in arms]
    swept = sorted((cell for cell in full if cell.swept), key=lambda cell: cell.swept or ("", 0.0))
    rows += [pictures.row(cell.arm, f"other {(cell.swept or ('',))[0]}", cell) for cell in swept]
    under = f"{words.scenario(arms[0])}, {words.dose(arms[0])}"
    condition = arms[0].condition
    stem = words.slug(f"{paper}-{condition['testbed']}-{condition['protocol']}-arms-{under}")
    told = pictures.trade(rows, stem, f"Arms of {atlas.name(paper)}: {under}")
    return pictures.draw(charts.trade(rows), figures, told)
