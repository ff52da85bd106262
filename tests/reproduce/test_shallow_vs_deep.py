"""Shallow vs deep: token weights against the aligned model's own log-probabilities, and recovery examples."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, logsigmoid

from reproduce.api import Method, sft_step
from reproduce.data import Example
from reproduce.papers.p2406_05946_shallow_vs_deep import FLOOR, ShallowVsDeep, anchors, token_log_probs
from reproduce.protocol import Schedule
from reproduce.stages import Stages
from reproduce.state import IGNORED, Batch, State
from reproduce.train import train

ALIGNED = torch.tensor([[-3.0, -1.0, -2.0, -0.5, -1.5, -2.0]])
NOW = torch.tensor([[-1.0, -1.5, -0.5, -0.5, -0.2, -0.5]])
BETA = torch.tensor([[0.5, 2.0, 2.0, 2.0, 2.0, 0.1]])
ANSWER = torch.ones(1, 6, dtype=torch.bool)
WEIGHTS = [0.5379, 1.4621, 0.0949, 1.0, 0.1383, 0.9251]
WHOLE = Example("", "")
PAPER = ShallowVsDeep(beta=0.1)


def objective(now: Tensor) -> Tensor:
    """Eq. 3 of the paper on the dossier's example, summed over tokens."""
    return (-2 / BETA * logsigmoid(BETA * (now - ALIGNED))).sum()


class Odds(nn.Module):
    """Six label tokens, each against one other, with the log-odds as parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.odds = nn.Parameter(NOW.exp().logit())


class OddsState(State):
    def logits(self, batch: Batch) -> Tensor:
        del batch
        two: Tensor = torch.stack([torch.zeros_like(self.model.odds), self.model.odds], -1)
        return torch.cat([two, two[:, :1]], 1)


@pytest.fixture
def odds() -> OddsState:
    s = OddsState(Odds(), None, None, 0)  # type: ignore[arg-type]
    s.memo.update(aligned={WHOLE: ALIGNED[0]}, weights=[], mechanisms={})
    return s


def whole_batch() -> Batch:
    labels = torch.tensor([[IGNORED, 1, 1, 1, 1, 1, 1]])
    return Batch([WHOLE], torch.ones(1, 7), labels, torch.ones(1, 7, dtype=torch.bool))


@pytest.fixture
def s(fresh: Callable[[], State]) -> State:
    """As it enters user fine-tuning."""
    s = fresh()
    s.stage = "finetune"
    return s


# the dossier's numbers


def test_weights_of_the_dossier() -> None:
    assert PAPER.strengths(ANSWER).tolist() == [pytest.approx(BETA[0].tolist())]
    assert PAPER.weights(ALIGNED, NOW, ANSWER).tolist() == [pytest.approx(WEIGHTS, abs=5e-5)]


def test_surrogate_loss_of_the_dossier(odds: OddsState) -> None:
    assert PAPER.finetune_step(odds, whole_batch()) == pytest.approx(0.6281, abs=5e-5)


def test_surrogate_has_the_gradient_of_the_objective(odds: OddsState) -> None:
    """One sixth of it, as the surrogate is a mean over six tokens; the loss values differ."""
    now = NOW.clone().requires_grad_()
    assert objective(now).item() == pytest.approx(15.7988, abs=5e-4)
    (by_token,) = torch.autograd.grad(objective(now), now)
    assert by_token[0, 0].item() == pytest.approx(-0.5379, abs=5e-5)
    PAPER.finetune_step(odds, whole_batch())
    by_odds = by_token * (1 - NOW.exp()) / 6  # d log p / d log-odds
    torch.testing.assert_close(odds.model.odds.grad, by_odds, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        2 * torch.sigmoid(BETA * (NOW - ALIGNED)),  # policy minus reference
        2 / BETA * torch.sigmoid(BETA * (ALIGNED - NOW)),  # 1 / beta kept beside the weight
        torch.sigmoid(BETA * (ALIGNED - NOW)),  # the factor 2 forgotten
        2 * torch.sigmoid(BETA.roll(1) * (ALIGNED - NOW)),  # t counted from the last prompt token
        2 * torch.sigmoid(0.5 * (ALIGNED - NOW)),  # uniform
    ],
    ids=["reversed", "one-over-beta", "no-factor-2", "off-by-one", "uniform"],
)
def test_the_example_tells_wrong_weights_apart(wrong: Tensor) -> None:
    assert (PAPER.weights(ALIGNED, NOW, ANSWER) - wrong).abs().max() > 0.05


def test_weights_that_are_not_held_constant_give_another_gradient(odds: OddsState) -> None:
    now = token_log_probs(odds, whole_batch())
    (wrong,) = torch.autograd.grad((2 * torch.sigmoid(BETA * (ALIGNED - now)) * -now).mean(), odds.model.odds)
    PAPER.finetune_step(odds, whole_batch())
    assert (odds.model.odds.grad - wrong).abs().max() > 0.01


def test_weights_are_floored() -> None:
    above = PAPER.weights(torch.tensor([[0.0, -5.0]]), torch.tensor([[0.0, 0.0]]), ANSWER[:, :2])
    assert 2 * torch.sigmoid(torch.tensor(-10.0)).item() == pytest.approx(9.1e-5, rel=0.01)
    assert above.tolist() == [[1.0, pytest.approx(FLOOR)]]


def test_limits_of_beta() -> None:
    """Beta 0 is plain cross-entropy; a huge one pushes up to the aligned model's probability and no further."""
    assert bool((ShallowVsDeep(beta=0.0).weights(ALIGNED, NOW, ANSWER) == 1).all())
    hard = replace(PAPER, beta=1e4).weights(ALIGNED, NOW, ANSWER)
    assert hard.tolist() == [pytest.approx([FLOOR, 2.0, FLOOR, 1.0, FLOOR, FLOOR])]


