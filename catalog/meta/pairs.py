"""Where pairs of reported and measured effects come from: a CSV file, or the claims of papers.yaml with our records."""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from catalog.meta.agreement import Pairs
from catalog.meta.ledger import Tried
from catalog.meta.pool import quantile
from catalog.meta.studies_csv import Studies
from catalog.meta.weighted import Vector
from catalog.taxonomy import PaperType

Kind = Literal["defense", "attack", "all"]
DEFENDED = "method - sft"


def from_table(studies: Studies, reported: str, measured: str) -> Pairs:
    """Pairs of the two named columns; paper, setting, reported_se and se are taken where the file has them.

    Without a column paper every row is a paper of its own. A standard error counts only when every row has it.
    """
    x, y = studies.numbers(reported), studies.numbers(measured)
    count = len(studies.rows)
    own = tuple(f"row {row.line}" for row in studies.rows)
    settings = tuple(row.cells.get("setting", "") for row in studies.rows)
    reported_se, measured_se = (_errors(studies, name) for name in ("reported_se", "se"))
    reach = quantile(math.inf, 0.95)
    return Pairs(
        labels=tuple(studies.labels),
        papers=tuple(studies.texts("paper")) if "paper" in studies.columns else own,
        settings=settings if any(settings) else ("",) * count,
        reported=x,
        measured=y,
        reported_se=reported_se,
        measured_se=measured_se,
        spans=None if measured_se is None else _spans(y, reach * measured_se),
    )


def from_claims(tried: Iterable[Tried], testbed: str, metric: str, kind: Kind = "defense") -> Pairs:
    """Claims with a reported and a measured effect in this metric on this testbed, baseline mismatches included.

    `defense`: defenses against SFT; `attack`: whatever papers on attacks compare; `all`: every comparison.
    """
    kept = [
        one
        for one in tried
        if one.claimed and one.found and one.testbed == testbed
        if one.direction and one.direction.quantity == metric and _is(kind, one.type, one.direction.of)
    ]
    return Pairs(
        labels=tuple(f"{one.paper} {one.claim}" for one in kept),
        papers=tuple(one.paper for one in kept),
        settings=tuple(one.setting for one in kept),
        reported=np.array([one.claimed.reported for one in kept if one.claimed]),
        measured=np.array([one.found.value for one in kept if one.found]),
        measured_se=np.array([one.found.se for one in kept if one.found]),
        spans=tuple(one.found.interval(0.95) for one in kept if one.found),
    )


def _is(kind: Kind, paper: PaperType | None, contrast: str) -> bool:
    if kind == "defense":
        return paper == "defense" and contrast == DEFENDED
    return kind == "all" or paper == "attack"


def _errors(studies: Studies, column: str) -> Vector | None:
    if column not in studies.columns or not all(row.cells[column] for row in studies.rows):
        return None
    return studies.variances(column)


def _spans(values: Vector, reach: Vector) -> tuple[tuple[float, float], ...]:
    ends: Sequence[tuple[float, float]] = list(zip((values - reach).tolist(), (values + reach).tolist(), strict=True))
    return tuple(ends)
