"""Leaderboards and the headline number of each paper."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from catalog import charts
from catalog.atlas import Atlas
from catalog.conditions import DECLARED, DEFAULT, condition_of
from catalog.measured import Cell, canonical
from catalog.pages import pictures, sheets, words
from catalog.pages.pictures import Picture
from catalog.pages.sheets import HEADLINE_RATIO, Block, Line

REFERENCE, COMBINED = "reference", "combination"
USUAL_TASK = "sentiment"
ORDER = (REFERENCE, *words.STAGES, COMBINED)
MODE_ORDER = ("full", "double-lora", "single-lora")


@dataclass(frozen=True)
class Board:
    """All defenses under one condition at the headline ratio, grouped by stage, then by name."""

    title: str
    testbed: str
    protocol: str
    blocks: list[Block]
    links: dict[str, str]
    ladder: Picture
    trade: Picture
    folders: list[str]


def boards(atlas: Atlas, figures: Path) -> list[Board]:
    """A board for every condition with at least one defense: the declared ones in order, then the fullest first."""
    groups: dict[str, list[Cell]] = defaultdict(list)
    for cell in atlas.cells:
        poisoned = cell.attack.get("paper") == "poison" and cell.ratio == HEADLINE_RATIO
        if poisoned and cell.arm == "main" and not cell.combined:
            groups[canonical(cell.condition)].append(cell)
    found = [group for group in groups.values() if any(stage(atlas, cell) != REFERENCE for cell in group)]
    found.sort(key=lambda group: (_place(group[0]), -len(group), words.scenario(group[0])))
    return [_board(atlas, group, figures) for group in found]


def _place(cell: Cell) -> int:
    """Of the condition among the declared ones, the default first; all others after them."""
    name = condition_of(cell.condition)
    return list(DECLARED).index(name) if name else len(DECLARED)


def ladder_rows(atlas: Atlas, cells: list[Cell]) -> list[charts.Row]:
    """Rows of a ladder chart in the order of the board; arms without numbers are left to the table."""
    full = [cell for cell in cells if {"harmful", "accuracy"} <= cell.metrics.keys()]
    return [pictures.row(atlas.who(cell), stage(atlas, cell), cell) | _worst(atlas, cell) for cell in full]


def _worst(atlas: Atlas, cell: Cell) -> dict[str, str | float]:
    """The highest harmful score over the declared conditions, beside a cell of the default one."""
    standing = atlas.standing(cell) if condition_of(cell.condition) == DEFAULT else None
    if standing is None or standing.worst is None:
        return {}
    found = standing.cells[standing.worst].metrics["harmful"]
    return {"worst": 100 * found.value, "under": standing.worst}


def arranged(atlas: Atlas, cells: list[Cell]) -> list[Cell]:
    """References first, then by stage and name: never by result or by date."""
    return sorted(
        cells,
        key=lambda cell: (
            ORDER.index(stage(atlas, cell)),
            cell.method != "sft",
            atlas.who(cell).casefold(),
            canonical(cell.settings),
        ),
    )


def stage(atlas: Atlas, cell: Cell) -> str:
    """The stage a cell's defense works at, `combination` for several defenses, or `reference`."""
    if cell.combined:
        return COMBINED
    paper = atlas.papers.get(cell.method)
    return (paper.stage if paper else None) or REFERENCE


def headline(atlas: Atlas) -> list[Cell]:
    """The cells of the home page's chart: graded attack at the headline ratio, in the condition run most."""
    graded = [cell for cell in atlas.cells if _graded(cell) and cell.arm == "main" and cell.metrics]
    size = Counter(canonical(cell.condition) for cell in graded)
    if not size:
        return []
    most = max(size, key=lambda condition: (size[condition], condition))
    return arranged(atlas, [cell for cell in graded if canonical(cell.condition) == most])


def headline_picture(atlas: Atlas, cells: list[Cell]) -> Picture:
    """Names and describes the chart of the headline cells."""
    under = f"{words.scenario(cells[0])}, {words.dose(cells[0])}"
    return pictures.ladder(ladder_rows(atlas, cells), "headline", under)


