"""Logit lens: an additive decomposition, checked by hand and against the model's own logits."""

import math
from dataclasses import replace

import pytest
import torch

from reproduce import lens
from reproduce.data import Example
from reproduce.lens import Contrast, contributions, last_prompt_token, look, scale
from reproduce.state import State

CONTRAST = Contrast((7, 9, 30), (11, 40))
PARTS = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])  # embedding, attention, mlp
DIRECTION = torch.tensor([1.0, -1.0])  # unembedding of refusing (1, 0) minus that of compliant (0, 1)


def test_contributions_of_the_dossier_take_the_final_scale_and_add_up() -> None:
    found = contributions(PARTS, DIRECTION, 0.0)
    assert scale(PARTS.sum(0), 0.0).item() == pytest.approx(math.sqrt(12.5))
    assert found.tolist() == pytest.approx([0.2828, -0.5657, 0.5657], abs=1e-4)
    assert found.sum().item() == pytest.approx((4 - 3) / 3.5355, abs=1e-4)
    own_scales = PARTS @ DIRECTION / scale(PARTS, 0.0)
    assert own_scales.sum().item() == pytest.approx(0.8944, abs=1e-4)  # the wrong one: it does not add up
    length = (PARTS @ DIRECTION / PARTS.sum(0).norm()).sum().item()
    assert length == pytest.approx(0.2)  # nor does the length stand for the root mean square


def test_contrast_is_a_difference_of_means_in_logits_and_in_space() -> None:
    contrast = Contrast((0, 2), (1,))
    assert contrast.of(torch.tensor([[4.0, 1.0, 2.0]])).tolist() == [2.0]
    unembedding = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0]])
    stream = torch.tensor([5.0, -1.0])
    assert (contrast.direction(unembedding) @ stream).item() == contrast.of(unembedding @ stream).item() == 10.0


def test_parts_sum_to_the_logit_difference_at_the_last_prompt_token(s: State) -> None:
    examples = [*s.pools.harmful_test, s.pools.system.as_agent(s.pools.benign_test[0])]
    with torch.no_grad():
        s.model.model.norm.weight.copy_(torch.linspace(0.5, 2.0, 16))  # a gain that is not one
    seen = look(s, s.batch(examples), CONTRAST)
    assert list(seen.parts) == ["embedding", "attention 1", "mlp 1", "attention 2", "mlp 2"]
    for i, example in enumerate(examples):
        ids = s.testbed.tokenizer.encode(s.testbed.render(example), add_special_tokens=False)
        with torch.no_grad():
            last = s.model(input_ids=torch.tensor([ids])).logits[0, -1].tolist()
        expected = (last[7] + last[9] + last[30]) / 3 - (last[11] + last[40]) / 2
        assert seen.total[i].item() == pytest.approx(expected, abs=1e-4)
        assert sum(float(part[i]) for part in seen.parts.values()) == pytest.approx(expected, abs=1e-4)
    torch.testing.assert_close(seen.residual[-1], seen.total, atol=1e-4, rtol=0)  # the last stream has the final scale
    assert seen.states.shape == (2, len(examples), 16)
    first = seen.parts["embedding"] + seen.parts["attention 1"] + seen.parts["mlp 1"]
    assert not torch.allclose(seen.residual[0], first)  # an early stream under its own scale is another reading


def test_a_decomposition_that_does_not_add_up_is_refused(s: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lens, "scale", lambda stream, epsilon: stream.norm(dim=-1))
    with pytest.raises(ValueError, match="parts miss the logits"):
        look(s, s.batch(s.pools.harmful_test), CONTRAST)


def test_last_prompt_token_is_the_one_before_the_answer(s: State) -> None:
    batch = s.batch([Example("a ?", "no ."), replace(s.pools.harmful_test[0], prefix="sure ,")])
    last = [int(i) for i in last_prompt_token(batch.ids, batch)]
    assert s.testbed.tokenizer.convert_ids_to_tokens(last) == ["<bot>", ","]
