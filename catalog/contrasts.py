"""The measured side of a claim: arms compared, followed over a knob, or read off, under the conditions it names.

What comes out is a number with its interval. Whether a claim holds is for the verdict rule to say.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from catalog.measured import Cell, canonical, replicate
from catalog.meta import effects
from catalog.meta.effects import Estimate, Replicate
from catalog.schema import MechanismTest, MetricTest, RunTest, TrendTest

PROPORTIONS = {
    "harmful_score": "harmful",
    "fine_tune_accuracy": "accuracy",
    "harmful_score_plus": "harmful_plus",
    "refusal": "refusal",
    "over_refusal": "over_refusal",
    "benign_help": "benign_help",
    "lookalike": "lookalike",
}
MECHANISMS = {
    "alignment_loss": "alignment_loss",
    "harmful_loss": "harmful_loss_unseen",
    "embedding_drift": "embedding_drift",
}
FALLS = {
    "harmful_loss_fall": (0.0, 1.0),
    "harmful_loss_early_fall": (0.0, 0.2),
    "harmful_loss_late_fall": (0.5, 1.0),
}
"""Fall of the loss on unseen harmful pairs from one share of the steps to another, linear between measurements."""
VARIED = ("attack", "ratio", "n")
BEFORE = "@before"
FEWEST = 3  # points of a trend


class Contrast(NamedTuple):
    """What was measured for a test, under the condition of its (left) arm; relative when the test's scale is ratio.

    `baseline` is what the right arm of a metric test measured, a mean over its seeds.
    """

    cell: Cell
    estimate: Estimate
    baseline: float | None = None


def measure(test: RunTest, paper: str, found: Sequence[Cell]) -> list[Contrast]:
    """Measure what a claim of `paper` asks for in every condition that was run; empty when none was.

    Arms are paired under the same condition, or, when an arm is itself an attack, under the same
    condition apart from the attack.
    """
    if isinstance(test, TrendTest):
        return list(_trends(test, paper, found))
    if isinstance(test, MechanismTest):
        read = (
            (cell, list(_by_seed(cell, test.of, test.mechanism).values()))
            for cell in _side(test.of, paper, test, found)
        )
        return [Contrast(cell, effects.over_seeds(values)) for cell, values in read if values]
    left, right = test.contrast.split(" - ")
    measured = []
    for cell in _side(left, paper, test, found):
        other = _counterpart(cell, list(_side(right, paper, test, found)))
        estimate = _estimate(test, (cell, left), (other, right)) if other else None
        if other and estimate:
            baseline = fmean(_by_seed(other, right, test.quantity).values())
            measured.append(Contrast(cell, estimate, baseline))
    return measured


def paired(left: Cell, right: Cell, metric: str) -> Estimate | None:
    """Left minus right in one metric, paired by prompt and seed; None when they share no seed that has it."""
    ours, theirs = left.outcomes(metric), right.outcomes(metric)
    return effects.difference(ours, theirs) if ours.keys() & theirs.keys() else None


def mechanisms(cell: Cell) -> dict[str, Estimate]:
    """Each mechanism statistic minus that of the SFT twin, seed by seed; empty without a twin."""
    if cell.twin is None:
        return {}
    ours, theirs = ({replicate(run): run["mechanisms"] for run in side.runs} for side in (cell, cell.twin))
    found: dict[str, list[float]] = {}
    for seed in sorted(ours.keys() & theirs.keys()):
        for name, value in ours[seed].items():
            if value is not None and theirs[seed].get(name) is not None:
                found.setdefault(name, []).append(value - theirs[seed][name])
    return {name: effects.over_seeds(gaps) for name, gaps in found.items()}


def _trends(test: TrendTest, paper: str, found: Sequence[Cell]) -> Iterator[Contrast]:
    left, _, right = test.of.partition(" - ")
    others = list(_side(right, paper, test, found)) if right else []
    lines: dict[str, dict[float, Cell]] = defaultdict(dict)
    for cell in _side(left, paper, test, found):
        for x, alike in _varied(cell, test.over, found):
            if test.among is None or x in test.among:
                kept = {key: value for key, value in cell.condition.items() if key != test.over}
                lines[canonical(kept)].setdefault(x, alike)
    for line in lines.values():
        points: dict[Replicate, list[tuple[float, float]]] = defaultdict(list)
        for x, cell in line.items():
            other = _counterpart(cell, others)
            theirs = _by_seed(other, right, test.quantity) if other else {}
            for seed, value in _by_seed(cell, left, test.quantity).items():
                if not right or seed in theirs:
                    points[seed].append((x, value - theirs.get(seed, 0.0)))
        ranks = [_rank(points[seed]) for seed in sorted(points)]
        if known := [rank for rank in ranks if rank is not None]:
            yield Contrast(next(iter(line.values())), effects.over_seeds(known))


def _varied(cell: Cell, over: str, found: Iterable[Cell]) -> Iterator[tuple[float, Cell]]:
    """The cell, and for a field of the method all that differ from it in this field alone, with their values."""
    if over == "ratio":
        if cell.ratio is not None:
            yield cell.ratio, cell
        return
    for other in found:
        if (other.paper, other.method, other.version) == (cell.paper, cell.method, cell.version):
            alike = other.condition == cell.condition and _without(other.settings, over) == _without(
                cell.settings, over
            )
            if alike and over in other.settings and other.runs:
                yield float(other.settings[over]), other


def _without(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != name}


def _rank(points: Sequence[tuple[float, float]]) -> float | None:
    """Spearman correlation; 0 for a constant quantity, which has no trend, and None for too few points."""
    from scipy.stats import spearmanr  # takes longer to import than all records to read

    if len(points) < FEWEST:
        return None
    x, y = zip(*points, strict=True)
    return float(spearmanr(x, y).statistic) if len(set(y)) > 1 else 0.0


def _side(side: str, paper: str, test: RunTest, found: Iterable[Cell]) -> Iterable[Cell]:
    name = "sft" if side == "aligned" else side.removesuffix(BEFORE)
    for cell in found:
        borrowed = test.attack.partition(":")[0] if ":" in test.attack else None
        if name in ("sft", "non-aligned"):
            named = cell.method == name and cell.paper in (name, paper, borrowed)
        elif borrowed:
            named = cell.method == paper and cell.method_arm == ("main" if name == "method" else name)
        else:
            undefended_or_own = cell.paper == paper and cell.method in (paper, "sft")
            named = undefended_or_own and cell.arm == ("main" if name == "method" else name)
        if named and cell.runs and _meets(test, cell):
            yield cell


def _meets(test: RunTest, cell: Cell) -> bool:
    attack = cell.attack
    if ":" in test.attack:
        return test.attack == f"{cell.paper}:{cell.arm}"
    usual = attack.get("strength") in (test.attack, None) and attack.get("dose", 1) == 1
    asked = (test.ratio, cell.ratio), (test.task, cell.condition.get("task"))
    return usual and all(wanted is None or had in (wanted, None) for wanted, had in asked)


def _counterpart(cell: Cell, others: list[Cell]) -> Cell | None:
    same = [other for other in others if canonical(other.condition) == canonical(cell.condition)]
    kept = _apart(cell)
    alike = [other for other in others if _apart(other) == kept]
    return next(iter(same or (alike if len(alike) == 1 else [])), None)


def _apart(cell: Cell) -> str:
    return canonical({key: value for key, value in cell.condition.items() if key not in VARIED})


def _estimate(test: MetricTest, left: tuple[Cell, str], right: tuple[Cell, str]) -> Estimate | None:
    plain = not _before(left[1]) and not _before(right[1]) and test.scale == "points"
    name = PROPORTIONS.get(test.quantity)
    if name and plain:
        return paired(left[0], right[0], name)
    ours_by_seed, theirs_by_seed = (_by_seed(cell, side, test.quantity) for cell, side in (left, right))
    shared = sorted(ours_by_seed.keys() & theirs_by_seed.keys())
    pairs = [(ours_by_seed[seed], theirs_by_seed[seed]) for seed in shared]
    if test.scale == "ratio":
        gaps = [(ours - theirs) / theirs for ours, theirs in pairs if theirs > 0]
    else:
        gaps = [ours - theirs for ours, theirs in pairs]
    return effects.over_seeds(gaps) if gaps else None


def _before(side: str) -> bool:
    return side == "aligned" or side.endswith(BEFORE)


def _by_seed(cell: Cell, side: str, metric: str) -> dict[Replicate, float]:
    """One number per seed: after fine-tuning, or before it."""
    values = {}
    for run in cell.runs:
        if name := PROPORTIONS.get(metric):
            counted = run["before" if _before(side) else "metrics"].get(name)
            value = counted["k"] / counted["n"] if counted else None
        elif metric in FALLS:
            value = _fall(run["curves"], *FALLS[metric])
        else:
            value = run["mechanisms"].get(MECHANISMS.get(metric, metric) + ("_before" if _before(side) else ""))
        if value is not None:
            values[replicate(run)] = float(value)
    return values


def _fall(curves: Mapping[str, Sequence[float]], start: float, end: float) -> float | None:
    losses = curves.get("harmful_loss_unseen")
    if not losses:
        return None
    steps = curves["step"]
    higher, lower = np.interp([start * steps[-1], end * steps[-1]], steps, losses)
    return float(higher - lower)
