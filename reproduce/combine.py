"""Defenses of different stages deployed together, as one method."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reproduce.api import Attack, Method, Stage, overrides
from reproduce.baselines import Sft
from reproduce.data import Example, Pools
from reproduce.protocol import RequestError

if TYPE_CHECKING:
    from reproduce.state import Batch, State

HOOKS_OF_ONE = ("finetune_step", "answer", "betas")  # each can be one part's only


@dataclass(frozen=True, kw_only=True)
class Combination(Method):
    """Every part acts at its own stage: one may align, one step, one serve; all can curate and repair.

    Parts keep separate memories. Raises RequestError when two parts claim the same hook that only one can have.
    """

    parts: tuple[Method, ...] = ()

    def __post_init__(self) -> None:
        self._the_one("aligner", [p for p in self.parts if p.aligner()])
        for hook in HOOKS_OF_ONE:
            self._the_one(hook, [p for p in self.parts if overrides(p, hook)])

    @property
    def paper(self) -> str:  # type: ignore[override]
        return "+".join(p.paper for p in self.parts)

    @property
    def version(self) -> int:  # type: ignore[override]
        """Grows with that of any part, so that records of an earlier one are superseded."""
        return sum(p.version for p in self.parts)

    @property
    def stage(self) -> Stage | None:  # type: ignore[override]
        """That of the part that acts last: it decides what an attacker who owns the loop takes away."""
        return max((p.stage for p in self.parts if p.stage), key=list(Stage).index, default=None)

    def configuration(self) -> dict[str, Any]:
        return {"paper": self.paper, "parts": [p.configuration() for p in self.parts]}

    @property
    def betas(self) -> tuple[float, float]:
        return self._owner("betas").betas

    def aligner(self) -> Method | None:
        return next((own for p in self.parts if (own := p.aligner())), None)

    def curate(self, pools: Pools, user: Sequence[Example]) -> Sequence[Example]:
        for part in self.parts:
            user = part.curate(pools, user)
        return user

    def start(self, s: "State") -> None:
        for part in self.parts:
            with _memory_of(s, part):
                part.start(s)

    def finetune_step(self, s: "State", batch: "Batch") -> float:
        owner = self._owner("finetune_step")
        with _memory_of(s, owner):
            return owner.finetune_step(s, batch)

    def after_step(self, s: "State") -> None:
        for part in self.parts:
            with _memory_of(s, part):
                part.after_step(s)

    def repair(self, s: "State") -> None:
        for part in self.parts:
            with _memory_of(s, part):
                part.repair(s)

    def answer(self, s: "State", prompts: Sequence[Example]) -> list[str]:
        owner = self._owner("answer")
        with _memory_of(s, owner):
            return owner.answer(s, prompts)

    def skip(self, attack: Attack, adapter: bool) -> str | None:
        reasons = [f"{p.paper}: {reason}" for p in self.parts if (reason := p.skip(attack, adapter))]
        return "; ".join(reasons) or None

    def _owner(self, hook: str) -> Method:
        return next((p for p in self.parts if overrides(p, hook)), Sft())

    def _the_one(self, hook: str, claimants: Sequence[Method]) -> None:
        if len(claimants) > 1:
            names = " and ".join(p.paper for p in claimants)
            raise RequestError(f"{self.paper}: {names} both need {hook}; combine defenses of different stages")


@contextmanager
def _memory_of(s: "State", part: Method) -> Iterator[None]:
    """Let the part see only what it remembered itself; its mechanisms are shown under its name."""
    shared = s.memo
    s.memo = shared.setdefault(f"memory of {part.paper}", {})
    try:
        yield
    finally:
        own = s.memo.get("mechanisms", {})
        s.memo = shared
        shared.setdefault("mechanisms", {}).update({f"{part.paper}_{k}".replace("-", "_"): v for k, v in own.items()})
