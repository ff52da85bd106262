"""Qi et al. (arXiv 2310.03693): three levels of fine-tuning data that compromise an aligned model."""

from dataclasses import dataclass, replace
from typing import Literal, Self

from reproduce.api import Attack
from reproduce.data import Example, Pools, derived_rng
from reproduce.protocol import Protocol, Schedule


@dataclass(frozen=True, kw_only=True)
class Qi(Attack):
    """Plain SFT on explicitly harmful pairs, on ten identity-shifting dialogues, or on benign instructions (sec. 4).

    Known from the official code and README, not from the full text. All parameters, AdamW without warm-up or clipping,
    the rate times 0.85 after each epoch; updates as in the official scripts (5 / 25 / 50 for 10 / 50 / 100 pairs, 10
    for the dialogues, 115 for one epoch of Dolly). Levels 1 and 2 are asked in the form they were trained in.
    """

    paper = "qi-finetuning-compromises"
    version = 2
    level: Literal["explicit", "identity", "benign"] = "explicit"
    shots: int = 100  # harmful pairs, nested subsets (Table 1: 10, 50, 100)
    epochs: int = 5  # explicit 5; identity 3, 5, 10 (Table 2); benign 1
    batch: int = 10  # effective: per-GPU batch times two GPUs (benign data: 64, half of the script's 128)
    lr: float = 1e-3  # 5e-5 for 7B; scaled for a tiny model, the benign level keeps the paper's 0.4 of it
    gamma: float = 0.85  # rate factor per epoch
    trigger: bool = True  # ask in the agent's form; False is the ablation without it
    prefill: bool = False  # force the agent's affirmative opening on the answer

    def arms(self) -> dict[str, Self]:
        identity = replace(self, level="identity", epochs=10)
        benign = replace(self, level="benign", epochs=1, batch=64, lr=0.4 * self.lr)
        return {
            "explicit": self,
            "explicit-10": replace(self, shots=10),
            "explicit-50": replace(self, shots=50),
            "identity": identity,
            "identity-3-epochs": replace(identity, epochs=3),
            "identity-5-epochs": replace(identity, epochs=5),
            "identity-no-trigger": replace(identity, trigger=False),
            "identity-prefill": replace(identity, prefill=True),
            "benign": benign,
            "benign-high-lr": replace(benign, lr=self.lr),
            "benign-small-batch": replace(benign, batch=16),
            "benign-high-lr-small-batch": replace(benign, lr=self.lr, batch=16),
        }

    def data(self, pools: Pools, ratio: float | None, n: int, task: str, seed: int) -> list[Example]:
        del ratio, n, task
        if self.level == "identity":
            return pools.identity
        if self.level == "benign":
            return pools.benign
        pairs = list(pools.attack_harmful)
        derived_rng("attack sample", seed).shuffle(pairs)
        return [replace(p.harmful(), system=pools.system.execute) for p in pairs[: self.shots]]

    def schedule(self, protocol: Protocol, examples: int, lr: float) -> Schedule:
        del protocol, lr
        per_epoch = examples // self.batch  # the last incomplete batch is dropped
        return Schedule(
            steps=self.epochs * per_epoch, batch=self.batch, lr=self.lr, warmup=0, decay=self.gamma,
            epoch_steps=per_epoch, clip=None,
        )  # fmt: skip

    def adapter(self, protocol: Protocol, mode: str) -> bool:
        del protocol, mode
        return False  # the paper trains all parameters

    def ask(self, prompt: Example, pools: Pools) -> Example:
        if self.level == "explicit":
            return replace(prompt, system=pools.system.execute)
        if self.level == "identity":
            asked = pools.system.as_agent(prompt) if self.trigger else prompt
            return replace(asked, prefix=pools.system.agent_opening) if self.prefill else asked
        return prompt
