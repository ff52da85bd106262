"""What a defense costs: its training, alignment included, as a multiple of that of its SFT twin."""

from collections.abc import Mapping
from typing import Any

from catalog.measured import Cell, replicate
from catalog.meta import effects
from catalog.meta.effects import Estimate, Replicate

PARTS = {
    "passes": ("align_passes", "passes"),
    "tokens": ("align_tokens", "tokens"),
    "seconds": ("align_seconds", "tune_seconds", "repair_seconds"),
    "memory": ("peak_bytes",),
}
"""Fields of a record's cost that add up to each kind."""


def ratios(cell: Cell) -> dict[str, Estimate]:
    """Cost over the twin's, seed by seed, then mean and t interval; a kind that was not recorded is left out."""
    found = {}
    for kind in PARTS:
        ours, theirs = _by_seed(cell, kind), _by_seed(cell.twin, kind) if cell.twin else {}
        shared = [ours[seed] / theirs[seed] for seed in sorted(ours.keys() & theirs.keys()) if theirs[seed]]
        if shared:
            found[kind] = effects.over_seeds(shared)
    return found


def _by_seed(cell: Cell, kind: str) -> dict[Replicate, float]:
    spent = {replicate(run): _sum(run.get("cost") or {}, kind) for run in cell.runs}
    return {seed: amount for seed, amount in spent.items() if amount is not None}


def _sum(cost: Mapping[str, Any], kind: str) -> float | None:
    parts = [cost.get(name) for name in PARTS[kind]]
    known = [float(part) for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
