"""Figures of the living analysis: a forest of each stage, and of each network its league table and its ranks."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import altair as alt
import numpy as np

from catalog.meta import network_charts
from catalog.meta.analysis import Data
from catalog.meta.forest import forest
from catalog.meta.living_stages import Stage, bounded
from catalog.meta.network_document import Analysis
from catalog.meta.pool import quantile
from catalog.meta.report import Report
from catalog.meta.settings import Effect

NAMES: dict[Effect, str] = {"hs_rd": "harmful score", "hs_or": "odds of harm", "fa_rd": "accuracy"}


@dataclass(frozen=True)
class Drawn:
    """A figure that can be drawn: its file, what it is of (no condition for a stage), in words, and the chart."""

    stem: str
    testbed: str
    condition: str
    effect: Effect
    caption: str
    told: str
    chart: Callable[[], alt.TopLevelMixin]


def figures(report: Report, name: Callable[[str], str] = str) -> Iterator[Drawn]:
    """All figures, in a fixed order; `name` says what to call a method."""
    for (bed, effect), stages in report.stages.items():
        for stage in stages:
            stem = f"forest-{bed.testbed}-{bed.protocol}-{stage.name}-{effect[:2]}".replace(":", "-")
            told = ", ".join(
                f"{name(method)} {_span(one.estimate, one.low, one.high)}"
                for method, one in zip(stage.methods, stage.own, strict=True)
            )
            caption = (
                f"Difference to SFT in {NAMES[effect]}, points: defenses at the {stage.name} stage. The diamond is"
                " their mean over base models, the bar where another defense of this stage may lie."
            )
            yield Drawn(stem, bed.name, "", effect, caption, told, lambda stage=stage: _forest(stage, name))  # type: ignore[misc]
    for (bed, condition, effect), analysis in report.networks.items():
        for kind, draw in (("league", network_charts.league), ("ranks", network_charts.ranks)):
            stem = f"{kind}-{bed.testbed}-{bed.protocol}-{condition}-{effect[:2]}".replace(":", "-").replace(", ", "-")
            caption = (
                f"{'League table' if kind == 'league' else 'Ranks'} of all defenses by {NAMES[effect]}, {condition}."
            )
            told = analysis.notes[0]
            yield Drawn(stem, bed.name, condition, effect, caption, told, lambda a=analysis, d=draw: d(_named(a, name)))  # type: ignore[misc]


def _forest(stage: Stage, name: Callable[[str], str]) -> alt.HConcatChart:
    """Defenses with their own intervals, the mean over bases, and the prediction interval between defenses."""
    z = quantile(math.inf, 0.95)
    shown = Data(
        labels=[name(method) for method in stage.methods],
        yi=np.array([one.estimate for one in stage.own]),
        vi=np.array([((one.high - one.low) / 2 / z) ** 2 for one in stage.own]),
        measure="RD",
        sizes=stage.counted,
    )
    between = stage.between
    found = replace(
        stage.found,
        low=bounded(stage.found.low),
        high=bounded(stage.found.high),
        pi_low=bounded(between.pi_low),
        pi_high=bounded(between.pi_high),
        heterogeneity=between.heterogeneity,
        weights=between.weights,
    )
    return forest(shown, found)


def _named(analysis: Analysis, name: Callable[[str], str]) -> Analysis:
    """The same network with the names of methods to be shown."""
    rows = analysis.found.rows
    names = tuple(name(one) for one in rows.treatments)
    return replace(
        analysis,
        found=replace(analysis.found, rows=replace(rows, treatments=names)),
        p_scores={name(one): score for one, score in analysis.p_scores.items()},
        ranks={name(one): rank for one, rank in analysis.ranks.items()},
    )


def _span(value: float, low: float, high: float) -> str:
    return f"{100 * value:+.1f} ({100 * bounded(low):+.1f} to {100 * bounded(high):+.1f})"
