"""Arms and contrasts, as people write them in tables, to the studies of a network.

An arm has a value and a variance of its own, so that all contrasts of a study share its arms; contrasts of a study
of several arms must be complete, because what two of them share cannot be told from the two alone.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, TypeVar

import numpy as np

from catalog.meta.network import Study, Vector
from catalog.meta.sizes import ZERO_CELLS

Scale = Literal["RD", "OR", "MD"]
ROUNDING = 0.5  # of a standard error: how far contrasts of one study may contradict one another


@dataclass(frozen=True)
class Arm:
    """One arm with the label that messages give it: k of n with an event, or a mean with its squared error."""

    where: str
    study: str
    treatment: str
    events: float
    total: float
    cluster: str = ""


@dataclass(frozen=True)
class Mean:
    """One arm known by its mean and the variance of it."""

    where: str
    study: str
    treatment: str
    mean: float
    variance: float
    cluster: str = ""


@dataclass(frozen=True)
class Contrast:
    """treat1 minus treat2 in one study, with the variance of the difference."""

    where: str
    study: str
    treat1: str
    treat2: str
    effect: float
    variance: float
    cluster: str = ""


Row = TypeVar("Row", Arm, Mean)


class StudyError(ValueError):
    """A study that cannot be used: the place of the offending row, what is wrong, and the fix."""

    def __init__(self, where: str, message: str, fix: str) -> None:
        self.where, self.message, self.fix = where, message, fix
        super().__init__(f"{where}: {message}; {fix}")


def from_counts(arms: Sequence[Arm], scale: Literal["RD", "OR"]) -> tuple[list[Study], list[str]]:
    """Studies from events and totals, and notes on what was corrected or left out.

    RD is uncorrected with variance p(1-p)/n, in studies with an empty cell from (k+1/2)/(n+1) over n+1; OR is the
    log odds, with 1/2 added to both cells of every arm in such a study. Without an event in any arm, or with
    nothing else in all, a study carries no information on odds and is left out.
    """
    made, notes, corrected, empty = [], [], 0, []
    for name, group in _grouped(arms).items():
        k, n = (np.array([getattr(arm, field) for arm in group]) for field in ("events", "total"))
        zero = bool(((k == 0) | (k == n)).any())
        if scale == "OR" and ((k == 0).all() or (k == n).all()):
            empty.append(name)
            continue
        corrected += zero
        made.append(_study(group, *(_risks if scale == "RD" else _log_odds)(k, n, 0.5 if zero else 0.0)))
    if corrected:
        notes.append(
            f"{corrected} of {len(made) + len(empty)} studies have an arm with 0 or all events: {RULES[scale]}"
        )
    if empty:
        notes.append(f"excluded, no arm or every arm has all the events, so odds say nothing: {', '.join(empty)}")
    return made, notes


RULES = {
    "RD": ZERO_CELLS["RD"].replace("tables", "studies").replace("both arms", "every arm"),
    "OR": "1/2 is added to both cells of every arm of the study, so that its contrasts stay consistent",
}


def from_means(arms: Sequence[Mean]) -> list[Study]:
    """Studies from means and their variances."""
    return [
        _study(group, np.array([arm.mean for arm in group]), np.array([arm.variance for arm in group]))
        for group in _grouped(arms).values()
    ]


def from_contrasts(rows: Sequence[Contrast]) -> tuple[list[Study], list[str]]:
    """Studies from pairwise contrasts, every pair of a study of several arms among them; notes on rounding.

    StudyError when a pair is missing or given twice, or when contrasts of a study contradict one another by more
    than half a standard error (rounded ones may differ a little: their least-squares arms are used).
    """
    made, notes = [], []
    groups: dict[str, list[Contrast]] = {}
    for row in rows:
        groups.setdefault(row.study, []).append(row)
    for name, group in groups.items():
        study, gap = _from_pairs(name, group)
        made.append(study)
        if gap > 1e-6:
            notes.append(f"study {name}: its contrasts add up only to {gap:.2g}, taken as rounding")
    return made, notes


def _grouped(arms: Sequence[Row]) -> dict[str, list[Row]]:
    """Arms by study, single arms left out; StudyError when a study names a treatment twice."""
    groups: dict[str, list[Row]] = {}
    for arm in arms:
        group = groups.setdefault(arm.study, [])
        if any(arm.treatment == other.treatment for other in group):
            raise StudyError(
                arm.where,
                f"study {arm.study} has treatment {arm.treatment} twice",
                "add the arms up to one row, or give the studies different names",
            )
        group.append(arm)
    return {name: group for name, group in groups.items() if len(group) > 1}


def single(studies: Sequence[str]) -> list[str]:
    """Studies named only once: one arm alone compares nothing."""
    return [name for name, count in Counter(studies).items() if count == 1]


def _study(group: Sequence[Arm] | Sequence[Mean], effects: Vector, variances: Vector) -> Study:
    pairs = variances[:, None] + variances[None, :]
    np.fill_diagonal(pairs, 0.0)
    return Study(group[0].study, tuple(arm.treatment for arm in group), effects, pairs, group[0].cluster)


def _risks(k: Vector, n: Vector, correction: float) -> tuple[Vector, Vector]:
    size = n + 2 * correction
    share = (k + correction) / size
    return k / n, share * (1 - share) / size


def _log_odds(k: Vector, n: Vector, correction: float) -> tuple[Vector, Vector]:
    yes, no = k + correction, n - k + correction
    return np.log(yes / no), 1 / yes + 1 / no


def _from_pairs(name: str, group: Sequence[Contrast]) -> tuple[Study, float]:
    treatments = tuple(dict.fromkeys(treat for row in group for treat in (row.treat1, row.treat2)))
    place = {treat: number for number, treat in enumerate(treatments)}
    effects, variances = (np.zeros((len(treatments), len(treatments))) for _ in range(2))
    given: set[frozenset[str]] = set()
    for row in group:
        pair = frozenset((row.treat1, row.treat2))
        at = place[row.treat1], place[row.treat2]
        if pair in given:
            message = f"study {name} compares {row.treat1} and {row.treat2} twice"
            raise StudyError(row.where, message, "keep one row, or give the studies different names")
        given.add(pair)
        effects[at], effects[at[::-1]] = row.effect, -row.effect
        variances[at] = variances[at[::-1]] = row.variance
    missing = [pair for pair in combinations(treatments, 2) if frozenset(pair) not in given]
    if missing:
        named = ", ".join(f"{one} and {other}" for one, other in missing)
        message = f"study {name} has {len(treatments)} arms but no contrast of {named}"
        raise StudyError(group[0].where, message, "give every pair of the study, or its arms with --format arms")
    arms = effects.mean(axis=1)
    off = np.abs(arms[:, None] - arms[None, :] - effects)
    if (off**2 > ROUNDING**2 * variances + 1e-12).any():
        message = f"study {name}: its contrasts do not add up (off by {off.max():.3g})"
        raise StudyError(group[0].where, message, "check signs and the order of treat1 and treat2")
    try:
        return Study(name, treatments, arms, variances, group[0].cluster), float(off.max())
    except ValueError as error:
        raise StudyError(group[0].where, str(error), "check its standard errors") from None
