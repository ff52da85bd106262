"""Reverse preference attacks: what each cell trains on, defenses at their null values, and the contrasts by hand."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from reproduce.api import sft_step
from reproduce.data import Example, Pools
from reproduce.fluency import LIMIT, Fluency, answered
from reproduce.lab import Lab
from reproduce.model import weights
from reproduce.papers import p2409_12914_reverse_preference as rpa
from reproduce.papers.p2402_01109_vaccine import Vaccine
from reproduce.papers.p2405_18641_lisa import Lisa
from reproduce.papers.p2409_12914_reverse_preference import ATTACKS, Bench, Cell, ReversePreference, contrasts, gainers
from reproduce.ppo import Learner
from reproduce.probes import answer_logprobs, sequence_kl
from reproduce.protocol import Schedule
from reproduce.proximal import Proximal
from reproduce.rewards import ranks_right
from reproduce.run import Setting
from reproduce.state import Batch, State
from reproduce.train import train

SMALL = ReversePreference(
    n=12, batch=4, lr=5e-3, lr_dpo=5e-3, lr_ppo=5e-3, betas=(0.1, 1.0), updates=2, rollout=4, tokens=3, prompts=4,
    samples=4,
)  # fmt: skip


@pytest.fixture
def bench(setting: Setting, tmp_path: Path) -> Bench:
    return Bench(Lab(setting, 0, tmp_path), SMALL)


class Trained(Exception):
    """What a cell would have trained."""


def asked_of(bench: Bench, monkeypatch: pytest.MonkeyPatch, attack: str, defense: str) -> tuple[State, Schedule, Any]:
    """State, schedule and step of a cell, before its first step."""
    found: list[Any] = []

    def stop(s: State, stream: str, schedule: Schedule, step: Any) -> None:
        assert stream == "user"
        found.extend((s, schedule, step))
        raise Trained

    monkeypatch.setattr(rpa, "train", stop)
    with pytest.raises(Trained):
        bench.cell(attack, defense, 0.1)
    return found[0], found[1], found[2]


@pytest.mark.parametrize(
    ("attack", "steps", "batch"), [("sft", 125, 8), ("dpo", 125, 8), ("ppo", 80, 64), ("reinforce", 40, 64)]
)
def test_update_counts(bench: Bench, monkeypatch: pytest.MonkeyPatch, attack: str, steps: int, batch: int) -> None:
    """One epoch of 1000 pairs in batches of 8; rollouts times inner epochs."""
    bench.study = replace(ReversePreference(), prompts=4, samples=4)
    _, schedule, _ = asked_of(bench, monkeypatch, attack, "none")
    assert (schedule.steps, schedule.batch) == (steps, batch)
    assert schedule.factor(0) == 1.0
    assert schedule.factor(steps - 1) == pytest.approx(1 / steps)


def test_attackers_defenders_and_test_prompts_are_disjoint(pools: Pools) -> None:
    attack, defend = ({p.prompt for p in side} for side in (pools.attack_harmful, pools.defender_harmful))
    judged = {e.prompt for e in [*pools.harmful_test, *pools.harmful_validation]}
    assert len(attack) == len(pools.attack_harmful) == 400
    assert not attack & defend
    assert not (attack | defend) & judged


@pytest.mark.parametrize("attack", list(ATTACKS))
def test_streams_of_a_cell(bench: Bench, monkeypatch: pytest.MonkeyPatch, attack: str) -> None:
    """The attacker brings compliant answers to its own prompts, the defender refusals of its own."""
    s, _, _ = asked_of(bench, monkeypatch, attack, "none")
    pools = bench.pools
    assert s.streams["user"].examples == [p.harmful() for p in pools.attack_harmful]
    assert s.streams["refusals"].examples == [p.safe() for p in pools.defender_harmful]
    assert s.streams["align"].examples == pools.alignment
    judged = {e.prompt for e in bench.forbidden}
    assert not judged & {e.prompt for name in ("user", "refusals") for e in s.streams[name].examples}


def gradients(s: State, step: Any, batch: Batch) -> list[torch.Tensor]:
    s.clear_grads()
    s.step = 0
    step(s, batch)
    return s.grads()


@pytest.mark.parametrize("attack", ["sft", "dpo"])
def test_refusal_loss_adds_the_weighted_nll_of_refusals(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    bench.study = replace(SMALL, lambda_r=3.0)
    plain, _, plain_step = asked_of(bench, monkeypatch, attack, "none")
    defended, _, step = asked_of(bench, monkeypatch, attack, "refusal_loss")
    examples = plain.streams["user"].take(4)
    attacked, both = (
        gradients(plain, plain_step, plain.batch(examples)),
        gradients(defended, step, plain.batch(examples)),
    )
    plain.clear_grads()
    plain.backward(3.0 * plain.loss(plain.draw("refusals", 4)))
    for one, other, refusals in zip(attacked, both, plain.grads(), strict=True):
        torch.testing.assert_close(other, one + refusals, rtol=1e-4, atol=1e-6)


def test_offline_models_are_attacked_with_the_unmodified_loss(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    s, schedule, step = asked_of(bench, monkeypatch, "dpo", "vaccine")
    prepared = bench.lab.stages.aligned(Vaccine(), "full").tensors
    assert all(torch.equal(w, prepared[n]) for n, w in weights(s.model).items())
    plain, same, plain_step = asked_of(bench, monkeypatch, "dpo", "none")
    assert schedule == same
    assert any(not torch.equal(w, prepared[n]) for n, w in weights(plain.model).items())
    plain.restore([prepared[n] for n, _ in plain.model.named_parameters()])
    batch = s.draw("user", 4)
    reference = step(s, batch)
    assert reference == pytest.approx(math.log(2), abs=1e-5)  # the prepared model is its own reference
    assert plain_step(plain, batch) != pytest.approx(math.log(2), abs=1e-5)  # ... which the undefended one is not


NULL = [
    ("sft", "refusal_loss", {"lambda_r": 0.0}),
    ("dpo", "refusal_loss", {"lambda_r": 0.0}),
    ("ppo", "refusal_loss", {"lambda_r": 0.0}),
    ("sft", "lisa", {"k_align": 0, "rho": 0.0}),
    ("dpo", "lisa", {"k_align": 0, "rho": 0.0}),
    ("ppo", "lisa", {"k_align": 0, "rho": 0.0}),
    ("ppo", "reward_shaping", {"lambda_c": 0.0}),
]


@pytest.mark.parametrize(("attack", "defense", "fields"), NULL)
def test_a_defense_at_its_null_value_is_the_plain_attack(
    bench: Bench, attack: str, defense: str, fields: dict[str, Any]
) -> None:
    bench.study = replace(SMALL, **fields)
    ours, plain = bench.cell(attack, defense, 0.1), bench.cell(attack, "none", 0.1)
    assert ours.after == pytest.approx(plain.after, rel=1e-6, abs=1e-6)
    bench.study = replace(SMALL, lambda_r=1.0, lambda_c=1.0, k_align=1, k_user=1)
    assert bench.cell(attack, defense, 0.1).after["kl"] != pytest.approx(plain.after["kl"], rel=1e-6)


def test_attack_raises_the_implicit_margin_and_beta_is_that_of_the_loss(bench: Bench) -> None:
    """The reference is the model before: nothing has a margin or a distance there, all attacks move away from it."""
    assert all(scores["margin"] == scores["kl"] == 0.0 for scores in bench.before.values())
    bench.study = replace(SMALL, n=80)
    weak, strong = bench.cell("dpo", "none", 0.01), bench.cell("dpo", "none", 1.0)
    for cell in (weak, strong):
        assert cell.after["margin"] > 0
        assert cell.after["kl"] > 0
    assert weak.after["margin"] != strong.after["margin"]


def scores_of(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, attack: str, defense: str
) -> tuple[Learner, Sequence[Example]]:
    learners: list[Learner] = []

    def remember(*args: Any) -> Learner:
        learners.append(Learner(*args))
        return learners[-1]

    monkeypatch.setattr(rpa, "Learner", remember)
    asked_of(bench, monkeypatch, attack, defense)
    return learners[0], [p.harmful() for p in bench.pairs[:2]] + [p.safe() for p in bench.pairs[:2]]


def test_explicit_defenses_change_the_score_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.study = replace(SMALL, lambda_c=2.0, eta=0.1, limit=0.2)
    plain, drawn = scores_of(bench, monkeypatch, "ppo", "none")
    reward, cost = bench.reward(drawn), bench.cost(drawn)
    torch.testing.assert_close(plain.score(drawn), reward)
    shaped, _ = scores_of(bench, monkeypatch, "ppo", "reward_shaping")
    torch.testing.assert_close(shaped.score(drawn), reward - 2 * cost)
    constrained, _ = scores_of(bench, monkeypatch, "ppo", "safe_rlhf")
    grown = 2 * math.exp(0.1 * 2 * (float(cost.mean()) - 0.2))
    torch.testing.assert_close(constrained.score(drawn), (reward - grown * cost) / (1 + grown))
    assert float(cost.mean()) > 0.2 and grown > 2  # noqa: PT018
    assert plain.how == shaped.how == constrained.how


def test_reinforce_has_one_inner_epoch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    ppo, _ = scores_of(bench, monkeypatch, "ppo", "none")
    reinforce, _ = scores_of(bench, monkeypatch, "reinforce", "none")
    assert (ppo.how.epochs, reinforce.how.epochs) == (2, 1)
    assert replace(ppo.how, epochs=1) == reinforce.how


def test_proximal_with_cross_entropy_is_lisa(s: State, fresh: Any) -> None:
    """Step by step the same weights as the paper's own module, over more than one cycle."""
    lisa, other = Lisa(rho=50.0, k_align=2, k_user=3), fresh()
    schedule = Schedule(steps=12, batch=4, lr=1e-3)
    lisa.start(s)
    train(s, "user", schedule, lisa.finetune_step, lisa.after_step)
    proximal = Proximal(50.0, 2, 3)

    def step(s: State, batch: Batch) -> float:
        loss = sft_step(s, s.draw("align", 4) if proximal.aligning(s.step) else batch)
        proximal.pull(s)
        return loss

    train(other, "user", schedule, step)
    for ours, theirs in zip(other.snapshot(), s.snapshot(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_pull_is_rho_times_the_way_from_where_the_block_began(s: State) -> None:
    proximal = Proximal(10.0, 1, 2)
    s.step = 0
    proximal.pull(s)
    assert not any(bool(g.any()) for g in s.grads())  # a block begins at its anchor
    for s.step, moved, expected in ((1, 0.5, 0.0), (2, 0.25, 2.5), (3, 0.125, 0.0)):
        with torch.no_grad():
            for p in s.params():
                p.add_(moved)
        s.clear_grads()
        proximal.pull(s)
        for g in s.grads():
            torch.testing.assert_close(g, torch.full_like(g, expected), rtol=1e-3, atol=1e-4)


def test_sequence_kl_by_hand(s: State, fresh: Any) -> None:
    batch = s.sample(s.pools.harmful_validation[:2], 3, "a")
    other = fresh()
    with torch.no_grad():
        for p in other.params():
            p.mul_(1.2)
        now, then = answer_logprobs(s, batch), answer_logprobs(other, batch)
    total = 0.0
    for i in range(2):
        for t in range(batch.ids.shape[1] - 1):
            if batch.answer[i, t + 1]:
                total += sum(
                    math.exp(a) * (a - b) for a, b in zip(now[i, t].tolist(), then[i, t].tolist(), strict=True)
                )
    assert sequence_kl(now, then, batch) == pytest.approx(total / 2, rel=1e-3)
    assert sequence_kl(now, now, batch) == 0.0


def test_fluency_is_relative_to_the_bases_own_answers(s: State, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = s.pools.harmful_validation[:3]
    own = ["lamp .", "sure , first take", "lamp lamp"]
    monkeypatch.setattr(s, "generate", lambda asked: own)
    gate = Fluency(s, prompts)
    each = [math.exp(s.loss(s.batch([e])).item()) for e in answered(prompts, own)]
    assert gate.perplexity(own).tolist() == pytest.approx(each, rel=1e-3)
    assert gate.limit == pytest.approx(LIMIT * sorted(each)[1], rel=1e-3)
    gate.limit = sorted(each)[1] * 1.001
    assert gate(own) == [e <= gate.limit for e in each]


def test_ranking_of_pairs(bench: Bench) -> None:
    assert ranks_right(bench.reward, bench.pairs) == 100.0
    flipped = list(bench.reversed.values())
    assert ranks_right(bench.reward, flipped) == 0.0


def cell(harm: float, reward: float = 0.0, margin: float = 0.0, help_: float = 90.0, incoherent: float = 0.0) -> Cell:
    after = {"harm": harm, "reward": reward, "margin": margin, "help": help_, "incoherent": incoherent}
    return Cell({**dict.fromkeys(rpa.MEASURED, 0.0), **after}, {})


ALIGNED = cell(2.0).after


@pytest.fixture
def cells() -> dict[tuple[str, str], Cell]:
    made = {(attack, d): cell(2.0) for attack, tried in ATTACKS.items() for d in tried}
    return made | {
        ("sft", "none"): cell(82.0),
        ("dpo", "none"): cell(62.0, margin=4.0, help_=80.0),
        ("ppo", "none"): cell(42.0, reward=0.8, help_=86.0),
        ("reinforce", "none"): cell(22.0),
        ("dpo", "refusal_loss"): cell(4.0, margin=2.0, help_=77.0),
        ("ppo", "refusal_loss"): cell(12.0, reward=0.4, help_=88.0, incoherent=50.0),
        ("dpo", "lisa"): cell(6.0, margin=1.9),
        ("ppo", "lisa"): cell(13.0, reward=0.7),
        ("dpo", "vaccine"): cell(52.0, margin=5.0),
        ("ppo", "vaccine"): cell(32.0),
        ("dpo", "repnoise"): cell(22.0),
        ("ppo", "repnoise"): cell(2.0),
        ("ppo", "safe_rlhf"): cell(5.0, reward=0.5),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sft_harm_gain", 80.0),
        ("dpo_harm_gain", 60.0),
        ("ppo_harm_gain", 40.0),
        ("reinforce_harm_gain", 20.0),
        ("online_defense_harm_gain", (2 + 10 + 4 + 11) / 4),
        ("offline_defense_harm_share", (50 + 30 + 20 + 0) / 4 / 50),
        ("harmless_reward_hackers", 2.0),  # refusal loss (0.4 of 0.8, 10 points) and Safe-RLHF; Lisa gains 11 points
        ("fluent_reward_hackers", 1.0),
        ("harmless_margin_gainers", 1.0),
        ("refusal_loss_help_change", 3.0),  # -3 with DPO and +2 with PPO
    ],
)
def test_contrasts(cells: dict[tuple[str, str], Cell], name: str, value: float) -> None:
    assert contrasts(ALIGNED, cells)[name] == pytest.approx(value)


def test_help_may_change_either_way(cells: dict[tuple[str, str], Cell]) -> None:
    cells["ppo", "refusal_loss"] = cell(2.0, help_=91.0)
    assert contrasts(ALIGNED, cells)["refusal_loss_help_change"] == 5.0


def test_gains_are_over_the_undefended_aligned_model(cells: dict[tuple[str, str], Cell]) -> None:
    """A model whose preparation left harm or reward behind is not credited with it."""
    raised = {**ALIGNED, "harm": 5.0, "reward": 0.1}
    found = contrasts(raised, cells)
    assert found["dpo_harm_gain"] == 57.0
    assert found["offline_defense_harm_share"] == pytest.approx((47 + 27 + 17 - 3) / 4 / 47)
    assert found["harmless_reward_hackers"] == 2.0  # 0.3 of 0.7 is too little, but Lisa gains 8 points only


@pytest.mark.parametrize(
    ("attack", "harm", "compared"),
    [("dpo", 32.0, True), ("dpo", 31.9, False), ("ppo", 22.0, True), ("ppo", 21.9, False)],
)
def test_defenses_are_compared_when_both_undefended_attacks_work(
    cells: dict[tuple[str, str], Cell], attack: str, harm: float, compared: bool
) -> None:
    """30 points by DPO and 20 by PPO, as their own claims ask."""
    cells[attack, "none"] = cell(harm, reward=0.8, margin=4.0)
    found = contrasts(ALIGNED, cells)
    own, other = ("harmless_margin_gainers", "fluent_reward_hackers")[:: 1 if attack == "dpo" else -1]
    for name in ("online_defense_harm_gain", "offline_defense_harm_share", own):
        assert (found[name] is not None) == compared
    assert found[other] is not None
    assert found[f"{attack}_harm_gain"] == pytest.approx(harm - 2)


def test_without_a_gain_in_its_objective_there_is_none_to_halve(cells: dict[tuple[str, str], Cell]) -> None:
    cells["dpo", "none"] = cell(62.0)
    assert gainers(ALIGNED, cells, "dpo", "margin") is None
    assert contrasts(ALIGNED, cells)["harmless_margin_gainers"] is None


def test_the_study_in_miniature(setting: Setting, tmp_path: Path) -> None:
    found = SMALL.measure(Lab(setting, 0, tmp_path))
    assert rpa.SAYS.keys() <= found.findings.keys()
    for attack, tried in ATTACKS.items():
        assert {f"{m}_{attack}_{d}" for d in tried for m in rpa.MEASURED} <= found.findings.keys()
    values = [f.value for f in found.findings.values() if f.value is not None]
    assert all(math.isfinite(v) for v in values)
    assert found.findings["margin_dpo_none"].value != 0.0
    for figure in found.figures.values():
        assert figure.y
        assert all(len(series) == len(figure.x) for series in figure.y.values())
    assert found.figures["beta"].x == [0.1, 1.0]
    assert found.figures["score"].y.keys() == {d.replace("_", " ") for d in ATTACKS["ppo"]}
    assert found.findings["safe_rlhf_lambda"].value == found.figures["lambda"].y["safe rlhf"][-1]
    assert len(found.figures["lambda"].y) == 1
    for before in ("none", "vaccine", "repnoise"):
        assert {f"{name}_before_{before}" for name in ("harm", "help", "reward")} <= found.findings.keys()
