"""The measured side of a claim: one arm minus another under the conditions the claim names.

What comes out is a number with its interval. Whether a claim holds is for the verdict rule to say.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from catalog.measured import Cell, canonical
from catalog.meta import effects
from catalog.meta.effects import Estimate
from catalog.schema import MetricTest

PROPORTIONS = {
    "harmful_score": "harmful",
    "fine_tune_accuracy": "accuracy",
    "harmful_score_plus": "harmful_plus",
    "refusal": "refusal",
    "over_refusal": "over_refusal",
    "benign_help": "benign_help",
}
MECHANISMS = {
    "alignment_loss": "alignment_loss",
    "harmful_loss": "harmful_loss_unseen",
    "embedding_drift": "embedding_drift",
}
VARIED = ("attack", "ratio", "n")


class Contrast(NamedTuple):
    """A measured contrast under the condition of its left arm; relative when the test's scale is ratio."""

    cell: Cell
    estimate: Estimate


def measure(test: MetricTest, paper: str, found: Sequence[Cell]) -> list[Contrast]:
    """Measure the contrast of a claim of `paper` in every condition that was run; empty when none was.

    Arms are paired under the same condition, or, when an arm is itself an attack, under the same
    condition apart from the attack.
    """
    left, right = test.contrast.split(" - ")
    measured = []
    for cell in _side(left, paper, test, found):
        other = _counterpart(cell, list(_side(right, paper, test, found)))
        estimate = _estimate(test, (cell, left), (other, right)) if other else None
        if estimate:
            measured.append(Contrast(cell, estimate))
    return measured


def paired(left: Cell, right: Cell, metric: str) -> Estimate | None:
    """Left minus right in one metric, paired by prompt and seed; None when they share no seed that has it."""
    ours, theirs = left.outcomes(metric), right.outcomes(metric)
    return effects.difference(ours, theirs) if ours.keys() & theirs.keys() else None


def mechanisms(cell: Cell) -> dict[str, Estimate]:
    """Each mechanism statistic minus that of the SFT twin, seed by seed; empty without a twin."""
    if cell.twin is None:
        return {}
    ours, theirs = ({run["spec"]["seed"]: run["mechanisms"] for run in side.runs} for side in (cell, cell.twin))
    found: dict[str, list[float]] = {}
    for seed in sorted(ours.keys() & theirs.keys()):
        for name, value in ours[seed].items():
            if value is not None and theirs[seed].get(name) is not None:
                found.setdefault(name, []).append(value - theirs[seed][name])
    return {name: effects.over_seeds(gaps) for name, gaps in found.items()}


def _side(name: str, paper: str, test: MetricTest, found: Iterable[Cell]) -> Iterable[Cell]:
    for cell in found:
        borrowed = test.attack.partition(":")[0] if ":" in test.attack else None
        if name in ("sft", "aligned", "non-aligned"):
            baseline = "sft" if name == "aligned" else name
            named = cell.method == baseline and cell.paper in (baseline, paper, borrowed)
        elif borrowed:
            named = cell.method == paper and cell.method_arm == ("main" if name == "method" else name)
        else:
            undefended_or_own = cell.paper == paper and cell.method in (paper, "sft")
            named = undefended_or_own and cell.arm == ("main" if name == "method" else name)
        if named and cell.runs and _meets(test, cell):
            yield cell


def _meets(test: MetricTest, cell: Cell) -> bool:
    attack = cell.attack
    if ":" in test.attack:
        return test.attack == f"{cell.paper}:{cell.arm}"
    usual = attack.get("strength") in (test.attack, None) and attack.get("dose", 1) == 1
    return usual and (test.ratio is None or cell.ratio in (test.ratio, None))


def _counterpart(cell: Cell, others: list[Cell]) -> Cell | None:
    same = [other for other in others if canonical(other.condition) == canonical(cell.condition)]
    kept = _apart(cell)
    alike = [other for other in others if _apart(other) == kept]
    return next(iter(same or (alike if len(alike) == 1 else [])), None)


def _apart(cell: Cell) -> str:
    return canonical({key: value for key, value in cell.condition.items() if key not in VARIED})


def _estimate(test: MetricTest, left: tuple[Cell, str], right: tuple[Cell, str]) -> Estimate | None:
    plain = "aligned" not in (left[1], right[1]) and test.scale == "points"
    name = PROPORTIONS.get(test.quantity)
    if name and plain:
        return paired(left[0], right[0], name)
    ours_by_seed, theirs_by_seed = (_by_seed(cell, side, test.quantity) for cell, side in (left, right))
    shared = sorted(ours_by_seed.keys() & theirs_by_seed.keys())
    pairs = [(ours_by_seed[seed], theirs_by_seed[seed]) for seed in shared]
    if test.scale == "ratio":
        gaps = [(ours - theirs) / theirs for ours, theirs in pairs if theirs]
    else:
        gaps = [ours - theirs for ours, theirs in pairs]
    return effects.over_seeds(gaps) if gaps else None


def _by_seed(cell: Cell, side: str, metric: str) -> dict[int, float]:
    """One number per seed: after fine-tuning, or before it for the side called aligned."""
    values = {}
    for run in cell.runs:
        if name := PROPORTIONS.get(metric):
            counted = run["before" if side == "aligned" else "metrics"].get(name)
            value = counted["k"] / counted["n"] if counted else None
        else:
            name = MECHANISMS.get(metric, metric) + ("_before" if side == "aligned" else "")
            value = run["mechanisms"].get(name)
        if value is not None:
            values[run["spec"]["seed"]] = float(value)
    return values
