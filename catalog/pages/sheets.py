"""Measured numbers of one paper, laid out: one sheet per condition, blocks by dose, one line per arm."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from catalog import contrasts, costs
from catalog.atlas import BASELINES, Atlas
from catalog.conditions import DEFAULT, condition_of
from catalog.measured import Cell, Failure, canonical
from catalog.meta.effects import Estimate
from catalog.pages import pictures, words
from catalog.pages.pictures import Picture
from catalog.standings import Standing

HEADLINE_RATIO = 0.1


@dataclass(frozen=True)
class Line:
    """One arm in a table: its numbers, or why it has none."""

    who: str
    settings: str
    metrics: dict[str, Estimate]
    versus_sft: dict[str, Estimate] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    own: bool = True
    cost: dict[str, Estimate] = field(default_factory=dict)
    standing: Standing | None = None


@dataclass(frozen=True)
class Block:
    """Lines under one dose of the attack."""

    title: str
    lines: list[Line]


@dataclass(frozen=True)
class Mechanism:
    """Mechanism statistics at the headline ratio: a column for each arm, and the main arm minus SFT where both ran."""

    dose: str
    heads: list[str]
    rows: list[tuple[str, list[Estimate | None]]]
    pictures: list[Picture]


@dataclass(frozen=True)
class Sheet:
    """Everything measured for a paper under one testbed, attack, mode and task."""

    title: str
    testbed: str
    protocol: str
    picture: Picture | None
    blocks: list[Block]
    mechanism: Mechanism | None


def sheets(atlas: Atlas, paper: str, figures: Path) -> list[Sheet]:
    """Lay out all cells of a paper beside SFT and the aligned model, and draw their charts."""
    groups: dict[str, list[Cell]] = {}
    for cell in atlas.of(paper):
        if not cell.swept and not (cell.borrowed and cell.method == paper):
            groups.setdefault(_setting(cell), []).append(cell)
    groups = {setting: group for setting, group in groups.items() if not _told_elsewhere(group)}
    ordered = sorted(groups.values(), key=lambda group: (-len(group), words.scenario(group[0])))
    return [_sheet(atlas, paper, group, figures) for group in ordered]


def line(atlas: Atlas, cell: Cell, *, own: bool = True, who: str = "", standing: Standing | None = None) -> Line:
    """A cell as a line of a table."""
    name, settings = who or atlas.who(cell), words.settings(cell.settings)
    cost = costs.ratios(cell)
    return Line(name, settings, cell.metrics, cell.versus_sft, cell.failures, own, cost, standing)


def _told_elsewhere(group: list[Cell]) -> bool:
    """Only the main arm under declared conditions other than the default one: the table of conditions has it all."""
    return all(cell.arm == "main" and condition_of(cell.condition) not in (None, DEFAULT) for cell in group)


def _sheet(atlas: Atlas, paper: str, group: list[Cell], figures: Path) -> Sheet:
    conditions = {canonical(cell.condition) for cell in group}
    baselines = [cell for cell in atlas.cells if cell.method in BASELINES and cell.paper != paper]
    references = [cell for cell in baselines if canonical(cell.condition) in conditions]
    cells = [*references, *group]
    title, condition = words.scenario(group[0]), group[0].condition
    stem = words.slug(f"{paper}-{condition['testbed']}-{condition['protocol']}-{title}")
    return Sheet(
        title=title,
        testbed=condition["testbed"],
        protocol=condition["protocol"],
        picture=pictures.over_ratio(atlas, cells, figures, stem),
        blocks=[*_before(atlas, references, group), *_doses(atlas, paper, cells)],
        mechanism=_mechanism(atlas, cells, figures, f"{stem}-mechanism"),
    )


def _setting(cell: Cell) -> str:
    """What all lines of a sheet share; the harmful share, and everything of a paper's own attack, vary."""
    dropped = {"ratio", "attack", "n"} if cell.attack.get("paper") == cell.paper else {"ratio"}
    return canonical({key: value for key, value in cell.condition.items() if key not in dropped})


def _doses(atlas: Atlas, paper: str, cells: list[Cell]) -> list[Block]:
    blocks: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: (cell.ratio is None, cell.ratio or 0)):
        blocks.setdefault(words.dose(cell), []).append(cell)
    return [
        Block(title, [line(atlas, cell, own=paper in (cell.paper, cell.method)) for cell in sorted(block, key=_order)])
        for title, block in blocks.items()
    ]


def _order(cell: Cell) -> tuple[bool, bool, bool, str, str]:
    """References first (SFT, then never aligned), the main arm, then controls by name."""
    baseline = cell.method in BASELINES
    return not baseline, cell.method != "sft", cell.arm != "main", cell.arm, canonical(cell.settings)


def _before(atlas: Atlas, references: list[Cell], group: list[Cell]) -> list[Block]:
    """The models right before fine-tuning; an arm's own only where it differs from those above it.

    An attack asks in its own form, so the same aligned model can answer its arms differently.
    """
    fullest: dict[tuple[str, str], Cell] = {}
    for cell in sorted((*references, *group), key=_order):
        name = atlas.who(cell).replace(atlas.name("sft"), "Aligned").replace("SFT ·", "Aligned ·")
        known = fullest.get((name, words.settings(cell.settings)))
        if cell.before and cell.method != "non-aligned" and (known is None or cell.seeds > known.seeds):
            fullest[name, words.settings(cell.settings)] = cell
    lines: list[Line] = []
    for (name, settings), cell in fullest.items():
        if cell.before not in [line.metrics for line in lines]:
            lines.append(Line(name, settings, cell.before, own=cell.method != "sft"))
    plain = [line for line in lines if not line.own]
    if len(plain) == 1:
        lines[lines.index(plain[0])] = replace(plain[0], who="Aligned")
    return [Block("Before fine-tuning", lines)] if lines else []


def _mechanism(atlas: Atlas, cells: list[Cell], figures: Path, stem: str) -> Mechanism | None:
    shown = [cell for cell in cells if cell.mechanisms and cell.ratio in (HEADLINE_RATIO, None)]
    if not shown:
        return None
    shown.sort(key=_order)
    names = list(dict.fromkeys(name for cell in shown for name in cell.mechanisms if name != "learning_rate"))
    columns = [(atlas.who(cell), cell.mechanisms) for cell in shown]
    main = [cell for cell in shown if cell.arm == "main" or cell.method == "sft"]
    compared = next((cell for cell in shown if cell.arm == "main" and cell.twin and cell.method not in BASELINES), None)
    if compared:
        place = shown.index(compared) + 1
        columns.insert(place, (f"{atlas.who(compared)} minus SFT", contrasts.mechanisms(compared)))
    drawn = [pictures.curves(atlas, main, figures, stem), pictures.prefixes(atlas, main, figures, f"{stem}-prefix")]
    return Mechanism(
        dose=words.dose(shown[0]),
        heads=[who for who, _ in columns],
        rows=[(name.replace("_", " "), [values.get(name) for _, values in columns]) for name in names],
        pictures=[picture for picture in drawn if picture],
    )


def columns(lines: Iterable[Line]) -> list[str]:
    """The metrics any of the lines has, in reading order."""
    have = {name for one in lines for name in one.metrics}
    return [name for name in words.METRICS if name in have]


def costed(lines: Iterable[Line]) -> list[str]:
    """The kinds of cost any of the lines has."""
    have = {kind for one in lines for kind in one.cost}
    return [kind for kind in words.COSTS if kind in have]
