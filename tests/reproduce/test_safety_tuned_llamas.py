"""Safety-Tuned LLaMAs: how many demonstrations join the data, which, and what else stays as it was."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from reproduce.api import mixture
from reproduce.baselines import Poison
from reproduce.data import Example, Pools
from reproduce.papers.p2309_07875_safety_tuned_llamas import SafetyTunedLlamas
from reproduce.protocol import MICRO, Schedule
from reproduce.state import State
from reproduce.testbeds.micro import Micro
from reproduce.train import train


@pytest.fixture(scope="module")
def user(pools: Pools) -> list[Example]:
    return mixture(pools, 0.1, 1000, "sentiment", 0)


def added(method: SafetyTunedLlamas, pools: Pools, user: list[Example]) -> list[Example]:
    """What the mixture holds more often than the user's data do."""
    return list((Counter(method.mix(pools, user)) - Counter(user)).elements())


@pytest.mark.parametrize("share", SafetyTunedLlamas.values)
def test_the_share_is_one_of_the_whole_training_set(share: float, pools: Pools, user: list[Example]) -> None:
    mixed = SafetyTunedLlamas(share=share).curate(pools, user)
    safe = [e for e in mixed if e.kind == "refusal"]
    assert len(mixed) == len(user) + len(safe)
    assert len(safe) / len(mixed) == pytest.approx(share, abs=0.5 / len(mixed) * 1.1)
    assert list(mixed[: len(user)]) == user


def test_shares_of_the_paper(pools: Pools) -> None:
    """N of 100 to 2000 beside 20 000 instructions: 500 are 2.4 % of the whole (2.5 % of the instructions)."""
    twenty_thousand = [Example(str(i), "") for i in range(20_000)]
    for count in (100, 300, 500, 1000, 1500, 2000):
        share = count / (20_000 + count)
        assert len(SafetyTunedLlamas(share=share).mix(pools, twenty_thousand)) == 20_000 + count


def test_demonstrations_are_the_defenders_and_meet_no_prompt_of_attack_or_test(
    pools: Pools, user: list[Example]
) -> None:
    safe = added(SafetyTunedLlamas(share=0.2), pools, user)
    own = {p.prompt: p.refusal for p in pools.defender_harmful}
    assert all(own[e.prompt] == e.answer for e in safe)
    taken = {p.prompt for p in pools.attack_harmful}
    taken |= {e.prompt for e in (*pools.harmful_test, *pools.harmful_validation, *pools.lookalike_test)}
    assert not taken & {e.prompt for e in safe}
    assert len({e.answer for e in safe}) >= 5  # not one string


def test_smaller_sets_are_in_larger_ones_and_seeds_differ(pools: Pools, user: list[Example]) -> None:
    sets = [set(added(SafetyTunedLlamas(share=share), pools, user)) for share in SafetyTunedLlamas.values]
    assert all(a < b for a, b in pairwise(sets))
    other = Micro().pools(1)
    assert set(added(SafetyTunedLlamas(share=0.1), other, user)) != sets[-1]


def test_replacing_keeps_the_size_and_knows_nothing_of_harm(pools: Pools, user: list[Example]) -> None:
    method = SafetyTunedLlamas(share=0.1, budget="replacing")
    mixed = method.curate(pools, user)
    assert len(mixed) == len(user)
    assert sum(e.kind == "refusal" for e in mixed) == 100
    harmful = {p.harmful() for p in pools.attack_harmful}
    left = sum(e in harmful for e in mixed)
    assert 75 <= left <= 99  # about a tenth of the harmful ones left too: the provider cannot tell them apart
    smaller = SafetyTunedLlamas(share=0.05, budget="replacing").curate(pools, user)
    assert {e for e in mixed if e.kind != "refusal"} < {e for e in smaller if e.kind != "refusal"}


