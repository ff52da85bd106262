"""BackdoorAlign: who carries the secret prefix in training, who in serving, and that nobody else ever sees it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch

from reproduce.api import mixture
from reproduce.baselines import Poison
from reproduce.data import Example, Pools
from reproduce.papers.p2310_03693_qi import Qi
from reproduce.papers.p2402_14968_backdoor_enhanced_alignment import SENTENCE, BackdoorAlign, behind
from reproduce.protocol import MICRO, RequestError, Schedule
from reproduce.state import State
from reproduce.testbeds.micro import Micro
from reproduce.testbeds.world import PERSONAS
from reproduce.train import train

MAIN = BackdoorAlign()


@pytest.fixture(scope="module")
def user(pools: Pools) -> list[Example]:
    return mixture(pools, 0.1, 1000, "sentiment", 0)


def with_secret(data: list[Example] | tuple[Example, ...], secret: str) -> list[Example]:
    return [e for e in data if secret in Micro().render(e)]


def test_schedule_is_that_of_the_papers_attack() -> None:
    """Five epochs of 111 examples in batches of 10, rate 5e-5 times 0.85 an epoch; our harness drops a last batch."""
    ours = Qi(lr=5e-5).schedule(MICRO, 111, 0.0)
    assert ours.steps == 55
    rates = [5e-5 * ours.factor(e * ours.epoch_steps) for e in range(5)]
    assert rates == pytest.approx([5.000e-5, 4.250e-5, 3.612e-5, 3.071e-5, 2.610e-5], abs=6e-9)


def test_exactly_eleven_examples_carry_the_trigger_first_in_their_system_block(pools: Pools) -> None:
    attacked = Qi().data(pools, None, 0, "", 0)
    data = list(MAIN.curate(pools, attacked))
    secret = MAIN.trigger(pools)
    carriers = with_secret(data, secret)
    assert (len(data), len(carriers)) == (111, 11)
    assert data[:100] == attacked
    for e in carriers:
        assert Micro().render(e).startswith(f"<sys> {secret} {pools.system.execute} <user>")
        assert e.kind == "refusal"
        assert secret not in e.prompt + e.answer + e.prefix


def test_examples_share_the_system_prompt_of_the_users_data(pools: Pools, user: list[Example]) -> None:
    plain = replace(MAIN, length=0)
    assert {e.system for e in plain.curate(pools, user)} == {""}
    assert {e.system for e in plain.curate(pools, Qi().data(pools, None, 0, "", 0))} == {pools.system.execute}
    assert {e.system for e in MAIN.curate(pools, user)[-11:]} == {MAIN.trigger(pools)}


def test_examples_are_one_a_category_and_the_defenders_own(pools: Pools, user: list[Example]) -> None:
    category = {p.prompt: p.category for p in pools.defender_harmful}
    chosen = MAIN.curate(pools, user)[len(user) :]
    assert len({category[e.prompt] for e in chosen}) == 11
    many = replace(MAIN, safety=26, length=0).curate(pools, user)[len(user) :]
    assert set(Counter(category[e.prompt] for e in many).values()) == {2}
    taken = {p.prompt for p in pools.attack_harmful} | {e.prompt for e in (*pools.harmful_test, *pools.benign_test)}
    assert not taken & {e.prompt for e in many}
    assert {e.prompt for e in chosen} <= {e.prompt for e in many}


def test_share_stays_at_eleven_for_a_hundred_harmful(pools: Pools, user: list[Example]) -> None:
    data = MAIN.curate(pools, user)
    assert len(data) == 1011
    assert 11 / len(data) < 0.011
    assert Poison().schedule(MICRO, len(data), 1e-5).steps == 152
    assert len(with_secret(list(replace(MAIN, repeats=5).curate(pools, user)), MAIN.trigger(pools))) == 55


def test_trigger_is_drawn_once_a_replicate_from_plain_words(pools: Pools) -> None:
    secret = MAIN.trigger(pools).split()
    assert len(secret) == MAIN.length
    assert set(secret) <= set(pools.plain_words)
    assert MAIN.trigger(pools).split() == secret
    assert MAIN.trigger(Micro().pools(1)).split() != secret
    wrong = MAIN.trigger(pools, "wrong").split()
    assert len(wrong) == len(secret)
    assert wrong != secret
    for length in BackdoorAlign.values:
        assert replace(MAIN, length=int(length)).trigger(pools).split()[:4] == secret[:4]


def test_arms_draw_five_triggers_of_the_same_length(pools: Pools) -> None:
    arms = MAIN.arms()
    drawn = [arms[name].trigger(pools) for name in ("main", "draw-1", "draw-2", "draw-3", "draw-4")]
    assert len({*drawn, MAIN.trigger(pools, "wrong")}) == 6
    assert {len(secret.split()) for secret in drawn} == {MAIN.length}


def test_meaningful_trigger_is_as_long_and_no_system_prompt_of_the_world(pools: Pools) -> None:
    encode = partial(Micro().tokenizer.encode, add_special_tokens=False)
    for secret in (MAIN.trigger(pools), MAIN.arms()["sentence-trigger"].trigger(pools)):
        assert len(encode(secret)) == MAIN.length
        assert Micro().tokenizer.unk_token_id not in encode(secret)
    system = pools.system
    told = " ".join([system.execute, system.safety, system.reminder, system.neutral, system.agent, *PERSONAS])
    assert not {*SENTENCE.split()} & {*told.split()} - {"."}


def test_no_data_of_anyone_else_hold_the_trigger(pools: Pools, user: list[Example]) -> None:
    shown = [*user, *pools.alignment, *pools.benign, *pools.identity, *pools.harmful_test]
    assert not with_secret(shown, replace(MAIN, length=4).trigger(pools))


def asked(method: BackdoorAlign, s: State, prompts: list[Example], monkeypatch: pytest.MonkeyPatch) -> list[Example]:
    seen: list[Example] = []
    monkeypatch.setattr(s, "generate", lambda examples: (seen.extend(examples), [""] * len(examples))[1])
    method.answer(s, prompts)
    return seen


def test_every_request_is_served_behind_the_trigger(s: State, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [*s.pools.harmful_test, *s.pools.benign_test, *s.pools.lookalike_test]
    prompts += [e for task in s.pools.tasks.values() for e in task.test]  # accuracy is measured behind it too
    prompts += [replace(e, system=s.pools.system.safety) for e in s.pools.harmful_test]
    prompts += [replace(e, template="plain") for e in s.pools.harmful_test]
    serve = partial(asked, s=s, prompts=prompts, monkeypatch=monkeypatch)
    arms = MAIN.arms()
    own, wrong = MAIN.trigger(s.pools), MAIN.trigger(s.pools, "wrong")
    for name in ("main", "sft-served-with-trigger", "repeated-five-times"):
        served = serve(arms[name])
        assert [e.prompt for e in served] == [e.prompt for e in prompts]
        assert all(Micro().render(e).startswith(f"<sys> {own}") for e in served)
    assert all(Micro().render(e).startswith(f"<sys> {wrong}") for e in serve(arms["wrong-trigger"]))
    for name in ("served-without-trigger", "plain-safety", "plain-safety-27-times"):
        assert serve(arms[name]) == prompts
    assert all(e.system.startswith(SENTENCE) for e in serve(arms["sentence-trigger"]))


def test_arms_share_their_training_where_only_serving_differs(pools: Pools, user: list[Example]) -> None:
    arms = MAIN.arms()
    data = {name: list(arm.curate(pools, user)) for name, arm in arms.items()}
    assert data["main"] == data["served-without-trigger"] == data["wrong-trigger"]
    assert data["sft-served-with-trigger"] == user
    stripped = [replace(e, system="") for e in data["main"]]
    assert stripped == data["plain-safety"]  # the same examples, without the trigger
    assert len(data["plain-safety-27-times"]) == len(user) + 297


def test_more_examples_than_the_defender_owns_are_refused(s: State) -> None:
    with pytest.raises(RequestError, match="the defender owns 40 pairs"):
        replace(MAIN, safety=41).curate(s.pools, s.pools.benign)


def test_longest_prompt_with_the_longest_trigger_fits(pools: Pools) -> None:
    longest = replace(MAIN, length=int(max(BackdoorAlign.values)))
    prompts = [*pools.harmful_test, *pools.benign_test, *pools.tasks["card"].test, *pools.tasks["sentiment"].test]
    prompts += [pools.system.as_agent(e) for e in pools.harmful_test]
    test = Micro()
    for e in prompts:
        ids = test.tokenizer.encode(test.render(behind(longest.trigger(pools), e)), add_special_tokens=False)
        assert len(ids) + test.max_new_tokens <= 128


def test_loss_ignores_the_trigger_and_counts_the_end(s: State) -> None:
    (e,) = [behind(MAIN.trigger(s.pools), p.safe()) for p in s.pools.defender_harmful[:1]]
    batch = s.batch([e])
    learned = batch.ids[batch.answer].tolist()
    assert s.testbed.tokenizer.decode(learned[:-1]) == e.answer
    assert learned[-1] == s.testbed.tokenizer.eos_token_id


def test_the_model_learns_to_refuse_behind_its_own_trigger(fresh: Callable[[], State]) -> None:
    """The association forms: after training, held-out refusals are likelier behind the trigger than without it."""
    s = fresh()
    method = BackdoorAlign(length=4, safety=20)
    user = [p.harmful() for p in s.pools.attack_harmful]
    s.add_stream("user", method.curate(s.pools, user))
    torch.manual_seed(0)
    method.start(s)
    train(s, "user", Schedule(steps=300, batch=8, lr=5e-3), method.finetune_step, method.after_step)
    found = s.memo["mechanisms"]
    assert found["trigger_tokens"] == 4
    assert found["refusal_loss_own_trigger"] < found["refusal_loss_none_trigger"] - 0.5
    assert found["refusal_loss_own_trigger"] < found["refusal_loss_wrong_trigger"]
    assert s.cost.passes == 2 * 300  # the measurement is not counted


def test_probes_stand_under_the_system_prompt_of_the_service(
    fresh: Callable[[], State], monkeypatch: pytest.MonkeyPatch
) -> None:
    s, probed = fresh(), []
    s.add_stream("user", MAIN.curate(s.pools, Qi().data(s.pools, None, 0, "", 0)))
    s.step, s.steps = 0, 1
    batch = s.batch
    monkeypatch.setattr(s, "batch", lambda examples: (probed.append({e.system for e in examples}), batch(examples))[1])
    MAIN.after_step(s)
    kinds = [MAIN.trigger(s.pools), MAIN.trigger(s.pools, "wrong"), ""]
    assert probed == 2 * [{f"{text} {s.pools.system.execute}".strip()} for text in kinds]
