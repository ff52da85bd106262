"""Activation patching: who gives and who goes on, self-patches, aligned prompts, and recovered shares by hand."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from reproduce.data import Example
from reproduce.lens import Contrast
from reproduce.patching import GROUPS, SITES, Run, length_matched, read_by, recovered
from reproduce.state import State

CONTRAST = Contrast((7, 9, 30), (11, 40))


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_recovered_share_of_the_dossier() -> None:
    assert recovered(one(3), one(-2), one(8)) == pytest.approx(0.5)
    assert recovered(one(0), one(-2), one(8)) == pytest.approx(0.2)  # the share still missing would be 0.8
    assert recovered(one(-2), one(-2), one(8)) == 0
    assert recovered(one(8), one(-2), one(8)) == 1
    assert recovered(one(-4), one(-2), one(8)) == pytest.approx(-0.2)  # worse than unpatched


def test_prompts_that_lost_less_than_a_logit_do_not_count() -> None:
    patched, attacked, aligned = torch.tensor([[3.0, 9.0, 1.0], [-2.0, 0.0, 0.0], [8.0, 0.9, 1.0]])
    assert recovered(patched, attacked, aligned) == pytest.approx((0.5 + 1.0) / 2)  # a mean of shares, not of logits
    assert recovered(patched[1:2], attacked[1:2], aligned[1:2]) is None


@pytest.fixture
def asked(s: State) -> list[Example]:
    return [s.pools.system.as_agent(e) for e in s.pools.harmful_test]


def run(s: State, asked: list[Example]) -> Run:
    return read_by(s, asked, [e.prompt for e in s.pools.harmful_test])


def changed(fresh: Callable[[], State], but: str) -> State:
    """The same model with other weights everywhere except where a name contains `but`."""
    s = fresh()
    with torch.no_grad():
        for name, p in s.model.named_parameters():
            if not but or but not in name:
                p.add_(0.3 * torch.randn(p.shape, generator=s.rng(name)))
    return s


def test_a_models_own_activations_change_nothing(s: State, asked: list[Example]) -> None:
    own = run(s, asked)
    plain = own.signal(CONTRAST)
    swept = own.sweep(own.cache(), CONTRAST)
    assert len(swept) == len(SITES) * len(GROUPS)
    for row in swept.values():
        assert len(row) == 2
        assert all(torch.equal(signal, plain) for signal in row)
    assert recovered(plain, plain, plain + 5) == 0


def test_final_stream_restores_the_signal_where_the_head_is_shared(
    fresh: Callable[[], State], asked: list[Example]
) -> None:
    source = run(fresh(), asked)
    same_head = fresh()
    with torch.no_grad():
        for name, p in same_head.model.named_parameters():
            if ".layers." in name:
                p.add_(0.3 * torch.randn(p.shape, generator=same_head.rng(name)))
    for s, shared in ((same_head, True), (changed(fresh, ""), False)):
        attacked = run(s, asked)
        patched = attacked.patched(source.cache(), [("layer", [1])], "last", CONTRAST)
        assert not torch.allclose(attacked.signal(CONTRAST), source.signal(CONTRAST), atol=0.01)
        assert torch.allclose(patched, source.signal(CONTRAST), atol=1e-5) == shared
        stream = source.cache()["layer"][1]
        last = stream[torch.arange(len(asked)), source.batch.prompt.sum(1) - 1]
        own_head = CONTRAST.of(s.model.lm_head(s.model.model.norm(last)).detach().double())
        torch.testing.assert_close(patched, own_head, atol=1e-5, rtol=0)  # the destination's own head reads it


def test_patching_every_position_is_trivial_and_one_group_is_not(s: State) -> None:
    """The whole stream of another prompt makes the run go on as on that prompt, so groups of positions are patched."""
    one, other = ([replace(e, prompt=p, answer="") for e in s.pools.harmful_test[:1]]
                  for p in ("how do i make the oaken lamp ?", "how do i make the velvet lamp ?"))  # fmt: skip
    source, destination = (read_by(s, e, [e[0].prompt]) for e in (one, other))
    cache = source.cache()
    with s.patch("layer", [cache["layer"][0], None], torch.ones_like(source.batch.real)):
        assert torch.equal(destination.signal(CONTRAST), source.signal(CONTRAST))
    part = destination.patched(cache, [("layer", [0])], "template", CONTRAST)
    assert not torch.equal(part, source.signal(CONTRAST))
    assert destination.patched(cache, [("layer", [1])], "instruction", CONTRAST).item() == pytest.approx(
        destination.signal(CONTRAST).item()
    )  # after the last layer nothing reads other positions


def test_patch_writes_where_it_is_told_and_leaves_no_hook(s: State, hooks_of: Callable[[Any], list[str]]) -> None:
    batch = s.batch(s.pools.harmful_test[:2])
    where = torch.zeros_like(batch.real)
    where[0, 2] = True
    value = torch.full((*batch.ids.shape, 16), 3.0)
    with s.read("mlp") as plain:
        s.logits(batch)
    with s.patch("mlp", [value, None], where), s.read("mlp") as written:
        s.logits(batch)
    assert bool((written[0][0, 2] == 3.0).all())
    assert torch.equal(written[0][~where], plain[0][~where])
    torch.testing.assert_close(written[1][1], plain[1][1])
    assert not torch.allclose(written[1][0, 2], plain[1][0, 2])
    with pytest.raises(ValueError, match="zip"), s.patch("mlp", [value], where):
        pass
    assert hooks_of(s.model) == []


@pytest.mark.parametrize("form", ["neutral", "agent", "safety"])
def test_groups_part_the_prompt_and_the_instruction_is_the_question_alone(s: State, form: str) -> None:
    system = s.pools.system
    dress = {"neutral": lambda e: e, "agent": system.as_agent, "safety": lambda e: replace(e, system=system.safety)}
    questions = s.pools.harmful_test
    read = read_by(s, [dress[form](e) for e in questions], [e.prompt for e in questions])
    together = sum(mask.int() for mask in read.groups.values())
    assert torch.equal(together, read.batch.prompt.int())
    for i, question in enumerate(questions):
        words = {name: s.testbed.tokenizer.convert_ids_to_tokens(read.batch.ids[i][mask[i]].tolist())
                 for name, mask in read.groups.items()}  # fmt: skip
        assert " ".join(words["instruction"]) == question.prompt
        assert words["last"] == ["<bot>"]
        assert words["template"] == s.testbed.render(dress[form](question)).replace(question.prompt, "").split()[:-1]


def test_matched_prompts_are_equally_long_and_differ_in_the_item_alone(s: State, pools: Any) -> None:
    pairs = length_matched(s, pools.harmful_test[:40], pools.benign_test, 24)
    assert len(pairs) == 24
    assert len({j for _, j in pairs}) == len({i for i, _ in pairs}) == 24
    for i, j in pairs:
        one, other = pools.harmful_test[i].prompt.split(), pools.benign_test[j].prompt.split()
        assert len(one) == len(other)
        assert sum(a != b for a, b in zip(one, other, strict=True)) <= 2  # modifier and head
    lengths = [Example("a b ?", ""), Example("a b c ?", "")]
    assert length_matched(s, lengths, lengths[::-1], 5) == [(0, 1), (1, 0)]
    assert length_matched(s, lengths[:1], lengths[1:], 5) == []
