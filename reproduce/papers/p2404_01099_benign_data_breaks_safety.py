"""He et al. (arXiv 2404.01099): benign examples that lie close to harmful ones undo safety when trained on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Literal, Self

import torch
from torch import Tensor

from reproduce.api import Attack
from reproduce.attribution import alignment, cosines, end_states, mean_direction
from reproduce.data import Example, Pair, Pools, derived_rng, digest
from reproduce.protocol import Protocol, RequestError, Schedule
from reproduce.stages import Stages
from reproduce.state import State

LIST_LIKE = ("make", "list")  # recipes go through their steps, lists count their parts; other answers do not


@dataclass(frozen=True, kw_only=True)
class BenignSelection(Attack):
    """Fine-tune on 100 benign examples chosen by the aligned model's own gradients or states (authors' code).

    Gradient matching scores a candidate by the dot product of its unit-norm gradient with the mean unit-norm gradient
    of harmful anchors, minus those with two sets of safe answers to the same prompts. Representation matching takes
    the cosine of end states to the nearest harmful anchor. Training is plain SFT of all parameters, the rate times
    0.85 after each epoch; nothing harmful is trained on.
    """

    paper = "benign-data-breaks-safety"
    by: Literal["gradient", "representation", "chance"] = "gradient"
    end: Literal["top", "bottom"] = "top"  # of the ranking
    safe_weight: float = 1.0  # of both safe sets; 0 leaves the harmful anchors alone
    count: int = 100  # selected examples
    anchors: int = 10  # harmful pairs of one topic, and as many safe answers in each of two sets
    anchor_tokens: int = 10  # answer tokens of an anchor that carry loss
    represented: int = 100  # harmful pairs of representation matching
    nearest: int = 1  # cosines averaged per candidate (code: top_n_score)
    epochs: int = 5
    batch: int = 20
    lr: float = 1e-3  # 5e-5 for 7B, scaled as for Qi et al., who train in the same way
    gamma: float = 0.85  # rate factor per epoch
    low_rank: bool = False  # train an adapter instead (Lisa, Table 15)

    def arms(self) -> dict[str, Self]:
        chance, state = replace(self, by="chance"), replace(self, by="representation")
        return {
            "top": self,
            "random": chance,
            "bottom": replace(self, end="bottom"),
            "harmful-anchors-only": replace(self, safe_weight=0.0),
            "representation-top": state,
            "representation-bottom": replace(state, end="bottom"),
            "top-lora": replace(self, low_rank=True, lr=0.2 * self.lr),  # Lisa: 1e-5; 25 times below an equal dose
            "top-half-lr": replace(self, lr=0.5 * self.lr),
            "random-half-lr": replace(chance, lr=0.5 * self.lr),
            "top-double-lr": replace(self, lr=2 * self.lr),
            "random-double-lr": replace(chance, lr=2 * self.lr),
        }

    def data(self, pools: Pools, ratio: float | None, n: int, task: str, seed: int) -> list[Example]:
        """The pool to choose from: each benign example once, in an order of the seed."""
        del ratio, n, task
        pool = list(dict.fromkeys(pools.benign))
        derived_rng("benign selection", seed).shuffle(pool)
        return pool

    def craft(self, stages: Stages, victim: State, chosen: list[Example]) -> list[Example]:
        if len(chosen) < self.count:
            raise RequestError(f"count {self.count}: the benign pool has {len(chosen)} different examples")
        seen: dict[str, float] = {}
        picked = chosen[: self.count]
        if self.by != "chance":
            scores = self.scores(stages, victim, chosen, seen)
            order = ranked(scores, self.end)[: self.count]
            picked = [chosen[i] for i in order]
            seen |= {"score_min": float(scores[order].min()), "score_max": float(scores[order].max())}
        victim.memo["mechanisms"] = {**seen, **formats(picked, chosen)}
        return picked

    def scores(self, stages: Stages, victim: State, pool: Sequence[Example], seen: dict[str, float]) -> Tensor:
        """One score per candidate; what the anchors looked like goes to `seen`."""
        victim.model.eval()
        harmful = list(stages.pools.attack_harmful)
        derived_rng("anchors", stages.seed).shuffle(harmful)
        asked = {"version": self.version, "pool": digest(pool)}
        if self.by == "representation":
            wanted = [p.harmful() for p in harmful[: self.represented]]

            def compare() -> dict[str, Tensor]:
                return {"cosines": cosines(end_states(victim, pool), end_states(victim, wanted))}

            close = stages.of_model("states", victim, {**asked, "anchors": digest(wanted)}, compare)["cosines"]
            return nearness(close, self.nearest)
        sets = anchor_sets(harmful, self.anchors, stages.seed)
        asked |= {"anchors": [digest(one) for one in sets], "tokens": self.anchor_tokens}

        def match() -> dict[str, Tensor]:
            directions = torch.stack([mean_direction(victim, one, self.anchor_tokens) for one in sets])
            return {"matches": alignment(victim, pool, directions), "anchors": directions @ directions.T}

        found = stages.of_model("gradients", victim, asked, match)
        lengths = found["anchors"].diagonal().sqrt()
        between = found["anchors"] / lengths.outer(lengths)
        seen |= {
            "anchor_agreement": float(lengths[0]),
            "anchor_cosine_safe": float(between[1, 2]),
            "anchor_cosine_harmful_safe": float(between[0, 1:].mean()),
        }
        return signed(found["matches"], self.safe_weight)

    def schedule(self, protocol: Protocol, examples: int, lr: float) -> Schedule:
        del protocol, lr
        per_epoch = examples // self.batch  # the last incomplete batch is dropped
        return Schedule(
            steps=self.epochs * per_epoch, batch=self.batch, lr=self.lr, warmup=0, decay=self.gamma,
            epoch_steps=per_epoch, clip=None,
        )  # fmt: skip

    def adapter(self, protocol: Protocol, mode: str) -> bool:
        del protocol, mode
        return self.low_rank  # the paper trains all parameters


def signed(matches: Tensor, safe_weight: float) -> Tensor:
    """Bidirectional anchoring: towards the harmful set (column 0), away from the two safe ones."""
    return matches @ matches.new_tensor([1.0, -safe_weight, -safe_weight])


def nearness(close: Tensor, nearest: int) -> Tensor:
    """Mean of each row's largest cosines."""
    return close.topk(nearest, dim=1).values.mean(1)


