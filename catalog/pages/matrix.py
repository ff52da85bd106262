"""Every defense under every declared condition, and under the papers' own attacks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from catalog import conditions
from catalog.atlas import Atlas
from catalog.measured import Cell, canonical
from catalog.pages import boards, stress, words
from catalog.pages.stress import Worst

Parts = tuple[str, str, str]
NOT_RUN = "not run"


@dataclass(frozen=True)
class Slot:
    """A method under one attack: its numbers, or why there are none."""

    harmful: Parts | None
    accuracy: Parts | None
    gap: Parts | None
    why: str
    worst: bool = False


@dataclass(frozen=True)
class Row:
    """A method under all attacks of a table; `link` is the slug of its page, if it has one."""

    who: str
    settings: str
    link: str
    slots: list[Slot]
    worst: Worst | None = None


@dataclass(frozen=True)
class Matrix:
    """A table of methods by attacks; `heads` are the attacks with what they are, `folders` the records behind it."""

    title: str
    heads: list[tuple[str, str]]
    groups: list[tuple[str, list[Row]]]
    folders: list[str]


def by_condition(atlas: Atlas) -> list[Matrix]:
    """All methods by the declared conditions, a table for each task and size of data a defense was run with."""
    lines: dict[str, list[Cell]] = {}
    for standing in atlas.standings:
        lines.setdefault(standing.line, []).append(standing.cell)
    found = []
    for cells in lines.values():
        if all(boards.stage(atlas, cell) == boards.REFERENCE for cell in cells):
            continue
        condition = cells[0].condition
        title = f"Testbed {condition['testbed']}, {condition['protocol']}, task {condition['task']}"
        heads = [(name, words.condition(name)) for name in conditions.DECLARED]
        rows = [(boards.stage(atlas, cell), _standing_row(atlas, cell)) for cell in boards.arranged(atlas, cells)]
        found.append(Matrix(title, heads, _grouped(rows), boards.folders(cells)))
    return found


def _standing_row(atlas: Atlas, cell: Cell) -> Row:
    standing = atlas.standing(cell)
    assert standing, f"{cell.paper}: no standing"
    slots = [_slot(standing.cells.get(name), name == standing.worst) for name in conditions.DECLARED]
    return Row(
        atlas.name(cell.method), words.settings(cell.settings), _link(atlas, cell), slots, stress.worst(standing)
    )


def by_attack(atlas: Atlas) -> list[Matrix]:
    """Defenses by the papers' own attacks they were run under, undefended fine-tuning first."""
    defended: dict[str, list[Cell]] = {}
    for cell in atlas.cells:
        if cell.borrowed and not cell.combined:
            defended.setdefault(_place(cell), []).append(cell)
    return [_attacked(atlas, cells) for cells in defended.values()]


def _attacked(atlas: Atlas, cells: Sequence[Cell]) -> Matrix:
    attacks = {_attack(cell): cell for cell in sorted(cells, key=lambda cell: (cell.paper, cell.arm))}
    undefended = [cell for cell in atlas.cells if cell.method == "sft" and _attack(cell) in attacks]
    undefended = [cell for cell in undefended if _place(cell) == _place(cells[0])]
    rows: dict[str, list[Cell]] = {}
    for cell in [*undefended, *cells]:
        rows.setdefault(canonical([cell.method, cell.method_arm, cell.settings]), []).append(cell)
    made = []
    for group in rows.values():
        under = {_attack(cell): cell for cell in group}
        name, arm = atlas.name(group[0].method), group[0].method_arm
        who = name if arm == "main" else f"{name} · {arm}"
        slots = [_slot(under.get(attack), worst=False) for attack in attacks]
        row = Row(who, words.settings(group[0].settings), _link(atlas, group[0]), slots)
        made.append((boards.stage(atlas, group[0]), row))
    made.sort(key=lambda pair: (boards.ORDER.index(pair[0]), pair[1].who.casefold()))
    condition = cells[0].condition
    heads = [(atlas.name(cell.paper), "" if cell.arm == "main" else cell.arm) for cell in attacks.values()]
    mode = words.MODES.get(str(condition["mode"]), str(condition["mode"]))
    title = f"Testbed {condition['testbed']}, {condition['protocol']}, {mode}"
    return Matrix(title, heads, _grouped(made), boards.folders(cells))


def _attack(cell: Cell) -> str:
    return canonical([cell.attack, cell.ratio, cell.condition.get("n"), cell.condition.get("task")])


def _place(cell: Cell) -> str:
    dropped = {"attack", "ratio", "n", "task"}
    return canonical({name: value for name, value in cell.condition.items() if name not in dropped})


def _link(atlas: Atlas, cell: Cell) -> str:
    return cell.method if cell.method in atlas.papers else ""


def _slot(cell: Cell | None, worst: bool) -> Slot:
    if cell is None:
        return Slot(None, None, None, NOT_RUN)
    harmful, accuracy = (cell.metrics.get(name) for name in ("harmful", "accuracy"))
    gap = cell.versus_sft.get("harmful")
    return Slot(
        harmful=words.percent(harmful) if harmful else None,
        accuracy=words.percent(accuracy) if accuracy else None,
        gap=words.points(gap) if gap else None,
        why=words.reasons(cell.failures),
        worst=worst,
    )


def _grouped(rows: Iterable[tuple[str, Row]]) -> list[tuple[str, list[Row]]]:
    groups: dict[str, list[Row]] = {}
    for stage, row in rows:
        groups.setdefault(boards.heading(stage), []).append(row)
    return list(groups.items())
