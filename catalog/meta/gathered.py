"""Measured cells as effects of defenses over SFT, by cluster: what the living analysis is made of.

A cluster is a base model. Where every seed has a base of its own, a seed is a cluster with one paired difference, whose
sampling variance is McNemar's over prompts (design, sections 2 and 11); elsewhere all seeds of a model are averaged.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from catalog.conditions import DEFAULT, condition_of
from catalog.measured import Cell
from catalog.meta import effects
from catalog.meta.analysis import Data
from catalog.meta.effects import Replicate
from catalog.meta.settings import OUTCOMES, SEED_IS_BASE, Effect, without_discordance
from catalog.meta.weighted import Vector
from catalog.taxonomy import BASELINES
from reproduce.engine import DEFAULT_RATIO

Gaps = NDArray[np.int8]
EFFECTS: tuple[Effect, ...] = ("hs_rd", "fa_rd")


@dataclass(frozen=True)
class Bed:
    """Where effects may be pooled: never across testbeds, nor across versions of a protocol."""

    testbed: str
    protocol: str

    @property
    def name(self) -> str:
        return f"{self.testbed}/{self.protocol}"


@dataclass(frozen=True, eq=False)
class Effects:
    """A defense minus SFT in one setting: one effect a cluster, as a proportion, with its sampling variance.

    gaps hold -1, 0, 1 by prompt and seed, columns in the order of `seeds`, and of `clusters` where a seed is one.
    """

    clusters: tuple[str, ...]
    y: Vector
    v: Vector
    gaps: Gaps
    seeds: tuple[Replicate, ...]

    @property
    def prompts(self) -> int:
        return len(self.gaps)


@dataclass(frozen=True, eq=False)
class Line:
    """The main arm of one defense in one setting (task, amount of data) under one condition."""

    bed: Bed
    method: str
    condition: str
    ratio: float
    setting: str
    cell: Cell

    @cached_property
    def effects(self) -> dict[Effect, Effects]:
        """The outcomes that both arms have."""
        found = {effect: _effects(self.cell, OUTCOMES[effect], self.bed.testbed) for effect in EFFECTS}
        return {effect: one for effect, one in found.items() if one is not None}

    @cached_property
    def records(self) -> tuple[str, ...]:
        """Keys of the runs of both arms."""
        twin = self.cell.twin
        return tuple(sorted({run["key"] for run in (*self.cell.runs, *(twin.runs if twin else ()))}))


def lines(cells: Iterable[Cell]) -> list[Line]:
    """Main arms of single defenses under poisoned data of declared kind, paired with SFT; sorted by all names."""
    found = []
    for cell in cells:
        condition = _condition(cell)
        if condition is None or cell.twin is None or cell.arm != "main" or cell.combined or cell.borrowed:
            continue
        if cell.method in BASELINES or not cell.runs:
            continue
        spec = cell.condition
        bed = Bed(str(spec.get("testbed")), str(spec.get("protocol")))
        parts = [f"{name} {spec.get(name)}" for name in ("task", "n")]
        if bed.testbed not in SEED_IS_BASE:
            parts.insert(0, str(spec.get("model")))
        found.append(Line(bed, cell.method, condition, cell.ratio or 0.0, ", ".join(parts), cell))
    return sorted(found, key=lambda one: (one.bed.name, one.method, one.condition, one.setting))


def data(chosen: Sequence[Line], effect: Effect) -> Data | None:
    """The effects of some lines of one defense, ready to be pooled by cluster; None when there is none."""
    known = [(line, line.effects[effect]) for line in chosen if effect in line.effects]
    if not known:
        return None
    clusters = [name for _, one in known for name in one.clusters]
    return Data(
        labels=[f"{name}, {line.condition}, {line.setting}" for line, one in known for name in one.clusters],
        yi=np.concatenate([one.y for _, one in known]),
        vi=np.concatenate([one.v for _, one in known]),
        measure="RD",
        clusters=clusters,
        levels=[f"{line.condition}, {line.setting}" for line, one in known for _ in one.clusters],
    )


def _condition(cell: Cell) -> str | None:
    """The declared condition, or that of the same attack at another share of harmful data (ratio-0.05)."""
    if not cell.ratio:
        return None
    declared = condition_of(cell.condition)
    if declared:
        return declared
    usual = condition_of({**cell.condition, "ratio": DEFAULT_RATIO})
    if usual is None:
        return None
    return f"ratio-{cell.ratio:g}" if usual == DEFAULT else f"{usual}, ratio-{cell.ratio:g}"


def _effects(cell: Cell, outcome: str, testbed: str) -> Effects | None:
    ours, theirs = cell.outcomes(outcome), cell.twin.outcomes(outcome) if cell.twin else {}
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    tables = [effects.table({seed: side[seed] for seed in seeds}) for side in (ours, theirs)]
    gaps = (tables[0] - tables[1]).astype(np.int8)
    prompts = len(gaps)
    if testbed in SEED_IS_BASE:
        names = tuple(str(seed) for seed in seeds)
        y, v = gaps.mean(axis=0), gaps.var(axis=0) / prompts
        return Effects(names, y, np.where(v > 0, v, without_discordance(prompts)), gaps, tuple(seeds))
    pair = effects.difference({seed: ours[seed] for seed in seeds}, {seed: theirs[seed] for seed in seeds})
    v = pair.se**2 if pair.se > 0 else without_discordance(prompts)
    return Effects((str(cell.condition.get("model")),), np.array([pair.value]), np.array([v]), gaps, tuple(seeds))
