"""PTST (arXiv 2402.18540): fine-tune without the safety prompt, serve with it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

from reproduce.api import Method, Stage
from reproduce.data import Example, Pools

if TYPE_CHECKING:
    from reproduce.state import State

Template = Literal["text", "pure", "neutral", "reminder", "safe"]


@dataclass(frozen=True, kw_only=True)
class Ptst(Method):
    """Pure tuning, safe testing (sec. 3): one template formats the user's data, another one every query.

    A template maps the user's text to the model's input: chat marks without system prompt (pure), or with the safety
    prompt, a second one that alignment never showed (reminder), or a neutral one; or no chat marks at all (text). The
    provider owns both, so a system prompt in the user's data or queries gives way. The loss is plain SFT.
    """

    paper = "ptst"
    stage = Stage.FINE_TUNING
    train: Template = "pure"
    test: Template = "safe"

    def arms(self) -> dict[str, Self]:
        matrix: list[tuple[Template, Template]] = [
            (self.train, self.test), ("safe", "safe"), ("safe", "pure"), ("pure", "pure"), ("pure", "neutral"),
            ("pure", "reminder"), ("neutral", "neutral"), ("neutral", "safe"), ("text", "text"), ("text", "safe"),
        ]  # fmt: skip
        cells = {f"{train}-{test}": replace(self, train=train, test=test) for train, test in matrix}
        return {"main": cells.pop(f"{self.train}-{self.test}"), **cells}

    def curate(self, pools: Pools, user: Sequence[Example]) -> Sequence[Example]:
        return formatted(user, self.train, pools)

    def answer(self, s: "State", prompts: Sequence[Example]) -> list[str]:
        return s.generate(formatted(prompts, self.test, s.pools))


def formatted(examples: Sequence[Example], template: Template, pools: Pools) -> list[Example]:
    """The examples in a template, whatever they came in."""
    prompts = {"safe": pools.system.safety, "neutral": pools.system.neutral, "reminder": pools.system.reminder}
    marks = "plain" if template == "text" else "chat"
    return [replace(e, system=prompts.get(template, ""), template=marks) for e in examples]