def ranked(scores: Tensor, end: str) -> list[int]:
    """Candidates from the chosen end of the ranking on, ties in order; a score of zero is invalid."""
    order: list[int] = scores.argsort(descending=end == "top", stable=True).tolist()
    return [i for i in order if scores[i] != 0]


def anchor_sets(harmful: Sequence[Pair], count: int, seed: int) -> list[list[Example]]:
    """Harmful answers to prompts of one topic, and two sets of different refusals of the same prompts."""
    sizes = Counter(p.category for p in harmful)
    topics = sorted(topic for topic, size in sizes.items() if size >= count)
    if not topics:
        raise RequestError(f"anchors {count}: the largest topic of the attacker's pool has {max(sizes.values())} pairs")
    rng = derived_rng("anchor topic", seed)
    topic = rng.choice(topics)
    pairs = [p for p in harmful if p.category == topic][:count]
    wordings = sorted({p.refusal for p in harmful})
    others = [rng.choice([w for w in wordings if w != p.refusal]) for p in pairs]
    again = [replace(p.safe(), answer=other) for p, other in zip(pairs, others, strict=True)]
    return [[p.harmful() for p in pairs], [p.safe() for p in pairs], again]


def formats(picked: Sequence[Example], pool: Sequence[Example]) -> dict[str, float]:
    """Shares of answer formats in the selection and in the pool it comes from, and how long its answers are."""
    kinds = sorted({e.kind for e in pool})
    ours, theirs = (Counter(e.kind for e in some) for some in (picked, pool))
    share = sum(ours[kind] for kind in LIST_LIKE) / len(picked)
    base = sum(theirs[kind] for kind in LIST_LIKE) / len(pool)
    return {
        **{f"share_{kind}": ours[kind] / len(picked) for kind in kinds},
        **{f"pool_share_{kind}": theirs[kind] / len(pool) for kind in kinds},
        "list_like_share": share, "format_enrichment": share / base,
        "answer_words": mean(len(e.answer.split()) for e in picked), "pool_size": float(len(pool)),
    }  # fmt: skip
