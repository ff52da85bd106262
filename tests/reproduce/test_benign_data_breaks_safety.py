"""Benign data that break safety: ranking rules, anchors, the pool, updates, and the selection against brute force."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from reproduce.attribution import alignment
from reproduce.baselines import Sft
from reproduce.data import Example, Pools, derived_rng
from reproduce.papers import p2404_01099_benign_data_breaks_safety as paper
from reproduce.papers.p2404_01099_benign_data_breaks_safety import (
    BenignSelection,
    anchor_sets,
    formats,
    nearness,
    ranked,
)
from reproduce.protocol import MICRO, RequestError
from reproduce.stages import Stages
from reproduce.state import State
from reproduce.testbeds import language as lang
from reproduce.testbeds import world

ARMS = BenignSelection().arms()
SMALL = BenignSelection(count=6, anchors=2, anchor_tokens=3, represented=5)


def pool_of(pools: Pools, seed: int = 0) -> list[Example]:
    return BenignSelection().data(pools, None, 0, "", seed)


@pytest.fixture
def victim(stages: Stages) -> State:
    """An aligned model, large enough weights for gradients to differ."""
    s = stages.ready(Sft(), "full", adapter=False)
    with torch.no_grad():
        for name, p in s.model.named_parameters():
            p.mul_(1.0 if "norm" in name else 5.0)
    return s


@pytest.mark.parametrize("arm", list(ARMS))
def test_every_arm_takes_25_updates_on_100_examples(arm: str) -> None:
    schedule = ARMS[arm].schedule(MICRO, ARMS[arm].count, 0.123)
    assert (schedule.steps, schedule.batch, schedule.clip) == (25, 20, None)
    rates = [schedule.factor(step) for step in range(25)]
    assert rates == pytest.approx([0.85**epoch for epoch in range(5) for _ in range(5)])


def test_the_script_on_two_gpus_would_take_ten() -> None:
    two = replace(BenignSelection(), batch=40).schedule(MICRO, 100, 0.0)
    assert two.steps == 10  # 20 examples are left over in each epoch


def test_selected_and_random_differ_in_nothing_but_the_data() -> None:
    for ending in ("", "-half-lr", "-double-lr"):
        top, chance = ARMS[f"top{ending}"], ARMS[f"random{ending}"]
        assert top == replace(chance, by="gradient")
    assert ARMS["top-lora"].adapter(MICRO, "full")
    assert ARMS["top-lora"].lr == pytest.approx(0.2 * ARMS["top"].lr)
    assert not any(a.adapter(MICRO, "double-lora") for name, a in ARMS.items() if name != "top-lora")


def test_pool_is_large_benign_and_of_several_formats(pools: Pools) -> None:
    pool = pool_of(pools)
    assert len(pool) == len(set(pool)) >= 5000
    assert set(pool) == set(pools.benign)
    assert pool != pool_of(pools, seed=1)
    kinds = {e.kind for e in pool}
    assert kinds == {"make", "list", "add", "describe", "where", "mood"}
    forbidden = set(lang.HEADS[: world.FORBIDDEN * world.HEADS_PER_TOPIC])
    words = {word for e in pool for word in f"{e.prompt} {e.answer}".split()}
    assert not words & (forbidden | world.REFUSAL_WORDS)
    assert words & set(lang.HEADS)  # the check would see one


def test_anchors_share_prompts_and_a_topic_and_are_disjoint_from_test_prompts(pools: Pools) -> None:
    harmful, one, two = anchor_sets(pools.attack_harmful, 10, seed=0)
    prompts = [e.prompt for e in harmful]
    assert len(set(prompts)) == 10
    assert [e.prompt for e in one] == [e.prompt for e in two] == prompts
    assert all(a.answer != b.answer for a, b in zip(one, two, strict=True))
    assert all(set(e.answer.split()) & world.REFUSAL_WORDS for e in one + two)
    assert not any(set(e.answer.split()) & world.REFUSAL_WORDS for e in harmful)
    topic = {p.category for p in pools.attack_harmful if p.prompt in prompts}
    assert len(topic) == 1
    items = {tuple(w for w in e.prompt.split() if w in names) for e in harmful for names in [world_names()]}
    tested = pools.harmful_test + pools.harmful_validation
    assert not items & {tuple(w for w in e.prompt.split() if w in world_names()) for e in tested}
    assert anchor_sets(pools.attack_harmful, 10, seed=0) == [harmful, one, two]


def world_names() -> set[str]:
    return {*lang.MODIFIERS, *lang.HEADS}


def test_too_many_anchors_are_refused(pools: Pools) -> None:
    with pytest.raises(RequestError, match="largest topic"):
        anchor_sets(pools.attack_harmful, 300, seed=0)


def test_nearest_of_the_dossier() -> None:
    close = torch.tensor([[0.9, 0.1], [0.7, 0.6]])
    assert ranked(nearness(close, 1), "top") == [0, 1]
    assert ranked(nearness(close, 2), "top") == [1, 0]
    assert nearness(close, 2).tolist() == pytest.approx([0.5, 0.65])


def test_ranking_drops_zeros_and_starts_from_either_end() -> None:
    scores = torch.tensor([0.3, 0.0, -0.2, 0.5, 0.3])
    assert ranked(scores, "top") == [3, 0, 4, 2]
    assert ranked(scores, "bottom") == [2, 0, 4, 3]


def unit_gradient(s: State, e: Example, tokens: int | None) -> torch.Tensor:
    s.clear_grads()
    batch = s.batch([e])
    if tokens is not None:
        at = batch.labels[0].ne(-100).nonzero().flatten()[tokens:]
        batch.labels[0, at] = -100
    s.loss(batch).backward()  # type: ignore[no-untyped-call]
    return normalize(torch.cat([g.flatten() for g in s.grads()]), dim=0)


@pytest.mark.parametrize("safe_weight", [1.0, 0.0])
def test_gradient_selection_is_that_of_a_plain_loop(victim: State, stages: Stages, safe_weight: float) -> None:
    attack = replace(SMALL, safe_weight=safe_weight)
    pool = attack.data(stages.pools, None, 0, "", 0)
    picked = attack.craft(stages, victim, pool)
    shuffled = list(stages.pools.attack_harmful)
    derived_rng("anchors", 0).shuffle(shuffled)
    means = [
        torch.stack([unit_gradient(victim, e, 3) for e in one]).mean(0) for one in anchor_sets(shuffled, 2, seed=0)
    ]
    candidates = torch.stack([unit_gradient(victim, e, None) for e in pool])
    scores = candidates @ (means[0] - safe_weight * means[1] - safe_weight * means[2])
    kept = [pool.index(e) for e in picked]
    assert len(set(kept)) == 6
    rest = [i for i in range(len(pool)) if i not in kept]
    assert float(scores[kept].min()) >= float(scores[rest].max()) - 1e-5
    seen = victim.memo["mechanisms"]
    assert seen["score_max"] == pytest.approx(float(scores.max()), rel=1e-3)
    bottom = replace(attack, end="bottom").craft(stages, victim, pool)
    assert not set(bottom) & set(picked)
    assert victim.memo["mechanisms"]["score_min"] == pytest.approx(float(scores.min()), rel=1e-3)


def test_representation_selection_takes_the_nearest_end_states(victim: State, stages: Stages) -> None:
    attack = replace(SMALL, by="representation")
    pool = attack.data(stages.pools, None, 0, "", 0)
    picked = attack.craft(stages, victim, pool)
    shuffled = list(stages.pools.attack_harmful)
    derived_rng("anchors", 0).shuffle(shuffled)

    def state(e: Example) -> torch.Tensor:
        with torch.no_grad():
            out = victim.model(input_ids=victim.batch([e]).ids, output_hidden_states=True)
        return normalize(out.hidden_states[-1][0, -1], dim=0)

    anchors = torch.stack([state(p.harmful()) for p in shuffled[:5]])
    scores = (torch.stack([state(e) for e in pool]) @ anchors.T).max(1).values
    kept = [pool.index(e) for e in picked]
    rest = [i for i in range(len(pool)) if i not in kept]
    assert float(scores[kept].min()) >= float(scores[rest].max()) - 1e-5
    assert victim.memo["mechanisms"]["score_max"] <= 1 + 1e-6


def test_ranking_is_computed_once_a_victim(
    victim: State, stages: Stages, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = replace(stages, cache=tmp_path)
    pool = SMALL.data(mine.pools, None, 0, "", 0)
    first = SMALL.craft(mine, victim, pool)
    computed: list[int] = []

    def counted(s: State, examples: list[Example], directions: torch.Tensor) -> torch.Tensor:
        computed.append(len(examples))
        return alignment(s, examples, directions)

    monkeypatch.setattr(paper, "alignment", counted)
    assert SMALL.craft(mine, victim, pool) == first
    replace(SMALL, safe_weight=0.0, end="bottom").craft(mine, victim, pool)
    assert computed == []
    with torch.no_grad():
        next(iter(victim.params())).mul_(1.5)
    SMALL.craft(mine, victim, pool)
    assert computed == [len(pool)]  # another victim has a ranking of its own


def test_random_draws_differ_by_seed_and_the_pool_must_be_large_enough(
    victim: State, stages: Stages, pools: Pools
) -> None:
    chance = replace(SMALL, by="chance")
    draws = [chance.craft(stages, victim, pool_of(pools, seed)) for seed in range(2)]
    assert [len(set(d)) for d in draws] == [6, 6]
    assert len(set(draws[0]) & set(draws[1])) <= 1
    with pytest.raises(RequestError, match="different examples"):
        SMALL.craft(stages, victim, pool_of(pools)[:3])


def test_format_shares_by_hand() -> None:
    made = {kind: Example(f"{kind} ?", "one two three .", kind=kind) for kind in ("make", "list", "add", "where")}
    pool = [made["make"], made["list"], *[made["add"]] * 3, *[made["where"]] * 3]
    found = formats([made["make"], made["list"], made["list"], made["add"]], pool)
    assert found["list_like_share"] == 0.75
    assert found["format_enrichment"] == pytest.approx(3.0)  # 75 % of the selection, 25 % of the pool
    assert (found["share_list"], found["pool_share_add"], found["share_where"]) == (0.5, 0.375, 0.0)
    assert found["answer_words"] == 4
