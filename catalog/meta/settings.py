"""Effects of a method by setting, ready to be pooled: seeds are averaged inside a setting and never count as studies.

A setting is a base model under one attack; its cluster is the base model (design, sections 0, 2 and 11).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import expit

from catalog.conditions import condition_of
from catalog.measured import Cell
from catalog.meta import effects
from catalog.meta.effects import Replicate
from catalog.meta.sizes import Counts, Measure, sizes
from reproduce.engine import DEFAULT_RATIO

Effect = Literal["hs_rd", "hs_or", "fa_rd"]

MEASURES: dict[Effect, Measure] = {"hs_rd": "RD", "hs_or": "OR", "fa_rd": "RD"}
OUTCOMES: dict[Effect, str] = {"hs_rd": "harmful", "hs_or": "harmful", "fa_rd": "accuracy"}
OWN_BASES = "every seed has a base model of its own: clusters are bases, and the claim is about bases of this recipe"
SEED_IS_BASE = ("micro",)  # testbeds that train a base model of their own for every seed


@dataclass(frozen=True)
class Setting:
    """The method minus SFT in one setting: RD in proportions, OR as log odds ratio; v its sampling variance."""

    label: str
    cluster: str
    y: float
    v: float
    seeds: int
    prompts: int


@dataclass(frozen=True)
class Settings:
    """All settings of one method; df are the degrees of freedom of their variances (infinite from prompts)."""

    found: tuple[Setting, ...]
    excluded: int
    notes: tuple[str, ...]
    df: float = math.inf


def from_cells(cells: Iterable[Cell], method: str, effect: Effect, testbed: str, attacks: Sequence[str]) -> Settings:
    """Settings of the main arm of `method` on one testbed under the named declared conditions (all when empty).

    Where every seed has its own base model, a seed is a cluster and its variance comes from the prompts alone.
    """
    name, found, lonely, unanswered = OUTCOMES[effect], [], 0, 0
    for cell in cells:
        attack = condition_of({**cell.condition, "ratio": DEFAULT_RATIO})
        asked = cell.condition.get("testbed") == testbed and cell.paper == method and cell.arm == "main"
        if not (asked and cell.ratio and attack and (not attacks or attack in attacks)):
            continue
        ours, theirs = cell.outcomes(name), cell.twin.outcomes(name) if cell.twin else {}
        shared = sorted(ours.keys() & theirs.keys())
        lonely += len(ours.keys() - theirs.keys())
        unanswered += not shared
        label = f"{attack}, {cell.ratio:.0%} harmful"
        if testbed in SEED_IS_BASE:
            parts = [(f"{seed}, {label}", str(seed), [seed]) for seed in shared]
        else:
            model = str(cell.condition.get("model"))
            parts = [(f"{model}, {label}", model, shared)] if shared else []
        found += [_setting(*part, ours, theirs, effect) for part in parts]
    notes = [OWN_BASES] if testbed in SEED_IS_BASE else []
    notes += [f"{lonely} seeds have no undefended partner and are left out"] if lonely else []
    return Settings(tuple(sorted(found, key=lambda one: one.label)), unanswered, tuple(notes))


def _setting(
    label: str,
    cluster: str,
    seeds: Sequence[Replicate],
    ours: dict[Replicate, str],
    theirs: dict[Replicate, str],
    effect: Effect,
) -> Setting:
    ours, theirs = ({seed: side[seed] for seed in seeds} for side in (ours, theirs))
    pair = effects.difference(ours, theirs)
    k1, k0 = (sum(marks.count("1") for marks in side.values()) for side in (ours, theirs))
    answers = pair.prompts * pair.seeds
    if effect == "hs_or":
        y, v = _log_odds(ours, theirs, k1, k0, answers)
    else:
        y, v = pair.value, pair.se**2
    if v <= 0:
        v = without_discordance(pair.prompts)
    return Setting(label, cluster, y, v, pair.seeds, pair.prompts)


def without_discordance(prompts: int) -> float:
    """Variance of a paired difference when no prompt tells the arms apart: 0 discordant answers of n on either side.

    The rule for zero cells, at any level of both arms: pairing leaves their common answers out of it.
    """
    return float(sizes("RD", _counts(0.0, 0.0, prompts)).vi[0])


def _log_odds(
    ours: dict[Replicate, str], theirs: dict[Replicate, str], k1: int, k0: int, answers: int
) -> tuple[float, float]:
    """Log odds ratio of the mean proportions; its variance is that of the prompts' linearised contributions.

    With an empty cell 1/2 is added to all four cells.
    """
    correction = 0.5 if {k1, k0} & {0, answers} else 0.0
    odds = [math.log((k + correction) / (answers - k + correction)) for k in (k1, k0)]
    slopes = [1 / (share * (1 - share)) for share in (float(expit(value)) for value in odds)]
    tables = [
        np.array([[mark == "1" for mark in side[seed]] for seed in sorted(side)], dtype=float).T
        for side in (ours, theirs)
    ]
    pulls = tables[0] * slopes[0] - tables[1] * slopes[1]
    prompts, seeds = pulls.shape
    v = effects.two_way(pulls)[0] if seeds > 1 else float(pulls.var()) / prompts
    own = sizes("OR", _counts(k1 / seeds, k0 / seeds, prompts))
    plain = float(own.vi[0]) if own.used[0] else sum(slopes) / prompts
    return odds[0] - odds[1], plain if correction or v <= 0 else v


def _counts(k1: float, k0: float, n: int) -> Counts:
    return Counts(np.array([k1]), np.array([float(n)]), np.array([k0]), np.array([float(n)]))
