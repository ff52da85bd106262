"""How each defense stands: under the default condition, in the worst declared one, and against its own controls."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from catalog import conditions, contrasts
from catalog.conditions import condition_of
from catalog.measured import Cell, canonical
from catalog.meta import worst
from catalog.meta.effects import Estimate
from catalog.meta.worst import Worst
from catalog.schema import MetricTest, Paper

MAIN = "main"
MODEL_SIDES = ("method", "sft", "aligned", "non-aligned")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A defense minus one of its control arms under one declared condition, paired by prompt and seed."""

    arm: str
    condition: str
    harmful: Estimate
    accuracy: Estimate | None

    @property
    def no_better(self) -> bool:
        """The harmful score is not shown to be lower than the control's, and neither is accuracy higher."""
        return self.harmful.high >= 0 and not self.costs_accuracy

    @property
    def costs_accuracy(self) -> bool:
        """The control is shown to lose accuracy against the defense."""
        return self.accuracy is not None and self.accuracy.low > 0

    @property
    def says(self) -> str:
        """The verdict in words."""
        if self.harmful.high < 0:
            return f"lower harmful score than its control {self.arm}"
        if self.no_better:
            return f"no better than its control {self.arm}"
        return f"no lower harmful score than its control {self.arm}, but more accuracy"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The main arm of one method over the declared conditions; `cells` by condition, in declared order.

    A declared condition without a cell was not run; a cell without metrics failed or does not apply.
    """

    cells: dict[str, Cell]
    controls: tuple[Verdict, ...] = ()

    @property
    def cell(self) -> Cell:
        """The cell of the default condition, or of the first declared one that was run."""
        return next(iter(self.cells.values()))

    @property
    def line(self) -> str:
        """What all its runs have in common; methods that agree in it can be compared."""
        return canonical(_kept(self.cell))

    @property
    def measured(self) -> dict[str, Cell]:
        return {name: cell for name, cell in self.cells.items() if "harmful" in cell.metrics}

    @property
    def missing(self) -> list[str]:
        """Declared conditions that nobody has run."""
        return [name for name in conditions.DECLARED if name not in self.cells]

    @property
    def without_numbers(self) -> dict[str, str]:
        """Why a condition that was run has no number, by condition."""
        return {
            name: "; ".join(f"{failure.status}: {failure.reason}" for failure in cell.failures)
            for name, cell in self.cells.items()
            if name not in self.measured
        }

    @property
    def complete(self) -> bool:
        """Every declared condition gave a number."""
        return len(self.measured) == len(conditions.DECLARED)

    @property
    def worst(self) -> str | None:
        """The measured condition with the highest harmful score; the first declared one of equals."""
        known = {name: cell.metrics["harmful"].value for name, cell in self.measured.items()}
        return max(known, key=lambda name: known[name], default=None)

    @property
    def worst_gain(self) -> str | None:
        """The condition in which the harmful score is lowered least, or raised most, against the SFT twin."""
        gaps = {name: cell.versus_sft["harmful"] for name, cell in self.cells.items() if "harmful" in cell.versus_sft}
        return max(gaps, key=lambda name: gaps[name].value, default=None)

    @cached_property
    def corrected(self) -> Worst | None:
        """The highest harmful score over the measured conditions, corrected for having been looked for."""
        known = {name: cell.outcomes("harmful") for name, cell in self.measured.items()}
        return worst.of_arms(known) if known else None

    @cached_property
    def corrected_gain(self) -> Worst | None:
        """The least gain over the SFT twin, corrected in the same way."""
        pairs = {
            name: (cell.outcomes("harmful"), cell.twin.outcomes("harmful"))
            for name, cell in self.cells.items()
            if cell.twin and "harmful" in cell.versus_sft
        }
        return worst.of_differences(pairs) if pairs else None

    def holds(self, cell: Cell) -> bool:
        """Is this one of the cells the standing was made of?"""
        return any(cell is known for known in self.cells.values())


def standings(found: Sequence[Cell], papers: Iterable[Paper] = ()) -> list[Standing]:
    """The standing of every method whose main arm was run under a declared condition, in the order of the cells.

    Runs count together when they agree in all but the attack, the mode and the harmful share.
    """
    arms = {paper.id: control_arms(paper) for paper in papers}
    groups: dict[str, dict[str, Cell]] = {}
    for cell in found:
        name = condition_of(cell.condition)
        if name and cell.arm == MAIN:
            groups.setdefault(_line(cell), {})[name] = cell
    made = []
    for group in groups.values():
        cells = {name: group[name] for name in conditions.DECLARED if name in group}
        paper = next(iter(cells.values())).paper
        made.append(Standing(cells=cells, controls=tuple(_verdicts(cells, arms.get(paper, []), found))))
    return made


def control_arms(paper: Paper) -> list[str]:
    """Arms that claims of kind control compare the method with, in the order of the claims."""
    tests = [claim.test for claim in paper.claims if claim.kind == "control" and isinstance(claim.test, MetricTest)]
    sides = [test.contrast.split(" - ") for test in tests if "method" in test.contrast.split(" - ")]
    return list(dict.fromkeys(side for pair in sides for side in pair if side not in MODEL_SIDES))


def _line(cell: Cell) -> str:
    return canonical([_kept(cell), cell.paper, cell.settings])


def _kept(cell: Cell) -> dict[str, Any]:
    return {key: value for key, value in cell.condition.items() if key not in conditions.VARIED}


def _verdicts(cells: Mapping[str, Cell], arms: Sequence[str], found: Sequence[Cell]) -> Iterator[Verdict]:
    for name, cell in cells.items():
        alike = [other for other in found if other.paper == cell.paper and other.condition == cell.condition]
        for arm in arms:
            control = next((other for other in alike if other.arm == arm), None)
            harmful = control and contrasts.paired(cell, control, "harmful")
            if control and harmful:
                accuracy = contrasts.paired(cell, control, "accuracy")
                yield Verdict(arm=arm, condition=name, harmful=harmful, accuracy=accuracy)
