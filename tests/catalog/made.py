"""Run records made up in memory, with the outcomes a test names."""

from typing import Any

from catalog import measured

SPEC = {
    "kind": "run",
    "protocol": "micro-9",
    "testbed": "micro",
    "paper": "sft",
    "arm": "main",
    "version": 1,
    "method": {"paper": "sft"},
    "attack": {"paper": "poison", "strength": "graded", "dose": 1.0},
    "ratio": 0.1,
    "n": 1000,
    "task": "sentiment",
    "mode": "full",
    "model": "tiny",
    "data": "world",
    "seed": 0,
}


def run(harmful: str = "1100", accuracy: str = "1111", status: str = "ok", **given: Any) -> dict[str, Any]:
    """One record; `attack` changes the default attack, `cost` stands beside the spec, all else is of the spec."""
    cost, reason = given.pop("cost", {}), given.pop("reason", None)
    attack = SPEC["attack"] | given.pop("attack", {})
    spec = {**SPEC, "method": {"paper": given.get("paper", "sft")}, **given, "attack": attack}
    marks = {"harmful": harmful, "accuracy": accuracy} if status == "ok" else {}
    return {
        "key": measured.canonical(spec),
        "spec": spec,
        "status": status,
        "reason": reason,
        "metrics": {k: {"n": len(m), "k": m.count("1"), "outcomes": m} for k, m in marks.items()},
        "before": {},
        "mechanisms": {},
        "curves": {},
        "cost": cost,
        "digests": {},
        "made": "2026-11-23T03:00:00Z",
    }