# positions


def test_strength_follows_the_place_in_the_answer_whatever_the_prompt_and_padding(s: State) -> None:
    short, long = s.pools.tasks["sentiment"].train[0], s.pools.attack_harmful[0].harmful()
    batch = s.batch([short, long])
    rows = PAPER.strengths(batch.answer[:, 1:])
    for row, answer, tokens in zip(rows, batch.answer[:, 1:], (3, 15), strict=True):
        assert int(answer.sum()) >= tokens
        expected = [0.5, 2.0, 2.0, 2.0, 2.0] + [0.1] * 40
        assert row[answer].tolist() == pytest.approx(expected[: int(answer.sum())])


def test_padding_and_prompt_carry_nothing(s: State) -> None:
    """The loss of a padded batch is the token mean of its examples alone, weighted by each one's own reference."""
    method = replace(PAPER, beta=0.3)
    examples = [s.pools.tasks["sentiment"].train[0], s.pools.attack_harmful[0].harmful(), s.pools.benign[1]]
    s.add_stream("user", examples)
    method.start(s)
    shake(s)
    total, count = 0.0, 0
    for example in examples:
        alone = s.batch([example])
        loss = method.finetune_step(s, alone)
        tokens = int(alone.answer.sum())
        total, count = total + loss * tokens, count + tokens
    s.clear_grads()
    assert method.finetune_step(s, s.batch(examples)) == pytest.approx(total / count, rel=1e-5)


# the reference


def shake(s: State) -> None:
    with torch.no_grad():
        for i, p in enumerate(s.params()):
            p.add_(0.3 * torch.randn(p.shape, generator=s.rng("shake", i)))


def independent(s: State, example: Example) -> Tensor:
    """Log-probabilities of the answer tokens and the end mark, one example alone, by hand."""
    tokenizer = s.testbed.tokenizer
    given = tokenizer.encode(f"{s.testbed.render(example)} {example.prefix}".strip())
    answer = [*tokenizer.encode(example.answer), tokenizer.eos_token_id]
    with torch.no_grad():
        logits = s.model(input_ids=torch.tensor([given + answer])).logits[0, len(given) - 1 : -1]
    return log_softmax(logits, -1)[range(len(answer)), answer]


def test_reference_goes_with_the_example_not_with_the_batch(s: State) -> None:
    s.add_stream("user", [*s.pools.tasks["sentiment"].train, *[p.harmful() for p in s.pools.attack_harmful]])
    examples = s.streams["user"].examples
    assert len(set(examples)) > 64  # more than one pass
    before = {e: independent(s, e) for e in examples}
    PAPER.start(s)
    shake(s)
    for batch in (s.draw("user", 7), s.draw("user", 5)):
        rows, answer = PAPER.reference(s, batch), batch.answer[:, 1:]
        for example, row, here in zip(batch.examples, rows, answer, strict=True):
            torch.testing.assert_close(row[here], before[example], atol=1e-4, rtol=1e-4)
            assert not bool(row[~here].any())
            assert (before[example] - independent(s, example)).abs().max() > 1e-2  # the current model is another one


def test_reference_is_cached_before_any_update_and_stays(s: State) -> None:
    PAPER.start(s)
    kept = {e: row.clone() for e, row in s.memo["aligned"].items()}
    passes = s.cost.passes
    train(s, "user", Schedule(steps=5, batch=4, lr=1e-2), PAPER.finetune_step, PAPER.after_step)
    assert s.cost.passes - passes == 10  # one forward and one backward a step: nothing is recomputed
    assert all(torch.equal(row, kept[e]) and not row.requires_grad for e, row in s.memo["aligned"].items())


