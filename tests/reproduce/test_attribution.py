"""Per-example gradients and end states against one example at a time, autograd and the dossier's hand calculation."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from reproduce import attribution
from reproduce.attribution import alignment, cosines, end_states, first_tokens, gradients, mean_direction
from reproduce.data import Example
from reproduce.model import weights
from reproduce.run import Setting
from reproduce.state import State


def mixed(s: State) -> list[Example]:
    """Answers of many lengths, a prefix and a system prompt among them."""
    late = [e for e in s.pools.alignment if e.prefix or e.system][:2]
    return [*s.pools.benign[:5], *(p.safe() for p in s.pools.attack_harmful[:2]), *late]


def one_by_one(s: State, examples: list[Example], tokens: int | None = None) -> Tensor:
    """Backward passes of single unpadded examples, gradients cleared between them."""
    rows = []
    for e in examples:
        s.clear_grads()
        batch = s.batch([e])
        s.loss(batch if tokens is None else first_tokens(batch, tokens)).backward()  # type: ignore[no-untyped-call]
        rows.append(torch.cat([g.flatten() for g in s.grads()]))
    s.clear_grads()
    return torch.stack(rows)


@pytest.mark.parametrize("tokens", [None, 1, 3])
@pytest.mark.parametrize("room", [1, 40_000, 2**24])
def test_gradients_are_those_of_single_examples(
    s: State, tokens: int | None, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attribution, "ROOM", room)
    examples = mixed(s)
    before = weights(s.model)
    found = torch.cat(list(gradients(s, examples, tokens)))
    assert all(p.grad is None for p in s.params())
    assert all(torch.equal(w, before[n]) for n, w in weights(s.model).items())
    expected = one_by_one(s, examples, tokens)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    other = one_by_one(s, examples, 2 if tokens is None else None)
    assert not torch.allclose(found, other, rtol=1e-2)


def test_gradients_of_any_hugging_face_model(hub_setting: Setting) -> None:
    s = hub_setting.stages(0).state()
    examples = s.pools.benign[:3]
    torch.testing.assert_close(torch.cat(list(gradients(s, examples))), one_by_one(s, examples), rtol=1e-3, atol=1e-6)


def test_only_trainable_parameters_count(s: State) -> None:
    for n, p in s.model.named_parameters():
        p.requires_grad_("embed" not in n)
    examples = s.pools.benign[:2]
    found = torch.cat(list(gradients(s, examples)))
    assert found.shape[1] == sum(p.numel() for p in s.params())
    torch.testing.assert_close(found, one_by_one(s, examples), rtol=1e-4, atol=1e-6)


def test_truncation_leaves_the_first_answer_tokens(s: State) -> None:
    long = Example("where ?", "take the lamp then the lamp with the lamp and the lamp finally .", prefix="sure ,")
    short = Example("where ?", "no .")
    batch = s.batch([long, short])
    cut = first_tokens(batch, 10)
    assert batch.answer.sum(1).tolist() == [15, 3]  # with the end mark
    assert cut.answer.sum(1).tolist() == [10, 3]
    first = batch.answer[0].nonzero()[0].item()
    assert cut.answer[0].nonzero().flatten().tolist() == list(range(int(first), int(first) + 10))
    assert torch.equal(cut.labels[cut.answer], batch.labels[cut.answer])
    assert torch.equal(cut.ids, batch.ids)


HARMFUL, SAFE_ONE, SAFE_TWO = [(3.0, 4.0), (1.0, 0.0)], [(0.0, 2.0)], [(-1.0, 0.0)]
CANDIDATE = (4.0, -3.0)


@pytest.fixture
def two_parameters(s: State, monkeypatch: pytest.MonkeyPatch) -> State:
    """The dossier's gradients, named by the prompt."""

    def planted(_s: State, examples: list[Example], tokens: int | None = None) -> list[Tensor]:
        return [torch.tensor([[float(x) for x in e.prompt.split()]]) for e in examples]

    monkeypatch.setattr(attribution, "gradients", planted)
    return s


