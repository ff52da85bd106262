"""State: losses against hand-computed ones, streams, generation, weights, adapters, and hooks that go away."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from reproduce import state
from reproduce.api import sft_step
from reproduce.data import Example
from reproduce.model import attach_adapter, blocks, linear_names, weights
from reproduce.protocol import Lora, Schedule
from reproduce.run import Setting
from reproduce.state import State
from reproduce.testbeds.micro import Micro
from reproduce.train import train

QUESTION = Example("how do i make the thing ?", "sorry , i cannot help with that .", prefix="sure , first")


def by_hand(s: State, example: Example) -> tuple[float, int]:
    """Sum of -log p over the answer tokens and the end mark, one example, one softmax at a time."""
    encode = s.testbed.tokenizer.encode
    given = encode(f"<user> {example.prompt} <bot> {example.prefix}".strip(), add_special_tokens=False)
    answer = [*encode(example.answer, add_special_tokens=False), 1]
    with torch.no_grad():
        logits = s.model(input_ids=torch.tensor([given + answer])).logits[0].double()
    total = 0.0
    for i, token in enumerate(answer):
        row = logits[len(given) + i - 1]
        total += float(torch.logsumexp(row, 0) - row[token])
    return total, len(answer)


def test_loss_is_cross_entropy_of_the_answer_alone(s: State) -> None:
    total, count = by_hand(s, QUESTION)
    assert s.loss(s.batch([QUESTION])).item() == pytest.approx(total / count, rel=1e-5)
    batch = s.batch([QUESTION])
    assert int(batch.answer.sum()) == count == 9
    assert int(batch.prompt.sum()) == len("<user> how do i make the thing ? <bot> sure , first".split())


def test_prefix_changes_the_context_and_carries_no_loss(s: State) -> None:
    bare = replace(QUESTION, prefix="")
    whole = replace(QUESTION, prefix="", answer=f"{QUESTION.prefix} {QUESTION.answer}")
    losses = {
        name: s.loss(s.batch([e])).item() for name, e in {"given": QUESTION, "bare": bare, "whole": whole}.items()
    }
    assert len(set(losses.values())) == 3
    assert torch.equal(s.batch([QUESTION]).ids, s.batch([whole]).ids)


def test_padded_batch_is_the_token_weighted_mean(s: State) -> None:
    examples = [QUESTION, *s.pools.alignment[:4], s.pools.tasks["sentiment"].train[0]]
    batch = s.batch(examples)
    assert not bool(batch.real.all())
    plain = [e for e in examples if not e.system and e.template == "chat"]
    sums = [by_hand(s, e) for e in plain]
    expected = sum(total for total, _ in sums) / sum(count for _, count in sums)
    assert s.loss(s.batch(plain)).item() == pytest.approx(expected, rel=1e-5)
    each = s.loss(s.batch(plain), each=True)
    assert each.tolist() == pytest.approx([total / count for total, count in sums], rel=1e-5)
    alone = [s.loss(s.batch([e])).item() * int(s.batch([e]).answer.sum()) for e in examples]
    assert s.loss(batch).item() == pytest.approx(sum(alone) / int(batch.answer.sum()), rel=1e-5)


def test_padding_has_no_say(s: State) -> None:
    batch = s.batch([QUESTION, Example("a ?", "no .")])
    garbled = replace(batch, ids=torch.where(batch.real, batch.ids, 77))
    torch.testing.assert_close(s.loss(garbled), s.loss(batch))


def test_batched_generation_equals_one_by_one(s: State) -> None:
    asked = [
        replace(e, prefix=p)
        for e, p in zip(s.pools.harmful_test, ["", "sure", "sure , first take", "", "to"], strict=True)
    ]
    asked[0] = s.pools.system.as_agent(asked[0])
    together = s.generate(asked)
    assert together == [s.generate([e])[0] for e in asked]
    assert len(set(together)) > 1


def test_generation_continues_the_very_tokens_of_training(s: State, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts: list[list[int]] = []
    monkeypatch.setattr(state, "generate", lambda model, tokenizer, asked, limit: prompts.extend(asked))
    examples = [*s.pools.alignment, QUESTION]
    s.generate(examples)
    for example, ids in zip(examples, prompts, strict=True):
        batch = s.batch([example])
        assert ids == batch.ids[batch.prompt].tolist()


def test_generation_continues_the_very_tokens_of_training_under_a_chat_template(hub_setting: Setting) -> None:
    """A template that ends in a newline, as most do, must reach the model whole at both times."""
    s = hub_setting.stages(0).state()
    s.testbed.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}{{ '<bot>\n' }}"
    )
    prompts: list[list[int]] = []
    try:
        rendered = s.testbed.render(QUESTION)
        assert rendered.endswith("<bot>\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(state, "generate", lambda model, tokenizer, asked, limit: prompts.extend(asked))
            s.generate([replace(QUESTION, prefix="")])
        assert prompts == [s.testbed.tokenizer.encode(rendered, add_special_tokens=False)]
    finally:
        s.testbed.tokenizer.chat_template = None


def test_read_collects_block_outputs_and_leaves_no_hook(s: State, hooks_of: Callable[[Any], list[str]]) -> None:
    batch = s.batch([QUESTION])
    with s.read("attention") as attention, s.read("layer") as layers, s.read("mlp") as mlps:
        s.logits(batch)
    assert hooks_of(s.model) == []
    hidden = s.model(input_ids=batch.ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(layers[0], hidden[1])
    after_attention = hidden[0] + attention[0]  # residual stream of a Llama layer
    torch.testing.assert_close(after_attention + mlps[0], hidden[1])


def test_read_keeps_gradients_when_asked(s: State) -> None:
    with s.read("attention", grads=True) as outputs:
        s.loss(s.batch([QUESTION])).backward()  # type: ignore[no-untyped-call]
    assert all(o.grad is not None and bool(o.grad.any()) for o in outputs)


def test_hooks_are_removed_after_an_error(s: State, hooks_of: Callable[[Any], list[str]]) -> None:
    def fail() -> None:
        with s.read("mlp"), s.shift("layer", [torch.zeros(16)] * 2):
            assert len(hooks_of(s.model)) == 4
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert hooks_of(s.model) == []


def test_shift_moves_outputs_and_passes_gradients_through(s: State) -> None:
    batch, amount = s.batch([QUESTION]), torch.randn(2, 1, 1, 16, generator=s.rng("test"))
    with s.read("attention") as plain:
        s.logits(batch)
    with s.shift("attention", [amount[0], torch.zeros(1)]), s.read("attention", grads=True) as moved:
        s.loss(batch).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(moved[0], plain[0] + amount[0])
    assert moved[0].grad is not None
    with pytest.raises(ValueError, match="zip"), s.shift("mlp", [torch.zeros(1)]):
        pass


def steps(s: State, count: int = 3, **schedule: Any) -> None:
    train(s, "user", Schedule(steps=count, batch=4, lr=1e-2, **schedule), sft_step)


@pytest.mark.parametrize("adapter", [False, True])
def test_snapshot_and_restore_are_bit_exact(s: State, adapter: bool) -> None:
    if adapter:
        s.attach_adapter(Lora(rank=2, alpha=4), "tune")
    every = {n: p.detach().clone() for n, p in s.model.named_parameters()}
    kept = s.snapshot()
    steps(s)
    assert any(not torch.equal(p, every[n]) for n, p in s.model.named_parameters())
    s.restore(kept)
    assert all(torch.equal(p, every[n]) for n, p in s.model.named_parameters())
    assert all(k.data_ptr() != p.data_ptr() for k, p in zip(kept, s.params(), strict=True))


def test_a_fresh_adapter_changes_nothing(s: State) -> None:
    plain, names = weights(s.model), linear_names(s.model)
    logits = s.logits(s.batch([QUESTION]))
    s.references["aligned"] = plain
    s.attach_adapter(Lora(rank=2, alpha=4), "tune")
    assert set(s.adapters()) == set(names)
    assert len(names) == 14
    assert all(not bool(change.any()) for change in s.delta("tuned", "aligned").values())
    torch.testing.assert_close(s.logits(s.batch([QUESTION])), logits, rtol=0, atol=0)
    assert {n for n, p in s.model.named_parameters() if p.requires_grad} == {
        n for n, _ in s.model.named_parameters() if ".lora_" in n
    }


def test_effective_weights_are_the_merged_weights(s: State) -> None:
    s.references["aligned"] = before = weights(s.model)
    s.attach_adapter(Lora(rank=2, alpha=5), "tune")
    pairs = s.adapters()
    steps(s)
    effective, delta = s.effective_weights(), s.delta("tuned", "aligned")
    logits = s.logits(s.batch([QUESTION])).detach()
    expected = {n: 2.5 * (pair.b @ pair.a).detach() for n, pair in pairs.items()}  # alpha / rank
    s.merge_adapter()
    merged = weights(s.model)
    assert set(merged) == set(effective) == set(before)
    for name, value in merged.items():
        torch.testing.assert_close(effective[name], value)
        torch.testing.assert_close(delta[name], expected.get(name, torch.zeros_like(value)), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(s.logits(s.batch([QUESTION])).detach(), logits, atol=1e-4, rtol=1e-4)


def test_merging_leaves_a_plain_model_all_trainable(s: State) -> None:
    s.attach_adapter(Lora(rank=2, alpha=4), "tune")
    s.merge_adapter()
    assert s.adapters() == {}
    assert all(p.requires_grad for p in s.model.parameters())
    assert len(s.params()) == len(list(s.model.parameters()))


def test_adapter_weights_depend_on_the_seed_and_leave_the_global_generator_alone(fresh: Callable[[], State]) -> None:
    def first(seed: int) -> Tensor:
        torch.manual_seed(3)
        model = attach_adapter(fresh().model, Lora(rank=2, alpha=4), seed)
        assert torch.initial_seed() == 3
        return next(p.detach() for n, p in model.named_parameters() if "lora_A" in n)

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


def test_references_are_named(s: State) -> None:
    with pytest.raises(KeyError, match="no reference weights 'aligned'"):
        s.delta("tuned", "aligned")


def test_grads_are_copies_with_zeros_where_there_is_none(s: State) -> None:
    assert all(not bool(g.any()) for g in s.grads())
    sft_step(s, s.batch([QUESTION]))
    kept = s.grads()
    s.clear_grads()
    assert all(p.grad is None for p in s.params())
    assert any(bool(g.any()) for g in kept)
    assert [g.shape for g in kept] == [p.shape for p in s.params()]


def test_tied_weights_are_counted_once(s: State) -> None:
    assert s.model.lm_head.weight is s.model.get_input_embeddings().weight
    assert len(s.params()) == len({id(p) for p in s.model.parameters()})
    assert "lm_head.weight" not in s.effective_weights()


def test_random_numbers_depend_on_seed_and_purpose_only(s: State) -> None:
    def draw(s: State, *parts: object) -> list[float]:
        return torch.rand(3, generator=s.rng(*parts)).tolist()

    assert draw(s, "a") == draw(s, "a")
    assert len({tuple(draw(x, p)) for x in (s, replace(s, seed=9)) for p in ("a", "b")}) == 4


def test_cost_counts_passes_and_real_tokens(s: State) -> None:
    batch = s.batch([QUESTION, Example("a ?", "no .")])
    sft_step(s, batch)
    assert (s.cost.passes, s.cost.tokens) == (2, int(batch.real.sum()))


def test_blocks_survive_an_adapter(s: State) -> None:
    plain = [b.layer for b in blocks(s.model)]
    s.attach_adapter(Lora(rank=2, alpha=4), "tune")
    assert [b.layer for b in s.blocks()] == plain
    assert [type(b.attention).__name__ for b in s.blocks()] == ["LlamaAttention"] * 2


def test_render_of_the_micro_world() -> None:
    render = Micro().render
    assert render(Example("a ?", "no .")) == "<user> a ? <bot>"
    assert render(Example("a ?", "no .", system="be safe .")) == "<sys> be safe . <user> a ? <bot>"
    assert render(Example("a ?", "no .", template="plain")) == "question : a ? answer :"
