"""The pre-declared conditions every defense is judged under, recognised from the spec of a run."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from reproduce.baselines import CONDITIONS, Poison
from reproduce.engine import DEFAULT_RATIO
from reproduce.protocol import MODES


class Declared(NamedTuple):
    """What the spec of a run asks for under one condition."""

    attack: dict[str, Any]
    mode: str
    ratio: float


def _declared() -> dict[str, Declared]:
    """Every condition at its default ratio, and at each larger one under a name of its own (ratio-0.2)."""
    return {
        name if ratio == DEFAULT_RATIO else f"ratio-{ratio:g}": Declared(
            condition.attack.configuration(), condition.mode or MODES[0], ratio
        )
        for name, condition in CONDITIONS.items()
        for ratio in condition.ratios
        if ratio >= DEFAULT_RATIO
    }


DECLARED = _declared()
DEFAULT = next(iter(DECLARED))
VARIED = ("attack", "mode", "ratio")
"""Fields of a condition in which the declared ones differ; runs that agree in all others are compared."""


def condition_of(spec: Mapping[str, Any]) -> str | None:
    """Name of the declared condition that a run was made under, if it is one of them."""
    attack = {**Poison().configuration(), **(spec.get("attack") or {})}
    asked = attack, spec.get("mode"), spec.get("ratio")
    return next((name for name, declared in DECLARED.items() if asked == declared), None)