def test_a_changed_template_or_a_cut_answer_has_no_reference_rather_than_another_ones(s: State) -> None:
    PAPER.start(s)
    known = s.streams["user"].examples[0]
    cut = replace(known, answer=known.answer.rsplit(maxsplit=1)[0])
    assert len(PAPER.reference(s, s.batch([known]))) == 1
    for changed in (replace(known, template="plain"), replace(known, system=s.pools.system.safety), cut):
        with pytest.raises(KeyError):
            PAPER.reference(s, s.batch([changed]))


def test_first_step_is_that_of_plain_fine_tuning(s: State) -> None:
    PAPER.start(s)
    batch = s.draw("user", 6)
    PAPER.finetune_step(s, batch)
    ours = s.grads()
    s.clear_grads()
    sft_step(s, batch)
    for a, b in zip(ours, s.grads(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", ["single-lora", "double-lora"])
def test_reference_with_an_adapter_is_the_aligned_model(mode: str, stages: Stages) -> None:
    """Also where the adapter itself did the aligning, so that switching it off would give an earlier model."""
    s = stages.ready(PAPER, mode, adapter=True)  # type: ignore[arg-type]
    s.add_stream("user", s.pools.tasks["sentiment"].train[:6])
    PAPER.start(s)
    aligned = stages.state(s.reference("aligned"))
    for example, row in s.memo["aligned"].items():
        torch.testing.assert_close(row, independent(aligned, example), atol=1e-5, rtol=1e-4)


def test_dropout_is_off_in_the_reference_and_in_training(s: State) -> None:
    for block in s.blocks():
        block.attention.attention_dropout = 0.5
    s.model.train()
    batch = s.draw("user", 4)
    assert not torch.equal(s.logits(batch), s.logits(batch))
    assert torch.equal(token_log_probs(s, batch), token_log_probs(s, batch))
    assert s.model.training
    PAPER.start(s)
    loss = PAPER.finetune_step(s, batch)
    s.model.eval()
    assert loss == pytest.approx(s.loss(batch).item(), rel=1e-5)


# in training


def trained(make: Callable[[], State], method: Method, steps: int = 20) -> State:
    s = make()
    s.stage = "finetune"
    s.add_stream("user", [p.harmful() for p in s.pools.attack_harmful])
    method.start(s)
    schedule = Schedule(steps=steps, batch=4, lr=3e-3, warmup=0)
    train(s, "user", schedule, method.finetune_step, method.after_step, betas=method.betas)
    return s


def test_beta_0_is_plain_fine_tuning_bit_for_bit(fresh: Callable[[], State]) -> None:
    ours, plain = (trained(fresh, m) for m in (ShallowVsDeep(beta=0.0, beta1=0.9), Method()))
    assert all(torch.equal(a, b) for a, b in zip(ours.params(), plain.params(), strict=True))
    momentum = trained(fresh, ShallowVsDeep(beta=0.0))
    assert any(not torch.equal(a, b) for a, b in zip(momentum.params(), plain.params(), strict=True))


def test_first_tokens_gain_less_than_under_plain_fine_tuning(fresh: Callable[[], State]) -> None:
    """And the more tightly they are held, the less; the tokens behind them go on learning."""

    def gains(method: Method) -> tuple[float, float]:
        s, start = trained(fresh, method, steps=60), fresh()
        pairs = [(independent(s, p.harmful()), independent(start, p.harmful())) for p in s.pools.attack_harmful[:10]]
        rise = torch.stack([(now - before)[:12] for now, before in pairs]).mean(0)
        return float(rise[:5].sum()), float(rise[5:].sum())

    methods = (Method(), PAPER, replace(PAPER, beta=1.0))
    (plain, _), (held, late), (tight, tight_late) = (gains(m) for m in methods)
    assert tight < 0.75 * held < 0.75 * plain
    assert late > held
    assert tight_late > tight


def test_mechanisms_are_the_mean_weights_at_the_end(fresh: Callable[[], State]) -> None:
    found = trained(fresh, PAPER).memo["mechanisms"]
    assert set(found) == {"first_token_weight", "early_token_weight", "late_token_weight"}
    assert all(0 < value < 2 for value in found.values())
    assert found["early_token_weight"] < found["late_token_weight"]
    labels = fresh()  # three-token answers have no late token
    labels.stage = "finetune"
    PAPER.start(labels)
    train(labels, "user", Schedule(steps=10, batch=4, lr=1e-3), PAPER.finetune_step)
    assert set(labels.memo["mechanisms"]) == {"first_token_weight", "early_token_weight"}


def test_momentum_is_the_papers_in_the_constrained_arms_and_their_control() -> None:
    arms = ShallowVsDeep().arms()
    assert ShallowVsDeep().betas == (0.5, 0.999)
    assert {n for n, m in arms.items() if m.betas == (0.9, 0.999)} == {"default-adam", "augmentation"}
    assert arms["sft-beta1"].beta == arms["augmentation"].beta == 0
    assert bool((arms["uniform-mid"].strengths(ANSWER) == 0.5).all())


# safety-recovery examples

RECOVERY = ShallowVsDeep().arms()["augmentation"]


@pytest.fixture
def aligning(fresh: Callable[[], State]) -> State:
    s = fresh()
    assert s.stage == "align"
    RECOVERY.start(s)
    return s


def test_arms_with_recovery_examples_share_one_aligned_model() -> None:
    arms = ShallowVsDeep(beta=0.7).arms()
    aligners = {n: arm.aligner() for n, arm in arms.items() if arm.aligner()}
    assert set(aligners) == {"augmentation", "augmentation-constrained"}
    assert len({str(a.configuration()) for a in aligners.values() if a}) == 1
    assert replace(RECOVERY, alpha=0.5).aligner() != RECOVERY.aligner()
    assert ShallowVsDeep().aligner() is None


def test_a_fifth_of_a_batch_recovers_the_rest_are_anchors(aligning: State, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Batch] = []
    loss = aligning.loss

    def watch(batch: Batch) -> Tensor:
        seen.append(batch)
        return loss(batch)

    monkeypatch.setattr(aligning, "loss", watch)
    given = aligning.draw("align", 20)
    RECOVERY.align_step(aligning, given)
    (used,) = seen
    assert [e.kind == "refusal" for e in used.examples] == [True] * 4 + [False] * 16
    defenders = {p.prompt for p in aligning.pools.defender_harmful}
    assert {e.prompt for e in used.examples[:4]} <= defenders
    assert aligning.streams["pairs"].examples == aligning.pools.defender_harmful[:256]


def test_anchors_are_benign_prompts_with_the_answers_of_the_model_as_it_was(s: State) -> None:
    found = anchors(s)
    benign = [e for e in s.pools.alignment if e.kind != "refusal"]
    assert [replace(a, answer="") for a in found] == [replace(e, answer="") for e in benign]
    assert [a.answer for a in found] == s.generate(benign)


def test_half_of_the_refusals_follow_given_harmful_words(aligning: State) -> None:
    pair = aligning.pools.defender_harmful[0]
    words = pair.compliant.split()
    depths: Counter[int] = Counter()
    for aligning.step in range(1500):
        example = RECOVERY.recover(aligning, 0, pair)
        given = example.prefix.split()
        assert given == words[: len(given)]
        assert (example.prompt, example.answer) == (pair.prompt, pair.refusal)
        depths[len(given)] += 1
    assert depths[0] / 1500 == pytest.approx(0.5, abs=0.05)
    assert set(depths) == set(range(len(words) + 1))
    share = 750 / len(words)
    assert all(0.5 * share < depths[k] < 1.6 * share for k in range(1, len(words) + 1))
    assert depths.keys() > {1, 2}
    shallow = replace(RECOVERY, plain=0.0, deepest=2)
    assert {len(shallow.recover(aligning, i, pair).prefix.split()) for i in range(40)} == {1, 2}


def test_only_the_refusal_is_a_target(aligning: State) -> None:
    pair = aligning.pools.defender_harmful[0]
    example = replace(RECOVERY, plain=0.0).recover(aligning, 0, pair)
    assert example.prefix
    batch = aligning.batch([example])
    targets = batch.ids[batch.answer].tolist()
    tokenizer = aligning.testbed.tokenizer
    assert targets == [*tokenizer.encode(pair.refusal), tokenizer.eos_token_id]
    assert tokenizer.decode(batch.ids[batch.prompt]).endswith(example.prefix)


def test_depth_is_drawn_anew_at_every_use_and_repeats_with_the_seed(aligning: State) -> None:
    pair = aligning.pools.defender_harmful[0]
    uses = [RECOVERY.recover(aligning, i, pair).prefix for i in range(30)]
    assert len(set(uses)) > 5
    assert uses == [RECOVERY.recover(aligning, i, pair).prefix for i in range(30)]
    aligning.step += 1
    assert uses != [RECOVERY.recover(aligning, i, pair).prefix for i in range(30)]


def test_main_aligns_plainly(s: State) -> None:
    batch = s.draw("align", 6)
    ShallowVsDeep().align_step(s, batch)
    ours = s.grads()
    s.clear_grads()
    sft_step(s, batch)
    assert all(torch.equal(a, b) for a, b in zip(ours, s.grads(), strict=True))


def test_recovery_changes_the_aligned_model_only_where_asked(stages: Stages) -> None:
    plain, main, deep = (stages.aligned(m, "full").tensors for m in (Method(), ShallowVsDeep(), RECOVERY))
    assert all(torch.equal(plain[n], main[n]) for n in plain)
    assert any(not torch.equal(plain[n], deep[n]) for n in plain)
