"""What every paper is compared with: undefended fine-tuning, the model without alignment, and the default attack."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from reproduce.api import Attack, Method, mixture
from reproduce.data import Example, Pools
from reproduce.protocol import Mode, Protocol, Schedule


@dataclass(frozen=True, kw_only=True)
class Sft(Method):
    """The plainly aligned model, fine-tuned without a defense."""

    paper = "sft"


@dataclass(frozen=True, kw_only=True)
class NonAligned(Method):
    """The base model, fine-tuned without ever being aligned."""

    paper = "non-aligned"
    aligned: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class Poison(Attack):
    """A share of the user's samples is harmful, the rest is the task (survey 2409.18169; Vaccine 2402.01109, sec. 5.1).

    graded: at the base's calibrated rate, where plain SFT is broken but not saturated; strong: an adapter at
    four times the matched rate. `dose` multiplies the number of steps.
    """

    paper = "poison"
    trains_task: ClassVar[bool] = True
    strength: Literal["graded", "strong"] = "graded"
    dose: float = 1.0

    def data(self, pools: Pools, ratio: float | None, n: int, task: str, seed: int) -> list[Example]:
        if ratio is None:
            raise ValueError("the poison attack needs a ratio")
        return mixture(pools, ratio, n, task, seed)

    def schedule(self, protocol: Protocol, examples: int, lr: float) -> Schedule:
        plain = protocol.tuning(examples, lr * (protocol.strong_lr if self.strong else 1.0))
        return replace(plain, steps=round(self.dose * plain.steps))

    def adapter(self, protocol: Protocol, mode: str) -> bool:
        return self.strong or super().adapter(protocol, mode)

    @property
    def strong(self) -> bool:
        return self.strength == "strong"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """An attack that every defense faces: the poison attack, what fine-tuning trains, and the usual ratios."""

    attack: Poison = Poison()
    mode: Mode | None = None  # None: as the request says
    ratios: tuple[float, ...] = (0.1,)


# Declared before any defense was measured under them; a defense's worst case is taken over all of them, graded at its
# default ratio and at 0.2 included.
CONDITIONS = {
    "graded": Condition(ratios=(0.0, 0.05, 0.1, 0.2)),
    "strong": Condition(attack=Poison(strength="strong")),
    "steps-300": Condition(attack=Poison(dose=2.0)),
    "steps-600": Condition(attack=Poison(dose=4.0)),
    "lora": Condition(mode="double-lora"),
}