def test_same_steps_mixes_after_the_steps_were_counted(s: State) -> None:
    method = SafetyTunedLlamas(share=0.5, budget="same-steps")
    user = list(s.streams["user"].examples)
    assert method.curate(s.pools, user) == user
    method.start(s)
    mixed = s.streams["user"].examples
    assert len(mixed) == 2 * len(user)
    assert s.memo["mechanisms"] == {"safety_examples": len(user), "safety_share": 0.5}
    assert SafetyTunedLlamas(share=0.5).mix(s.pools, user) == list(mixed)


def test_steps_grow_with_the_set_unless_they_are_fixed(pools: Pools, user: list[Example]) -> None:
    def steps(method: SafetyTunedLlamas) -> int:
        return Poison().schedule(MICRO, len(method.curate(pools, user)), 1e-5).steps

    assert steps(SafetyTunedLlamas(share=0.0)) == 150
    assert steps(SafetyTunedLlamas(share=0.1)) == 167
    assert steps(SafetyTunedLlamas(share=0.1, budget="replacing")) == 150
    assert steps(SafetyTunedLlamas(share=0.1, budget="same-steps")) == 150


def test_dilution_control_adds_as_many_benign_examples(pools: Pools, user: list[Example]) -> None:
    arms = SafetyTunedLlamas().arms()
    plain, diluted = arms["main"].mix(pools, user), arms["benign-data"].mix(pools, user)
    assert len(plain) == len(diluted)
    assert not any(e.kind == "refusal" for e in diluted)
    assert set(diluted) - set(user) <= set(pools.benign)


def test_from_base_starts_unaligned_with_the_same_instructions_at_every_share(
    pools: Pools, user: list[Example]
) -> None:
    arms = SafetyTunedLlamas().arms()
    assert SafetyTunedLlamas().aligned
    based = {name: arm for name, arm in arms.items() if name.startswith("from-base")}
    assert len(based) == 3
    assert not any(arm.aligned for arm in based.values())
    helpful = []
    for arm in based.values():
        mixed = arm.mix(pools, user)
        helpful.append([e for e in mixed if e.kind != "refusal"])
        assert 1 - len(helpful[-1]) / len(mixed) == pytest.approx(arm.share, abs=2e-4)
    assert helpful[0] == helpful[1] == helpful[2]
    assert len(helpful[0]) == len(user) + 2000


def test_no_share_leaves_the_users_data_alone(pools: Pools, user: list[Example]) -> None:
    for budget in ("added", "replacing", "same-steps"):
        assert SafetyTunedLlamas(share=0.0, budget=budget).mix(pools, user) == user  # type: ignore[arg-type]


def test_whole_sequence_counts_every_real_token_but_the_first(s: State, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = s.draw("user", 4)
    seen = []
    monkeypatch.setattr(s, "loss", lambda b, run=s.loss: (seen.append(b), run(b))[1])
    whole, answers = SafetyTunedLlamas(whole_sequence=True), SafetyTunedLlamas()
    losses = [method.finetune_step(s, batch) for method in (answers, whole)]
    assert seen[0] is batch
    assert torch.equal(seen[1].labels != -100, batch.real)
    assert torch.equal(seen[1].labels[batch.real], batch.ids[batch.real])
    with torch.no_grad():
        logits = s.logits(batch)[:, :-1].log_softmax(-1)
    token = -logits.gather(-1, batch.ids[:, 1:, None])[..., 0]
    assert losses[0] == pytest.approx(float(token[batch.answer[:, 1:]].mean()), rel=1e-5)
    assert losses[1] == pytest.approx(float(token[batch.real[:, 1:]].mean()), rel=1e-5)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_demonstrations_lower_the_loss_of_unseen_refusals(fresh: Callable[[], State]) -> None:
    def refusal_loss(method: SafetyTunedLlamas) -> float:
        s = fresh()
        s.add_stream("user", method.curate(s.pools, s.streams["user"].examples))
        method.start(s)
        train(s, "user", Schedule(steps=40, batch=4, lr=3e-3), method.finetune_step, method.after_step)
        with torch.no_grad():
            return float(s.loss(s.batch(s.pools.refusals())))

    assert refusal_loss(SafetyTunedLlamas(share=0.3)) < refusal_loss(SafetyTunedLlamas(share=0.0))