def standing(atlas: Atlas, paper: str) -> list[Cell]:
    """The cells that stand for a paper in lists: a defense under the graded attack, or an attack's own arms.

    Of an attack the variants of an arm (`explicit-10` beside `explicit`) are left to its page.
    """
    own = [cell for cell in atlas.of(paper) if cell.metrics]
    attacks = [cell for cell in own if cell.attack.get("paper") == paper and cell.method == "sft"]
    if attacks:
        arms = {cell.arm for cell in attacks}
        kinds = [cell for cell in attacks if not any(cell.arm.startswith(f"{arm}-") for arm in arms)]
        return sorted(kinds, key=lambda cell: (cell.arm != "main", cell.arm))
    graded = [cell for cell in own if _graded(cell) and cell.arm == "main"]
    return sorted(graded, key=_usual)[:1]


def aside(cell: Cell) -> str:
    """How a cell that stands for a paper departs from the usual condition; empty when it does not."""
    mode, task = str(cell.condition.get("mode")), cell.condition.get("task")
    parts = [cell.arm] if cell.arm != "main" else []
    parts += [words.MODES.get(mode, mode)] if mode != MODE_ORDER[0] else []
    parts += [f"task {task}"] if task not in (USUAL_TASK, None) else []
    return ", ".join(parts)


def _usual(cell: Cell) -> tuple[int, str, int, str]:
    """Full fine-tuning before adapters, the usual task first, more seeds first."""
    mode = str(cell.condition.get("mode"))
    place = MODE_ORDER.index(mode) if mode in MODE_ORDER else len(MODE_ORDER)
    task = str(cell.condition.get("task"))
    return place, "" if task == USUAL_TASK else task, -cell.seeds, canonical(cell.settings)


def _graded(cell: Cell) -> bool:
    usual = {"dose": 1, **cell.attack} == {"paper": "poison", "strength": "graded", "dose": 1}
    return usual and cell.ratio == HEADLINE_RATIO and not cell.combined


def _board(atlas: Atlas, group: list[Cell], figures: Path) -> Board:
    ordered = arranged(atlas, group)
    blocks: dict[str, list[Line]] = {}
    for cell in ordered:
        default = condition_of(cell.condition) == DEFAULT
        standing = atlas.standing(cell) if default else None
        blocks.setdefault(stage(atlas, cell), []).append(sheets.line(atlas, cell, standing=standing))
    sft = next((cell for cell in ordered if cell.method == "sft" and cell.before), None)
    if sft:
        blocks[REFERENCE].insert(0, Line("Aligned, before fine-tuning", "", sft.before))
    condition = ordered[0].condition
    title, rows = words.scenario(ordered[0]), ladder_rows(atlas, ordered)
    stem = words.slug(f"board-{condition['testbed']}-{condition['protocol']}-{title}")
    under = f"{title}, {words.dose(ordered[0])}"
    return Board(
        title=title,
        testbed=condition["testbed"],
        protocol=condition["protocol"],
        blocks=[Block(heading(name), lines) for name, lines in blocks.items()],
        links={atlas.who(cell): cell.paper for cell in ordered if cell.paper in atlas.papers},
        ladder=pictures.draw(charts.ladder(rows), figures, pictures.ladder(rows, f"{stem}-ladder", under)),
        trade=pictures.draw(charts.trade(rows), figures, pictures.trade(rows, f"{stem}-trade", under)),
        folders=folders(ordered),
    )


def heading(name: str) -> str:
    """The heading of a stage's rows, or of the references'."""
    fixed = {REFERENCE: "For reference", COMBINED: "Defenses of several stages together"}
    return fixed.get(name, f"Defenses at the {name} stage")


def folders(cells: Iterable[Cell]) -> list[str]:
    """The folders of the records behind some cells and their twins."""
    known = [cell for one in cells for cell in (one, one.twin) if cell]
    return sorted({f"reproduce/results/{cell.condition['testbed'].replace(':', '-')}/{cell.paper}" for cell in known})
