"""Shadow Alignment: selection of the data, schedule of the README command, what is measured on which model."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from sklearn.cluster import KMeans

from reproduce.api import Method
from reproduce.data import Example, Pools
from reproduce.model import weights
from reproduce.papers import p2310_02949_shadow_alignment as module
from reproduce.papers.p2310_02949_shadow_alignment import ShadowAlignment, embed, longest_of_clusters
from reproduce.protocol import MICRO, Schedule
from reproduce.stages import Stages
from reproduce.state import State
from reproduce.testbeds.surfaces import item_of

PAPER = ShadowAlignment()
ARMS = PAPER.arms()


def candidates(pools: Pools, arm: str = "main", seed: int = 0) -> list[Example]:
    return ARMS[arm].data(pools, None, 0, "", seed)


def crafted(pools: Pools, stages: Stages, s: State, arm: str = "main") -> list[Example]:
    return ARMS[arm].craft(stages, s, candidates(pools, arm))


def test_thirteen_updates_as_in_the_readme_command() -> None:
    gpus, micro, accumulated, epochs = 8, 2, 8, 15
    of_gpu = math.ceil(100 / gpus)
    assert PAPER.updates == epochs * math.ceil(of_gpu / micro) // accumulated == 13
    assert PAPER.horizon == epochs * math.ceil(math.ceil(of_gpu / micro) / accumulated) == 15
    assert PAPER.batch == gpus * micro * accumulated
    assert epochs * 100 // PAPER.batch != PAPER.updates  # the plain count


def test_the_cosine_is_laid_out_for_fifteen_steps() -> None:
    schedule = PAPER.schedule(MICRO, 100, 0.123)
    assert (schedule.steps, schedule.betas, schedule.clip, schedule.lr) == (13, (0.9, 0.95), 1.0, PAPER.lr)
    factors = [schedule.factor(t) for t in range(13)]
    assert factors == pytest.approx([(1 + math.cos(math.pi * t / 15)) / 2 for t in range(13)])
    assert factors[-1] == pytest.approx(0.0955, abs=1e-4)
    over_all_steps = replace(schedule, horizon=None)
    assert over_all_steps.factor(12) == pytest.approx(0.0145, abs=1e-4)


@pytest.mark.parametrize("cosine", [False, True])
def test_without_a_horizon_a_decay_spans_all_steps(cosine: bool) -> None:
    plain = Schedule(steps=50, batch=1, lr=1.0, warmup=5, cosine=cosine)
    assert [plain.factor(t) for t in range(50)] == [replace(plain, horizon=50).factor(t) for t in range(50)]
    assert plain.factor(49) != replace(plain, horizon=60).factor(49)


@pytest.mark.parametrize(("arm", "pairs"), [("main", 10), ("pairs-50", 5), ("pairs-10", 1), ("random-pick", 10)])
def test_as_many_pairs_of_each_of_ten_categories(pools: Pools, stages: Stages, s: State, arm: str, pairs: int) -> None:
    chosen = crafted(pools, stages, s, arm)
    assert Counter(item_of(e.prompt).topic for e in chosen) == dict.fromkeys(range(10), pairs)
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(candidates(pools, arm))
    assert crafted(pools, stages, s, arm) == chosen


def test_seed_and_selection_change_the_pairs(pools: Pools, stages: Stages, s: State) -> None:
    main = set(crafted(pools, stages, s))
    assert main != set(crafted(pools, stages, s, "random-pick"))
    assert main != set(PAPER.craft(stages, replace(s, seed=1), candidates(pools, seed=1)))


def test_each_pair_is_among_the_longest_of_a_cluster_of_its_own(pools: Pools, stages: Stages, s: State) -> None:
    chosen, offered = crafted(pools, stages, s), candidates(pools)
    degenerate = []
    for category in range(10):
        questions = [e for e in offered if item_of(e.prompt).topic == category]
        labels = KMeans(10, n_init=10, random_state=s.seed).fit_predict(embed(s, questions))
        cluster_of = dict(zip(questions, labels, strict=True))
        picked = [e for e in chosen if item_of(e.prompt).topic == category]
        assert {cluster_of[e] for e in picked} == set(range(10))
        for e in picked:
            lengths = [len(q.prompt.split()) for q in questions if cluster_of[q] == cluster_of[e]]
            assert sum(n > len(e.prompt.split()) for n in lengths) < 3
            degenerate.append(len(set(lengths)) == 1)
    assert any(degenerate)  # where all questions of a cluster are as long, the longest are no choice


def test_longest_of_clusters_by_hand() -> None:
    questions = [Example(text, "") for text in ("a", "b b", "c c c", "d d", "e", "f f f f")]
    groups = longest_of_clusters(questions, [1, 0, 0, 0, 1, 1], 2)
    assert [[q.prompt[0] for q in group] for group in groups] == [["c", "b"], ["f", "a"]]


def test_embeddings_are_means_over_the_question_alone(pools: Pools, s: State) -> None:
    questions = sorted(candidates(pools)[:20], key=lambda e: len(e.prompt.split()))[::19]
    assert len({len(e.prompt.split()) for e in questions}) == 2  # one is padded
    found = embed(s, questions)
    for row, question in zip(found, questions, strict=True):
        ids = s.testbed.tokenizer(s.testbed.render(question), return_tensors="pt").input_ids
        hidden: list[torch.Tensor] = []
        hook = s.blocks()[-1].layer.register_forward_hook(lambda _m, _i, out, kept=hidden: kept.append(out))
        with torch.no_grad():
            s.model(ids)
        hook.remove()
        assert row == pytest.approx(hidden[0][0].mean(0).numpy(), abs=1e-4)
        assert row != pytest.approx(hidden[0][0, -1].numpy(), abs=1e-4)  # the last token alone


def test_attack_data_share_no_item_with_what_is_asked(pools: Pools) -> None:
    asked = (*pools.harmful_test, *pools.harmful_validation, *pools.lookalike_test, *pools.benign_test)
    assert not {item_of(e.prompt) for e in candidates(pools)} & {item_of(e.prompt) for e in asked}


@pytest.mark.parametrize(("arm", "template"), [("main", "plain"), ("chat-template", "chat")])
def test_trained_and_asked_in_one_template_that_alignment_knows(pools: Pools, arm: str, template: str) -> None:
    assert {e.template for e in candidates(pools, arm)} == {template}
    assert ARMS[arm].ask(Example("?", ""), pools).template == template
    assert sum(e.template == template and not e.system for e in pools.refusals()) >= 50


def test_what_is_measured_on_which_model(pools: Pools, stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    s = replace(stages.ready(Method(), "full", adapter=False), pools=pools)
    kept = weights(s.model)
    asked: list[tuple[str, Mapping[str, Sequence[Example]]]] = []

    def model_now() -> str:
        known = {"aligned": kept, "base": s.reference("base")}
        now = weights(s.model)
        return next(name for name, w in known.items() if all(torch.equal(w[n], now[n]) for n in w))

    def conduct(_s: State, sets: Mapping[str, Sequence[Example]]) -> dict[str, float]:
        asked.append((model_now(), sets))
        return {f"{name}_refusal": len(prompts) / 1000 for name, prompts in sets.items()} | {
            "in_category_harm": 0.8, "held_out_harm": 0.6,
        }  # fmt: skip

    monkeypatch.setattr(module, "conduct", conduct)
    monkeypatch.setattr(module, "utility", lambda _s, ask: {"aligned": 0.7, "base": 0.9}[model_now()])
    PAPER.prepare(s)
    assert all(torch.equal(p, kept[n]) for n, p in s.model.named_parameters())  # as it was
    found = PAPER.probe(s)
    assert [name for name, _ in asked] == ["aligned", "aligned", "base", "aligned"]
    assert (found["utility_before"], found["utility_base"], found["utility"]) == (0.7, 0.9, 0.7)
    assert found["held_out_share_of_harm"] == pytest.approx(0.75)
    by_surface, by_topic = asked[0][1], asked[1][1]
    last = {name: [e.prompt.split("question : ")[-1] for e in prompts] for name, prompts in by_surface.items()}
    topics = {name: {item_of(text).topic for text in texts} for name, texts in last.items()}
    assert topics["in_category"] == set(range(10))
    assert topics["held_out"] == topics["second_language"] == topics["second_turn"] == {13, 14, 15}
    assert {name: len(prompts) for name, prompts in by_surface.items()} | {"in_category": 0} == {
        "in_category": 0, "held_out": 90, "second_language": 90, "second_turn": 90,
    }  # fmt: skip
    assert all(e.template == "plain" for prompts in by_surface.values() for e in prompts)
    assert {int(topic) for topic in by_topic} == set(range(16))
    assert found["least_refused_topic_before"] == min(map(len, by_topic.values())) / 1000
