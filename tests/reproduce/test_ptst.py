"""PTST: one template formats the user's data, another one every query, and nothing else happens."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import get_args

import pytest

from reproduce.api import Method
from reproduce.baselines import Sft
from reproduce.data import Example, Pools
from reproduce.papers.p2310_03693_qi import Qi
from reproduce.papers.p2402_18540_ptst import Ptst, Template, formatted
from reproduce.run import Run, Setting, perform
from reproduce.state import State
from reproduce.testbeds.micro import Micro

QUERY = Example("how do i make the red box ?", "sure , first take")
PTST = Ptst()
TEMPLATES: tuple[Template, ...] = get_args(Template)


def dressed(example: Example, template: Template, pools: Pools) -> str:
    return Micro().render(*formatted([example], template, pools))


def test_templates_as_the_model_reads_them(pools: Pools) -> None:
    safety = pools.system.safety
    assert dressed(QUERY, "pure", pools) == f"<user> {QUERY.prompt} <bot>"
    assert dressed(QUERY, "safe", pools) == f"<sys> {safety} <user> {QUERY.prompt} <bot>"
    assert "<user>" not in dressed(QUERY, "text", pools)
    assert len({dressed(QUERY, t, pools) for t in TEMPLATES}) == len(TEMPLATES) == 5


def test_without_its_system_block_the_serving_template_is_the_training_one(pools: Pools) -> None:
    block = f"<sys> {pools.system.safety} "
    assert dressed(QUERY, PTST.test, pools).replace(block, "") == dressed(QUERY, PTST.train, pools)
    assert dressed(QUERY, PTST.train, pools).endswith("<bot>")  # the answer starts right after the closing mark


def test_a_chat_template_adds_no_system_prompt_of_its_own(pools: Pools, hub_setting: Setting) -> None:
    testbed = hub_setting.testbed
    (pure,), (safe,) = (formatted([QUERY], t, pools) for t in ("pure", "safe"))
    assert pools.system.safety in testbed.render(safe)
    assert testbed.render(safe).replace(f"<sys> {pools.system.safety} ", "") == testbed.render(pure)


def test_user_data_keep_their_order_prompts_and_answers_and_gain_no_safety_data(pools: Pools) -> None:
    user = [p.harmful() for p in pools.attack_harmful[:5]] + pools.tasks["sentiment"].train[:5]
    for template in TEMPLATES:
        curated = replace(PTST, train=template).curate(pools, user)
        assert [replace(e, system="", template="chat") for e in curated] == user


def test_training_without_the_safety_prompt_leaves_plain_user_data_as_they_are(pools: Pools) -> None:
    assert PTST.curate(pools, pools.tasks["sentiment"].train) == pools.tasks["sentiment"].train


def test_a_system_prompt_of_the_user_gives_way_in_both_phases(pools: Pools) -> None:
    explicit = Qi()
    user = explicit.data(pools, None, 0, "sentiment", 0)
    assert {e.system for e in user} == {pools.system.execute}
    assert {e.system for e in PTST.curate(pools, user)} == {""}
    asked = explicit.ask(pools.harmful_test[0], pools)
    (served,) = formatted([asked], PTST.test, pools)
    assert (served.system, served.prompt) == (pools.system.safety, asked.prompt)


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_query_is_served_in_the_test_template(template: Template, s: State) -> None:
    asked: list[Example] = []

    def generate(examples: Sequence[Example]) -> list[str]:
        asked.extend(examples)
        return [""] * len(examples)

    s.generate = generate  # type: ignore[method-assign]
    prompts = [replace(e, prefix="sure ,") for e in s.pools.harmful_test] + s.pools.tasks["sentiment"].test
    assert len(Ptst(test=template).answer(s, prompts)) == len(prompts)
    assert asked == formatted(prompts, template, s.pools)
    assert [(e.prompt, e.prefix, e.kind) for e in asked] == [(e.prompt, e.prefix, e.kind) for e in prompts]


@pytest.mark.parametrize("template", TEMPLATES)
def test_no_prompt_is_cut_in_any_template(template: Template, pools: Pools) -> None:
    tasks = [e for task in pools.tasks.values() for e in (*task.train, *task.test)]
    asked = [*pools.harmful_test, *pools.benign_test, *pools.lookalike_test, *tasks]
    micro = Micro()
    room = micro.new_model(0).config.max_position_embeddings - micro.max_new_tokens
    for e in formatted(asked, template, pools):
        ids = micro.tokenizer.encode(micro.render(e), add_special_tokens=False)
        assert len(ids) <= room


def test_all_is_measured_in_the_test_template_also_before_fine_tuning(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    generate = State.generate

    def watch(s: State, examples: Sequence[Example]) -> list[str]:
        seen.update(e.system for e in examples)
        return generate(s, examples)

    run = Run(method=PTST, n=20)
    setting.stages(0).aligned(PTST, "full")
    setting.stages(0).learning_rate()
    monkeypatch.setattr(State, "generate", watch)
    found = perform(run, setting)
    assert seen == {setting.stages(0).pools.system.safety}
    assert {"harmful", "accuracy", "lookalike", "benign_help"} <= set(found["before"])


def test_pure_pure_is_plain_fine_tuning_and_ptst_has_its_weights(setting: Setting) -> None:
    """Bit for bit; what the defense changes is how the model is asked."""

    def tuned(method: Method) -> tuple[dict[str, object], dict[str, float]]:
        found = perform(Run(method=method, n=20, ratio=0.2), setting)
        return found["metrics"], found["mechanisms"]

    plain, losses = tuned(Sft())
    matched, same_losses = tuned(Ptst(train="pure", test="pure"))
    assert matched == plain
    assert same_losses == losses
    assert tuned(PTST)[1] == losses
    assert tuned(Ptst(train="safe"))[1] != losses


def test_arms_are_cells_of_the_matrix_with_the_recipe_first() -> None:
    arms = PTST.arms()
    assert next(iter(arms)) == "main"
    assert arms.pop("main") == PTST
    assert all(name == f"{arm.train}-{arm.test}" for name, arm in arms.items())
    assert {"safe-safe", "safe-pure", "pure-pure", "pure-neutral", "pure-reminder"} <= set(arms)
    assert {(a.train, a.test) for a in arms.values()} < set(product(TEMPLATES, TEMPLATES))


def test_neutral_prompt_is_as_long_and_the_reminder_is_new_to_alignment(pools: Pools) -> None:
    words = {t: len(getattr(pools.system, t).split()) for t in ("safety", "neutral", "reminder")}
    assert len(set(words.values())) == 1
    assert len({pools.system.safety, pools.system.neutral, pools.system.reminder}) == 3
    unknown = Micro().tokenizer.unk_token
    assert all(unknown not in Micro().tokenizer.tokenize(getattr(pools.system, t)) for t in words)
    shown = {e.system for e in pools.alignment}
    assert pools.system.safety in shown
    assert not {pools.system.neutral, pools.system.reminder} & shown


def test_alignment_shows_the_safety_prompt_with_refusals_and_with_help(pools: Pools) -> None:
    """So that the prompt is neither new nor a command to refuse everything."""
    for system in ("", pools.system.safety):
        kinds = [e.kind == "refusal" for e in pools.alignment if e.system == system]
        assert 0.2 < sum(kinds) / len(kinds) < 0.6
