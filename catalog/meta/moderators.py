"""Columns of a table of studies to the columns of a design matrix."""

import math
from collections.abc import Sequence

import numpy as np

from catalog.meta.studies_csv import Studies
from catalog.meta.weighted import Matrix, Vector


def design(studies: Studies, columns: Sequence[str]) -> tuple[Matrix, list[str]]:
    """Intercept, numbers as they are, and for words an indicator of each but the first in alphabetical order.

    A column that is mostly numbers must be all numbers: RefusedError names the rows that are not.
    """
    made: list[Vector] = [np.ones(len(studies.rows))]
    names = ["intercept"]
    for column in columns:
        entries = studies.texts(column)
        if sum(map(_is_number, entries)) * 2 > len(entries):
            made.append(studies.numbers(column))
            names.append(column)
            continue
        first, *others = sorted(set(entries))
        for entry in others or [first]:
            made.append(np.array([float(other == entry) for other in entries]))
            names.append(f"{column}={entry}")
    return np.column_stack(made), names


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
