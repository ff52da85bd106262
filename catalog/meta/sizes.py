"""Effect sizes of two arms from their counts, with stated rules for zero cells, and intervals of proportions.

Arm 1 is the method, arm 0 its reference. Formulas: design, section 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from catalog.meta.effects import LEVEL
from catalog.meta.weighted import Vector

Measure = Literal["RD", "OR", "RR", "AS"]

NAMES: dict[Measure, str] = {
    "RD": "risk difference",
    "OR": "log odds ratio",
    "RR": "log risk ratio",
    "AS": "difference of arcsines (Rücker 2009)",
}
ZERO_CELLS: dict[Measure, str] = {
    "RD": "estimates are never corrected; in tables with a zero cell the variance takes (k+1/2)/(n+1) for k/n and n+1"
    " for n in both arms (the rule of netmeta; metafor corrects the estimate too)",
    "OR": "1/2 is added to all four cells of tables with a zero cell; tables without or with only events in both arms"
    " carry no information and are excluded",
    "RR": "1/2 is added to all four cells of tables with a zero cell; tables without or with only events in both arms"
    " carry no information and are excluded",
    "AS": "needs no correction",
}
MANY_EMPTY = 0.1


@dataclass(frozen=True)
class Counts:
    """Events and totals of both arms, one entry a study."""

    events: Vector
    total: Vector
    reference_events: Vector
    reference_total: Vector

    @property
    def cells(self) -> NDArray[np.float64]:
        """Events and non-events of arm 1, then of arm 0: four columns."""
        arms = (
            self.events,
            self.total - self.events,
            self.reference_events,
            self.reference_total - self.reference_events,
        )
        return np.column_stack(arms)

    @property
    def with_zero(self) -> NDArray[np.bool_]:
        """Tables with an empty cell."""
        return np.asarray((self.cells == 0).any(axis=1))

    @property
    def uninformative(self) -> NDArray[np.bool_]:
        """Tables without an event in either arm, or with nothing else in both."""
        cells = self.cells
        return np.asarray((cells[:, [0, 2]] == 0).all(axis=1) | (cells[:, [1, 3]] == 0).all(axis=1))

    def where(self, chosen: NDArray[np.bool_]) -> "Counts":
        """The chosen studies only."""
        return Counts(
            self.events[chosen], self.total[chosen], self.reference_events[chosen], self.reference_total[chosen]
        )


@dataclass(frozen=True)
class Sizes:
    """Effects and their sampling variances; `used` is False where a table carries no information (yi is NaN).

    `empty_arms` is the share of arms, of all tables, without an event.
    """

    yi: Vector
    vi: Vector
    used: NDArray[np.bool_]
    notes: tuple[str, ...]
    empty_arms: float


def sizes(measure: Measure, counts: Counts) -> Sizes:
    """Effect sizes of arm 1 against arm 0: RD in proportions, OR and RR as natural logarithms, AS in radians."""
    used = ~counts.uninformative if measure in ("OR", "RR") else np.ones(len(counts.events), dtype=np.bool_)
    with np.errstate(divide="ignore", invalid="ignore"):
        yi, vi = FORMULAS[measure](counts)
    empty = float(np.mean(np.concatenate([counts.events, counts.reference_events]) == 0))
    notes = tuple(_notes(measure, counts, used))
    return Sizes(np.where(used, yi, np.nan), np.where(used, vi, np.nan), used, notes, empty)


def _risk_difference(counts: Counts) -> tuple[Vector, Vector]:
    """Variance p(1-p)/n of each arm, with the corrected p and n in tables with a zero cell."""
    correction = np.where(counts.with_zero, 0.5, 0.0)
    variance = np.zeros(len(correction))
    for k, n in ((counts.events, counts.total), (counts.reference_events, counts.reference_total)):
        size = n + 2 * correction
        share = (k + correction) / size
        variance += share * (1 - share) / size
    return counts.events / counts.total - counts.reference_events / counts.reference_total, variance


def _log_odds_ratio(counts: Counts) -> tuple[Vector, Vector]:
    """Haldane-Anscombe correction; variance is the sum of the inverse cells (Woolf 1955)."""
    a, b, c, d = _corrected(counts)
    return np.log(a * d / (b * c)), 1 / a + 1 / b + 1 / c + 1 / d


def _log_risk_ratio(counts: Counts) -> tuple[Vector, Vector]:
    a, b, c, d = _corrected(counts)
    return np.log(a * (c + d) / (c * (a + b))), 1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)


def _arcsine_difference(counts: Counts) -> tuple[Vector, Vector]:
    shares = counts.events / counts.total, counts.reference_events / counts.reference_total
    gap = np.arcsin(np.sqrt(shares[0])) - np.arcsin(np.sqrt(shares[1]))
    return gap, 1 / (4 * counts.total) + 1 / (4 * counts.reference_total)


def _corrected(counts: Counts) -> list[Vector]:
    corrected = counts.cells + np.where(counts.with_zero, 0.5, 0.0)[:, None]
    return list(corrected.T)


FORMULAS: dict[Measure, Callable[[Counts], tuple[Vector, Vector]]] = {
    "RD": _risk_difference,
    "OR": _log_odds_ratio,
    "RR": _log_risk_ratio,
    "AS": _arcsine_difference,
}


def _notes(measure: Measure, counts: Counts, used: NDArray[np.bool_]) -> list[str]:
    notes = []
    touched = int((counts.with_zero & used).sum())
    if touched and measure != "AS":
        notes.append(f"{touched} of {len(used)} tables have a zero cell: {ZERO_CELLS[measure]}")
    return notes


# -- single proportions


def clopper_pearson(events: float, total: float, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a proportion with guaranteed coverage (Clopper & Pearson 1934)."""
    tail = (1 - level) / 2
    low = float(betaincinv(events, total - events + 1, tail)) if events > 0 else 0.0
    high = float(betaincinv(events + 1, total - events, 1 - tail)) if events < total else 1.0
    return low, high


def jeffreys(events: float, total: float, level: float = LEVEL) -> tuple[float, float]:
    """The equal-tailed interval under Jeffreys' prior, reaching to 0 or 1 at the ends (Brown, Cai & DasGupta 2001)."""
    tail = (1 - level) / 2
    low = float(betaincinv(events + 0.5, total - events + 0.5, tail)) if events > 0 else 0.0
    high = float(betaincinv(events + 0.5, total - events + 0.5, 1 - tail)) if events < total else 1.0
    return low, high
