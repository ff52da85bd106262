"""Studies from a CSV file: one row a study, and every fault named by its line, its label and the fix."""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catalog.meta.sizes import Counts
from catalog.meta.weighted import Vector
from catalog.problems import Problem, RefusedError, did_you_mean

LABELS = ("label", "study", "name", "trial", "author", "slab")
LISTED = 12  # columns up to which all are named


class ColumnError(ValueError):
    """A column was asked for that the file does not have."""


@dataclass(frozen=True)
class Row:
    """One study: the line it starts on, what to call it, and its cells."""

    line: int
    label: str
    cells: dict[str, str]


@dataclass(frozen=True)
class Studies:
    """A file of studies; warnings are about rows that stand in it twice."""

    file: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    warnings: tuple[Problem, ...]

    @property
    def labels(self) -> list[str]:
        """One name a row."""
        return [row.label for row in self.rows]

    def texts(self, column: str) -> list[str]:
        """A column as it stands. ColumnError when there is none; RefusedError names rows without an entry."""
        self.check(column)
        missing = [
            self.fault(row, f"no {column}", "fill it in or delete the row")
            for row in self.rows
            if not row.cells[column]
        ]
        if missing:
            raise RefusedError(missing)
        return [row.cells[column] for row in self.rows]

    def numbers(self, column: str) -> Vector:
        """A column of finite numbers. RefusedError names every row that has none."""
        self.check(column)
        values, faults = [], []
        for row in self.rows:
            values.append(_number(row.cells[column]))
            if not math.isfinite(values[-1]):
                shown = f"{column} is {row.cells[column]!r}" if row.cells[column] else f"no {column}"
                faults.append(self.fault(row, f"{shown}, not a number", "give a number or delete the row"))
        if faults:
            raise RefusedError(faults)
        return np.array(values)

    def effects(self, yi: str, vi: str) -> tuple[Vector, Vector]:
        """Effects and their variances. RefusedError names the faulty rows of both columns."""
        self.check(yi, vi)
        faults, found = [], []
        for read_column, column in ((self.numbers, yi), (self.variances, vi)):
            try:
                found.append(read_column(column))
            except RefusedError as error:
                faults += error.problems
        if faults:
            raise RefusedError(faults)
        return found[0], found[1]

    def variances(self, column: str) -> Vector:
        """A column of numbers above 0."""
        found = self.numbers(column)
        fix = "a sampling variance is above 0: check the column, or delete the row"
        self.refuse(found, found <= 0, f"variance {column}", fix)
        return found

    def counts(self, events: Sequence[str], totals: Sequence[str]) -> Counts:
        """Events and totals of the method's and the reference's arm, checked as in `arm`."""
        (k1, n1), (k0, n0) = (self.arm(*pair) for pair in zip(events, totals, strict=True))
        return Counts(k1, n1, k0, n0)

    def arm(self, events: str, total: str) -> tuple[Vector, Vector]:
        """Events and totals of one arm: whole numbers with 0 ≤ events ≤ total and total > 0."""
        k, n = self.numbers(events), self.numbers(total)
        for column, values in ((events, k), (total, n)):
            self.refuse(
                values, (values < 0) | (values != np.round(values)), column, "counts are whole numbers from 0 on"
            )
        self.refuse(n, n == 0, total, "delete the row of the empty arm")
        over = k > n
        self.refuse(k, over, events, f"events cannot exceed {total}; swap the columns or correct the row")
        return k, n

    def refuse(self, values: Vector, bad: NDArray[np.bool_], column: str, fix: str) -> None:
        """Raise RefusedError that names every row marked bad."""
        rows = zip(self.rows, values.tolist(), bad.tolist(), strict=True)
        if faults := [self.fault(row, f"{column} is {value:g}", fix) for row, value, wrong in rows if wrong]:
            raise RefusedError(faults)

    def fault(self, row: Row, message: str, fix: str) -> Problem:
        """What is wrong with a row."""
        return Problem("study", f"{self.file}:{row.line}", row.label, message, fix)

    def check(self, *columns: str) -> None:
        """Raise ColumnError for the first column the file does not have."""
        for column in columns:
            if column not in self.columns:
                raise ColumnError(_missing(self.file, column, self.columns))


def read(path: Path, label: str | None = None) -> Studies:
    """Read a CSV file with a header. The label is the column `label`, else the first of the usual ones, else the line.

    RefusedError when the file is no table; rows that repeat another in every cell are kept, with a warning.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            header = [name.strip() for name in next(reader, [])]
            lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
        except (csv.Error, UnicodeDecodeError) as error:
            raise _refused(
                f"{path}:{reader.line_num + 1}", f"not readable as CSV in UTF-8 ({error})", "save it so"
            ) from None
    if not lines:
        raise _refused(f"{path}:1", "no rows", "give a header and one line a study")
    if twice := {name for name in header if header.count(name) > 1}:
        raise _refused(f"{path}:1", f"column '{min(twice)}' stands twice", "rename one")
    if label is not None and label not in header:
        raise ColumnError(_missing(str(path), label, header))
    named = label or next((name for known in LABELS for name in header if name.lower() == known), None)
    rows = []
    for line, cells in lines:
        if len(cells) != len(header):
            message = f"{len(cells)} cells under {len(header)} columns"
            raise _refused(f"{path}:{line}", message, "quote cells that hold a comma, or fill the row")
        entry = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
        rows.append(Row(line, (entry[named] if named else "") or f"row {line}", entry))
    return Studies(str(path), tuple(header), tuple(rows), tuple(_repeats(str(path), rows)))


def _repeats(file: str, rows: Iterable[Row]) -> Iterable[Problem]:
    first: dict[tuple[str, ...], int] = {}
    for row in rows:
        before = first.setdefault(tuple(row.cells.values()), row.line)
        if before != row.line:
            message = f"repeats line {before} in every cell"
            yield Problem(
                "repeat", f"{file}:{row.line}", row.label, message, "delete it if it is the same study", warning=True
            )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _refused(where: str, message: str, fix: str) -> RefusedError:
    return RefusedError([Problem("table", where, "", message, fix)])


def _missing(file: str, column: str, known: Sequence[str]) -> str:
    """Names of columns are too short to guess at, so all are listed while they are few."""
    fix = f"it has {', '.join(known)}" if len(known) <= LISTED else did_you_mean(column, known)
    return f"{file}: no column '{column}'; {fix}"
