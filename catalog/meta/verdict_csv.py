"""Claims with their measured effects from a CSV file, one row a claim; effects are method minus baseline, proportions.

Required columns: paper, claim, reported, measured, and se or ci_low with ci_high (95 %). Optional, and empty where
unknown: df (of se or interval; none is normal), baseline_reported, baseline_measured, reported_se, metric
(harmful_score, the default, or fine_tune_accuracy), better (smaller, larger), test (superiority, non-inferiority),
margin (of non-inferiority; m_fa by default), joint (claims of a paper with the same entry hold only together), primary
(yes, no), testbed and setting. Fine-tune accuracy is tested for non-inferiority, larger being better, unless told else.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from catalog.meta.ledger import Tried
from catalog.meta.margins import Margins
from catalog.meta.studies_csv import ColumnError, Row, Studies
from catalog.meta.studies_csv import read as read_csv
from catalog.meta.verdict import Claimed, Measured
from catalog.problems import Problem, RefusedError, did_you_mean

TESTS = ("superiority", "non-inferiority")
DIRECTIONS = ("smaller", "larger")
METRICS = ("harmful_score", "fine_tune_accuracy")
POINTS = "give proportions: 0.05 for 5 points"


class _CellError(ValueError):
    """What is wrong with a cell, and the fix."""

    def __init__(self, message: str, fix: str) -> None:
        self.fix = fix
        super().__init__(message)


def read(path: Path, margins: Margins) -> tuple[list[Tried], list[Problem]]:
    """Return the claims of a file and warnings on rows that stand in it twice, which count once.

    RefusedError names every faulty row, ColumnError a missing column.
    """
    table = read_csv(path, "claim")
    table.check("paper", "reported", "measured")
    if "se" not in table.columns and not {"ci_low", "ci_high"} <= set(table.columns):
        raise ColumnError(f"{table.file}: no column 'se', nor 'ci_low' and 'ci_high'; give one or the other")
    rows = list({tuple(row.cells.values()): row for row in reversed(table.rows)}.values())[::-1]
    repeats = [replace(one, fix="it counts once; delete it") for one in table.warnings]
    tried, faults = [], []
    first: dict[tuple[str, ...], int] = {}
    for row in sorted(rows, key=lambda row: row.line):
        try:
            one = _tried(row, margins)
            before = first.setdefault((one.paper, one.claim, one.testbed, one.setting), row.line)
            if before != row.line:
                raise _CellError(f"the claim stands in line {before} too", "name the settings in a column setting")
            tried.append(one)
        except _CellError as error:
            faults.append(_fault(table, row, error))
    if faults:
        raise RefusedError(faults)
    return tried, repeats


def _fault(table: Studies, row: Row, error: _CellError) -> Problem:
    name = " ".join(part for part in (row.cells["paper"], row.label) if part)
    return Problem("claim", f"{table.file}:{row.line}", name, str(error), error.fix)


def _tried(row: Row, margins: Margins) -> Tried:
    cells = row.cells
    for name in ("paper", "claim"):
        if not cells[name]:
            raise _CellError(f"no {name}", "fill it in or delete the row")
    accuracy = _word(row, "metric", METRICS) == METRICS[1]
    better = _word(row, "better", DIRECTIONS, DIRECTIONS[accuracy])
    spare = None
    if _word(row, "test", TESTS, TESTS[accuracy]) == TESTS[1]:
        given = _number(row, "margin", 0, 1)
        spare = margins.m_fa if given is None else given
    reported = _required(row, "reported", -1, 1)
    if spare is None and not (reported < 0 if better == "smaller" else reported > 0):
        fix = "set column better to its direction, or column test to non-inferiority"
        raise _CellError(f"reported is {reported:g}, which is not {better} than the baseline", fix)
    return Tried(
        paper=cells["paper"],
        claim=cells["claim"],
        testbed=cells.get("testbed", ""),
        setting=cells.get("setting", ""),
        primary=_word(row, "primary", ("yes", "no")) == "yes",
        joint=cells.get("joint") or None,
        claimed=Claimed(
            reported=reported,
            better="smaller" if better == "smaller" else "larger",
            spare=spare,
            reported_se=_positive(row, "reported_se"),
            baseline_reported=_number(row, "baseline_reported", 0, 1),
            baseline_measured=_number(row, "baseline_measured", 0, 1),
        ),
        found=_found(row),
    )


def _found(row: Row) -> Measured:
    value, se, df = _required(row, "measured", -1, 1), _positive(row, "se"), _positive(row, "df") or math.inf
    low, high = (_number(row, name, -1, 1) for name in ("ci_low", "ci_high"))
    if low is None or high is None:
        if se is None:
            raise _CellError("neither se nor both of ci_low and ci_high", "give one or the other, or delete the row")
        return Measured.from_se(value, se, df)
    if not low <= value <= high or low == high:
        raise _CellError(f"measured {value:g} with interval {low:g} to {high:g}", "correct the bounds")
    return Measured.from_interval(value, low, high, df) if se is None else Measured.from_se(value, se, df)


def _word(row: Row, name: str, known: Sequence[str], default: str | None = None) -> str:
    text = row.cells.get(name) or default or known[0]
    if text not in known:
        raise _CellError(f"{name} is {text!r}", did_you_mean(text, known))
    return text


def _required(row: Row, name: str, low: float, high: float) -> float:
    value = _number(row, name, low, high)
    if value is None:
        raise _CellError(f"no {name}", "fill it in or delete the row")
    return value


def _positive(row: Row, name: str) -> float | None:
    value = _number(row, name, 0, math.inf)
    if value == 0:
        raise _CellError(f"{name} is 0", "it is above 0: correct it, or leave it empty where unknown")
    return value


def _number(row: Row, name: str, low: float, high: float) -> float | None:
    """An optional cell as a number; None where it is empty."""
    text = row.cells.get(name, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise _CellError(f"{name} is {text!r}, not a number", "give a number, or leave it empty where unknown")
    if not low <= value <= high:
        if high == math.inf:
            raise _CellError(
                f"{name} is {text}", f"it is {low:g} or above: correct it, or leave it empty where unknown"
            )
        raise _CellError(f"{name} is {text}, outside {low:g} to {high:g}", POINTS)
    return value
