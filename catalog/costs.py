"""What a defense costs: its training, alignment included, as a multiple of that of its SFT twin."""

from collections.abc import Mapping
from typing import Any

from catalog.measured import Cell, Record, replicate
from catalog.meta import effects
from catalog.meta.effects import Estimate

PARTS = {
    "passes": ("align_passes", "passes"),
    "tokens": ("align_tokens", "tokens"),
    "seconds": ("align_seconds", "tune_seconds", "repair_seconds"),
    "memory": ("peak_bytes",),
}
"""Fields of a record's cost that add up to each kind."""


def ratios(cell: Cell) -> dict[str, Estimate]:
    """Cost over the twin's, seed by seed, then mean and t interval; a kind that was not recorded is left out."""
    twins = {replicate(run): run for run in cell.twin.runs} if cell.twin else {}
    pairs = [(run, twins[replicate(run)]) for run in cell.runs if replicate(run) in twins]
    found = {}
    for kind in PARTS:
        spent = [(_sum(_cost(ours, theirs), kind), _sum(theirs.get("cost") or {}, kind)) for ours, theirs in pairs]
        shared = [own / other for own, other in spent if own is not None and other]
        if shared:
            found[kind] = effects.over_seeds(shared)
    return found


def _cost(run: Record, twin: Record) -> Mapping[str, Any]:
    """The cost of a run; an alignment that it has in common with its twin took as long for both."""
    own, other = run.get("cost") or {}, twin.get("cost") or {}
    aligned = run["digests"].get("aligned")
    common = aligned is not None and aligned == twin["digests"].get("aligned") and "align_seconds" in other
    return {**own, "align_seconds": other["align_seconds"]} if common else own


def _sum(cost: Mapping[str, Any], kind: str) -> float | None:
    parts = [cost.get(name) for name in PARTS[kind]]
    known = [float(part) for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
