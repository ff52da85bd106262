"""Safety-Tuned LLaMAs (arXiv 2309.07875): a few per cent of safety demonstrations among the fine-tuning data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self, TypeVar

import torch

from reproduce.api import Method, Stage, sft_step
from reproduce.data import Example, Pools, derived_rng
from reproduce.state import IGNORED, Batch, State

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SafetyTunedLlamas(Method):
    """One plain cross-entropy over helpful data and N refusals, shuffled and unweighted (abstract; authors' code).

    The paper tunes a base model on helpful instructions and meets no attacker (arms from-base*); later work adds the
    demonstrations to what a user uploads for an aligned model (as in the Lisa paper, Table 3), which is the main arm.
    Larger shares contain the demonstrations of smaller ones.
    """

    paper = "safety-tuned-llamas"
    stage = Stage.FINE_TUNING
    knob = "share"
    values = (0.015, 0.025, 0.05, 0.1)
    share: float = 0.1  # of the training set (paper: N = 100 to 2000 beside 20 000; 500, "3 %"; ours: reproduce/tuning)
    budget: Literal["added", "replacing", "same-steps"] = "added"  # on top; for random user samples; in SFT's steps
    content: Literal["safety", "benign"] = "safety"  # benign: the dilution control
    origin: Literal["aligned", "base"] = "aligned"  # base: the paper's own protocol
    instructions: int = 0  # helpful instructions beside the user's data, before the share is taken (paper: 20 000)
    whole_sequence: bool = False  # loss on prompts too (code: true)

    @property
    def aligned(self) -> bool:  # type: ignore[override]
        return self.origin == "aligned"

    def arms(self) -> dict[str, Self]:
        base = replace(self, origin="base", instructions=2000, share=0.025)
        return {
            "main": self,
            "three-percent": replace(self, share=0.025),
            "replacing": replace(self, budget="replacing"),
            "same-steps": replace(self, budget="same-steps"),
            "benign-data": replace(self, content="benign"),
            "whole-sequence": replace(self, whole_sequence=True),
            "from-base": base,
            "from-base-no-safety": replace(base, share=0.0),
            "from-base-ten-percent": replace(base, share=0.1),
        }

    def curate(self, pools: Pools, user: Sequence[Example]) -> Sequence[Example]:
        return user if self.budget == "same-steps" else self.mix(pools, user)

    def start(self, s: State) -> None:
        if self.budget == "same-steps":  # after the number of steps was taken from the user's data alone
            s.add_stream("user", self.mix(s.pools, s.streams["user"].examples))
        data, own = s.streams["user"].examples, {p.safe() for p in s.pools.defender_harmful}
        count = sum(e in own for e in data)
        s.memo["mechanisms"] = {"safety_examples": count, "safety_share": count / len(data)}

    def mix(self, pools: Pools, user: Sequence[Example]) -> list[Example]:
        """The user's data with the method's own among them; the stream shuffles."""
        helpful = [*user, *shuffled(pools.benign, "instructions", pools)[: self.instructions]]
        replacing = self.budget == "replacing"
        count = round(self.share * len(helpful) / (1 if replacing else 1 - self.share))
        if replacing:
            leaves = set(shuffled(range(len(helpful)), "replaced", pools)[:count])
            helpful = [e for i, e in enumerate(helpful) if i not in leaves]
        safety = [p.safe() for p in shuffled(pools.defender_harmful, "safety sample", pools)]
        extra = safety if self.content == "safety" else shuffled(pools.benign, "dilution", pools)
        return [*helpful, *(extra * -(-count // len(extra)))[:count]]

    def finetune_step(self, s: State, batch: Batch) -> float:
        if self.whole_sequence:
            batch = replace(batch, labels=torch.where(batch.real, batch.ids, IGNORED))
        return sft_step(s, batch)


def shuffled(items: Sequence[T], purpose: str, pools: Pools) -> list[T]:
    """The replicate's order of `items`; its beginnings are nested subsets."""
    order = list(items)
    derived_rng(purpose, pools.seed).shuffle(order)
    return order