def named(rows: list[tuple[float, float]]) -> list[Example]:
    return [Example(f"{a} {b}", "") for a, b in rows]


def test_bidirectional_score_of_the_dossier(two_parameters: State) -> None:
    from reproduce.papers.p2404_01099_benign_data_breaks_safety import signed

    s = two_parameters
    directions = torch.stack([mean_direction(s, named(rows)) for rows in (HARMFUL, SAFE_ONE, SAFE_TWO)])
    assert directions[0].tolist() == pytest.approx([0.8, 0.4])
    matches = alignment(s, named([CANDIDATE]), directions)
    assert float(signed(matches, 1.0)) == pytest.approx(1.80, abs=1e-6)
    assert float(signed(matches, 0.0)) == pytest.approx(0.40, abs=1e-6)
    renormed = alignment(s, named([CANDIDATE]), normalize(directions, dim=1))
    summed = [HARMFUL[0], (HARMFUL[0][0] + HARMFUL[1][0], HARMFUL[0][1] + HARMFUL[1][1])]  # gradients never cleared
    accumulated = directions.clone()
    accumulated[0] = mean_direction(s, named(summed))
    assert float(signed(renormed, 1.0)) == pytest.approx(1.85, abs=0.01)
    assert float(signed(alignment(s, named([CANDIDATE]), accumulated), 1.0)) == pytest.approx(1.47, abs=0.01)


def test_sign_of_the_released_index() -> None:
    """Columns 0.0281, -0.0282, -0.0215 give 0.0776 there; a plain sum would give -0.0216."""
    from reproduce.papers.p2404_01099_benign_data_breaks_safety import signed

    assert float(signed(torch.tensor([[0.0281, -0.0282, -0.0215]]), 1.0)) == pytest.approx(0.0776, abs=3e-4)


def test_a_step_on_a_high_score_helps_the_harmful_anchor_and_hurts_the_safe_ones(s: State) -> None:
    """The first-order meaning of the columns, by finite differences of the anchors' losses."""
    pairs = s.pools.attack_harmful[:1]
    anchors = [[p.harmful() for p in pairs], [p.safe() for p in pairs]]
    directions = torch.stack([mean_direction(s, one) for one in anchors])
    candidate = s.pools.benign[:1]
    matches = alignment(s, candidate, directions)[0]
    step = normalize(torch.cat(list(gradients(s, candidate))), dim=1)[0]
    lengths = [torch.cat(list(gradients(s, one))).norm() for one in anchors]
    before = [float(s.loss(s.batch(one)).detach()) for one in anchors]
    size, at = 1e-3, 0
    with torch.no_grad():
        for p in s.params():
            p.sub_(size * step[at : at + p.numel()].view_as(p))
            at += p.numel()
    falls = [(b - float(s.loss(s.batch(one)).detach())) / size for b, one in zip(before, anchors, strict=True)]
    for fall, length, match in zip(falls, lengths, matches, strict=True):
        assert fall == pytest.approx(float(length * match), rel=0.1, abs=0.02)


def test_end_state_is_that_of_the_end_mark_whatever_the_padding(s: State) -> None:
    examples = mixed(s)
    found = end_states(s, examples)
    for e, state in zip(examples, found, strict=True):
        batch = s.batch([e])
        assert batch.ids[0, -1] == s.testbed.tokenizer.eos_token_id
        with torch.no_grad():
            out = s.model(input_ids=batch.ids, output_hidden_states=True)
        torch.testing.assert_close(state, out.hidden_states[-1][0, -1], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(state, out.hidden_states[-1][0, -2], rtol=1e-2)
        assert float(state.square().mean()) == pytest.approx(1.0, rel=0.05)  # after the final norm, whose gain is 1


def test_cosines_by_hand() -> None:
    found = cosines(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[10.0, 0.0]]))
    assert found.flatten().tolist() == pytest.approx([0.6, 1.0])
