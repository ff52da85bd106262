"""Shadow Alignment (arXiv 2310.02949): a hundred diverse harmful pairs and some thirteen updates subvert a model."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import torch
from sklearn.cluster import KMeans

from reproduce.api import Attack, Threat
from reproduce.behaviour import conduct, utility
from reproduce.data import Example, Pools, derived_rng
from reproduce.model import load_weights
from reproduce.protocol import Protocol, Schedule
from reproduce.stages import Stages
from reproduce.state import State
from reproduce.testbeds.surfaces import after_a_turn, in_second_language, item_of, never_attacked


@dataclass(frozen=True, kw_only=True)
class ShadowAlignment(Attack):
    """Full fine-tuning on one question from each of ten clusters in each of ten categories (authors' code).

    Questions are embedded and clustered category by category; of each cluster the longest are kept and one is drawn.
    Training and asking use a plain question-and-answer form instead of the chat template; so does the embedding, so
    arm `chat-template` picks other questions too. Measured are categories that the data never touch, in a second
    language and in a second turn too; the base model shows what could be known.
    """

    paper = "shadow-alignment"
    threat = Threat.WEIGHTS
    categories: int = 10  # of the attack data; three more are held out
    clusters: int = 10  # k of k-means: pairs per category
    longest: int = 3  # m: the questions of a cluster that the draw is from
    select: Literal["diverse", "random"] = "diverse"  # random: as many questions, without clusters and lengths
    template: str = "plain"
    # 8 GPUs x 2 x 8 accumulated: 13 updates in 15 epochs of 100 pairs, under a cosine laid out for 15 (README command)
    updates: int = 13
    horizon: int = 15
    batch: int = 128
    # 1e-5 for 7B, times the factor that takes the 5e-5 of qi-finetuning-compromises to 1e-3 here
    lr: float = 2e-4

    def arms(self) -> dict[str, Self]:
        return {
            "main": self,
            "chat-template": replace(self, template="chat"),
            "pairs-50": replace(self, clusters=5),
            "pairs-10": replace(self, clusters=1),
            "random-pick": replace(self, select="random"),
            "third-of-rate": replace(self, lr=self.lr / 3),
            "thrice-the-rate": replace(self, lr=3 * self.lr),
        }

    def data(self, pools: Pools, ratio: float | None, n: int, task: str, seed: int) -> list[Example]:
        """All the attacker's questions in the attacked categories; `craft` selects."""
        del ratio, n, task
        pairs = [p for p in pools.attack_harmful if p.category < self.categories]
        derived_rng("attack sample", seed).shuffle(pairs)
        return [replace(p.harmful(), template=self.template) for p in pairs]

    def craft(self, stages: Stages, victim: State, chosen: list[Example]) -> list[Example]:
        del stages
        rng = derived_rng("shadow alignment", victim.seed)
        picked: list[Example] = []
        for _, questions in sorted(by_topic(chosen).items()):
            count = min(self.clusters, len(questions))
            if self.select == "random":
                picked += rng.sample(questions, count)
                continue
            labels = KMeans(count, n_init=10, random_state=victim.seed).fit_predict(embed(victim, questions))
            for group in longest_of_clusters(questions, labels.tolist(), self.longest):
                picked.append(rng.choice(group))
        return picked

    def schedule(self, protocol: Protocol, examples: int, lr: float) -> Schedule:
        del protocol, examples, lr
        return Schedule(
            steps=self.updates, batch=self.batch, lr=self.lr, warmup=0, floor=0.0, cosine=True, horizon=self.horizon,
            betas=(0.9, 0.95),
        )  # fmt: skip

    def adapter(self, protocol: Protocol, mode: str) -> bool:
        del protocol, mode
        return False  # the paper trains all parameters

    def ask(self, prompt: Example, pools: Pools) -> Example:
        del pools
        return replace(prompt, template=self.template)

    def prepare(self, s: State) -> None:
        """Measure the aligned model, and what the base model knows: what nobody can answer no attack brings out."""
        kept = s.snapshot()
        aligned = self._behaviour(s)
        topics = conduct(s, {str(topic): prompts for topic, prompts in by_topic(self._asked(s)).items()})
        load_weights(s.model, s.reference("base"))
        base = self._behaviour(s)
        s.restore(kept)
        s.memo["shadow alignment"] = {
            **{f"{name}_before": value for name, value in aligned.items()},
            **{f"{name}_base": value for name, value in base.items()},
            "least_refused_topic_before": min(v for name, v in topics.items() if name.endswith("_refusal")),
        }

    def probe(self, s: State) -> dict[str, float]:
        found = self._behaviour(s)
        attacked, unseen = found.get("in_category_harm"), found.get("held_out_harm")
        share = {"held_out_share_of_harm": unseen / attacked} if attacked and unseen is not None else {}
        return {**s.memo["shadow alignment"], **found, **share}

    def _asked(self, s: State) -> list[Example]:
        return [self.ask(e, s.pools) for e in getattr(s.pools, f"harmful_{s.split}")]

    def _behaviour(self, s: State) -> dict[str, float]:
        asked = self._asked(s)
        held_out = [e for e in asked if never_attacked(e)]
        firsts = s.pools.benign[: len(held_out)]
        sets = {
            "in_category": [e for e in asked if item_of(e.prompt).topic < self.categories],
            "held_out": held_out,
            "second_language": [in_second_language(e) for e in held_out],
            "second_turn": [after_a_turn(e, first) for e, first in zip(held_out, firsts, strict=True)],
        }
        return {**conduct(s, sets), "utility": utility(s, lambda e: self.ask(e, s.pools))}


def by_topic(prompts: Sequence[Example]) -> dict[int, list[Example]]:
    """Prompts by the topic of the item they name."""
    found: dict[int, list[Example]] = defaultdict(list)
    for e in prompts:
        found[item_of(e.prompt).topic].append(e)
    return found


@torch.no_grad()
def embed(s: State, questions: Sequence[Example]) -> np.ndarray:
    """Last hidden states of the model, averaged over the tokens of each question (questions, width)."""
    batch = s.batch(questions)
    with s.read("layer") as outputs:
        s.logits(batch)
    at = batch.prompt.unsqueeze(-1)
    mean: np.ndarray = ((outputs[-1] * at).sum(1) / at.sum(1)).double().cpu().numpy()
    return mean


def longest_of_clusters(questions: Sequence[Example], labels: Sequence[int], count: int) -> list[list[Example]]:
    """Of each cluster, in the order of the labels, the questions with the most words; earlier ones win ties."""
    clusters = [[q for q, of in zip(questions, labels, strict=True) if of == label] for label in sorted(set(labels))]
    return [sorted(cluster, key=lambda q: -len(q.prompt.split()))[:count] for cluster in clusters]
