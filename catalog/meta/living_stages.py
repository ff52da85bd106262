"""Defenses by the stage they work at, under the default condition.

Two questions have two answers. The mean of these defenses on other bases: average over the defenses inside each base,
then pool over bases, so that what they share there (SFT twin, prompts) is not counted as independent. Another defense
of the same stage: a prediction interval around the same plain mean, in which defenses weigh alike too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from catalog.meta.analysis import Choices, Data, clusters_of, pooled
from catalog.meta.clusters import FEWEST, aggregate
from catalog.meta.gathered import Line, data
from catalog.meta.heterogeneity import heterogeneity
from catalog.meta.pool import Pooled, quantile
from catalog.meta.settings import Effect
from catalog.meta.weighted import Vector
from catalog.schema import Paper

LEVEL = 0.95
BY_CLUSTER = Choices(model="clusters", ci="hk-guarded")


def bounded(limit: float) -> float:
    """A limit of a difference of proportions, cut at -1 and 1; NaN stays."""
    return limit if math.isnan(limit) else min(1.0, max(-1.0, limit))


@dataclass(frozen=True, eq=False)
class Stage:
    """One stage: `found` pools its defenses over bases, `rows` and `own` are each defense pooled over its bases."""

    name: str
    effect: Effect
    methods: tuple[str, ...]
    own: tuple[Pooled, ...]
    counted: tuple[str, ...]
    data: Data
    found: Pooled
    between: Pooled
    records: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Estimate and interval over bases; prediction interval and tau² between defenses."""
        return {
            "stage": self.name,
            "defenses": list(self.methods),
            "estimate": self.found.estimate,
            "se": self.found.se,
            "ci_low": bounded(self.found.low),
            "ci_high": bounded(self.found.high),
            "pi_low": bounded(self.between.pi_low),
            "pi_high": bounded(self.between.pi_high),
            "tau2": self.between.heterogeneity.tau2,
            "k": len(self.methods),
            "clusters": clusters_of(self.data),
            "notes": list(self.found.notes),
        }


def stages(lines: Sequence[Line], effect: Effect, papers: Mapping[str, Paper]) -> list[Stage]:
    """A stage for each that has a defense with this outcome, in the order of the pipeline."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        paper = papers.get(line.method)
        if effect in line.effects:
            groups.setdefault((paper.stage if paper else None) or "unknown", []).append(line)
    order = ("pre-training", "alignment", "fine-tuning", "post-fine-tuning", "unknown")
    return [_stage(name, groups[name], effect) for name in sorted(groups, key=order.index)]


def _stage(name: str, lines: Sequence[Line], effect: Effect) -> Stage:
    methods = tuple(dict.fromkeys(line.method for line in lines))
    every = [data([line for line in lines if line.method == method], effect) for method in methods]
    known = [one for one in every if one is not None]
    own = tuple(pooled(one, BY_CLUSTER, profile=False) for one in known)
    together, notes = _together(known)
    y, v = (np.array(values) for values in zip(*((one.estimate, one.se**2) for one in own), strict=True))
    mean = pooled(together, BY_CLUSTER, profile=False)
    return Stage(
        name=name,
        effect=effect,
        methods=methods,
        own=own,
        counted=tuple(_counted([line for line in lines if line.method == method], effect) for method in methods),
        data=together,
        found=replace(mean, notes=(*notes, *mean.notes)),
        between=_between(y, v),
        records=tuple(sorted({key for line in lines for key in line.records})),
    )


def _between(y: Vector, v: Vector) -> Pooled:
    """Where another defense may lie: around the plain mean, by t with k - 2 degrees of freedom.

    tau² = max(0, var(y) - mean(v)) needs no weights (Hedges & Olkin 1985); inverse variances would let defenses that
    never change anything, whose differences vary least, speak for the others.
    """
    k, mean, noise = len(y), float(y.mean()), float(v.mean())
    tau2 = max(0.0, float(y.var(ddof=1)) - noise) if k > 1 else 0.0
    se = math.sqrt((tau2 + noise) / k)
    reach = quantile(k - 2.0, LEVEL) * math.hypot(math.sqrt(tau2), se) if k >= FEWEST else math.nan
    return Pooled(
        model="random",
        estimate=mean,
        se=se,
        low=mean - quantile(math.inf, LEVEL) * se,
        high=mean + quantile(math.inf, LEVEL) * se,
        df=math.inf,
        pi_low=mean - reach,
        pi_high=mean + reach,
        heterogeneity=heterogeneity(y, v, np.ones((k, 1)), tau2, LEVEL, interval=False),
        weights=np.full(k, 1 / k),
    )


def _together(known: Sequence[Data]) -> tuple[Data, list[str]]:
    """One effect a base: the plain mean over the defenses there, of bases that all were run on where they are enough.

    Weights by variance would favour defenses that change nothing, whose differences vary least.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for one in known:
        names, y, v = aggregate(one.yi, one.vi, one.clusters or ())
        for name, effect, variance in zip(names, y.tolist(), v.tolist(), strict=True):
            found.setdefault(name, []).append((effect, variance))
    full = {name: rows for name, rows in found.items() if len(rows) == len(known)}
    notes = []
    if len(full) < FEWEST and len(full) < len(found):
        notes.append("not all defenses were run on the same bases")
    else:
        found = full
    clusters = sorted(found)
    made = Data(
        labels=clusters,
        yi=np.array([sum(y for y, _ in found[name]) / len(found[name]) for name in clusters]),
        vi=np.array([sum(v for _, v in found[name]) / len(found[name]) ** 2 for name in clusters]),
        measure="RD",
        clusters=clusters,
    )
    return made, notes


def _counted(lines: Sequence[Line], effect: Effect) -> str:
    found = [line.effects[effect] for line in lines]
    return f"{min(one.prompts for one in found)} × {max(len(one.seeds) for one in found)}"
