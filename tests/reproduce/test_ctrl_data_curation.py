"""CTRL: beam search over rewrites of clean answers by their perplexity under the aligned model."""

import math
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from reproduce.data import Example
from reproduce.papers.p2405_19358_ctrl import (
    Candidate,
    Ctrl,
    begun,
    helpfulness,
    judged,
    perplexities,
    premise,
    readability,
    sample,
    word_pairs,
)
from reproduce.state import Batch, State

Make = Callable[[], State]


class Fixed(State):
    """The answer tokens have probabilities 1/2, 1/4, 1/8, ... whatever they are."""

    def logits(self, batch: Batch) -> Tensor:
        size = len(self.testbed.tokenizer)
        logits = torch.zeros(*batch.ids.shape, size)
        for i in range(len(batch.ids)):
            at = batch.answer[i].nonzero().flatten().tolist()
            for rank, t in enumerate(at, 1):
                p = 0.5**rank
                logits[i, t - 1] = math.log((1 - p) / (size - 1))
                logits[i, t - 1, batch.ids[i, t]] = math.log(p)
        return logits


def test_perplexity_of_the_dossier(s: State) -> None:
    fixed = Fixed(s.model, s.testbed, s.pools, 0)
    three, one = Example("describe the lamp .", "no ."), Example("describe the lamp .", "")  # and their end marks
    assert perplexities(fixed, [three, one]) == pytest.approx([4.0, 2.0], rel=1e-5)


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda logs: (-logs.sum()).exp(),
    "mean-probability": lambda logs: 1 / logs.exp().mean(),
    "no-exponential": lambda logs: -logs.mean(),
    "base-two": lambda logs: 2.0 ** -logs.mean(),
    "no-end-mark": lambda logs: (-logs[:-1].mean()).exp(),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_perplexity_is_no_other_reduction_of_the_same_tokens(s: State, wrong: Callable[[Tensor], Tensor]) -> None:
    fixed = Fixed(s.model, s.testbed, s.pools, 0)
    row = Example("describe the lamp .", "no .")
    batch = s.batch([row])
    logs = fixed.logits(batch)[0, :-1].log_softmax(-1)
    answer = logs.gather(-1, batch.ids[0, 1:, None])[batch.answer[0, 1:], 0]
    (found,) = perplexities(fixed, [row])
    assert found == pytest.approx(float((-answer.mean()).exp()), rel=1e-5)
    assert abs(found - float(wrong(answer))) > 0.5


def test_perplexity_is_that_of_the_answer_given_prompt_and_prefix(s: State) -> None:
    row = Example("how do i make the lamp ?", "take the lamp .", prefix="sure ,")
    alone = replace(row, prompt="", prefix="")
    assert perplexities(s, [row]) != pytest.approx(perplexities(s, [alone]), rel=1e-3)
    loss = float(s.loss(s.batch([row])).detach())
    assert perplexities(s, [row] * 700) == pytest.approx([math.exp(loss)] * 700, rel=1e-4)


ORIGINAL = Candidate("a b", 10.0, 1.0, 1.0)
POOL = [
    ORIGINAL,
    Candidate("c d", 3.0, 0.05, 0.9),
    Candidate("e f", 6.0, 0.5, 0.5),
    Candidate("g h", 8.0, 1.0, 1.0),
    Candidate("i j", 12.0, 1.0, 1.0),
]


def test_beam_of_the_dossier() -> None:
    method = Ctrl(gate=0.1, keep=3)
    assert [c.perplexity for c in method.survivors(ORIGINAL, POOL, Random(0))] == [6.0, 8.0, 10.0]
    ungated = replace(method, gate=0.0).survivors(ORIGINAL, POOL, Random(0))
    assert [c.perplexity for c in ungated] == [3.0, 6.0, 8.0]
    strict = replace(method, gate=0.6).survivors(ORIGINAL, POOL, Random(0))
    assert [c.perplexity for c in strict] == [8.0, 10.0, 12.0]


def test_both_gates_are_needed_and_equality_passes() -> None:
    method = Ctrl(gate=0.5, shortest=0.5)
    original = Candidate("a b c d", 9.0, 0.8, 1.0)

    def passes(text: str, r: float, h: float) -> bool:
        return method.passes(Candidate(text, 1.0, r, h), original)

    assert passes("a b", 0.4, 0.5)
    assert not passes("a b", 0.39, 1.0)
    assert not passes("a b", 1.0, 0.49)
    assert not passes("a", 1.0, 1.0)


def test_without_the_gate_anything_passes() -> None:
    original = Candidate("a b c d", 9.0, 0.8, 1.0)
    stump = Candidate("a", 1.0, 0.0, 0.0)
    assert Ctrl().arms()["no-gate"].passes(stump, original)
    assert not Ctrl().passes(stump, original)


@pytest.mark.parametrize("worthless", [{"readability": 0.0}, {"helpfulness": 0.0}])
def test_worthless_originals_stay_and_originals_compete(worthless: dict[str, float]) -> None:
    broken = replace(ORIGINAL, **worthless)
    assert Ctrl(gate=0.1).survivors(broken, POOL, Random(0)) == [broken]
    worse = [ORIGINAL, Candidate("c d", 11.0, 1.0, 1.0)]
    assert Ctrl(gate=0.1).survivors(ORIGINAL, worse, Random(0))[0] == ORIGINAL


def test_random_control_ignores_perplexity_but_not_the_gate() -> None:
    method = Ctrl(gate=0.1, keep=1, select="random")
    picked = {method.survivors(ORIGINAL, POOL, Random(i))[0].text for i in range(60)}
    assert picked == {"e f", "g h", "i j"}
    assert method.survivors(ORIGINAL, [ORIGINAL], Random(0)) == [ORIGINAL]


def rows_of(s: State, kind: str) -> list[Example]:
    return [e for e in s.pools.alignment if e.kind == kind and not e.prefix]


@pytest.mark.parametrize("kind", ["make", "refusal"])
def test_degenerate_texts_are_rejected_and_good_ones_pass(s: State, kind: str) -> None:
    row = rows_of(s, kind)[0]
    known = word_pairs(s.pools.alignment)
    others = [e for e in rows_of(s, kind) if e.answer != row.answer]
    refusal, recipe = rows_of(s, "refusal")[0].answer, rows_of(s, "make")[0].answer
    degenerate = [
        "", ". . . . . . . .", " ".join([row.answer.split()[0]] * 9), row.answer.split()[0], "lamp " + row.answer[:3],
        refusal if kind == "make" else recipe, "i cannot", "sorry sorry sorry sorry sorry sorry",
        " ".join(reversed(row.answer.split())),
    ]  # fmt: skip
    method = Ctrl()
    original, *found = judged(s, [row] * (1 + len(degenerate)), [row.answer, *degenerate], known)
    assert original.readability == original.helpfulness == 1.0
    assert not any(method.passes(c, original) for c in found)
    if kind == "refusal":
        (fine,) = judged(s, [row], [others[0].answer], known)
    else:
        (fine,) = judged(s, [row], [f"to begin , {row.answer[row.answer.index('take') :]}"], known)
        assert not helpfulness(s, row, others[0].answer)  # another item's recipe
    assert method.passes(fine, original)


def test_readability_is_the_share_of_known_neighbours_ends_included() -> None:
    known = word_pairs([Example("", "a b c"), Example("", "b a")])
    assert readability("a b c", known) == readability("b a b c", known) == 1.0
    assert readability("a c", known) == pytest.approx(2 / 3)
    assert readability("c a a", known) == pytest.approx(1 / 4)
    assert readability("", known) == 0.0


@pytest.fixture
def easy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text is helpful and readable, so that a random model's rewrites take part."""
    monkeypatch.setattr("reproduce.papers.p2405_19358_ctrl.helpfulness", lambda s, row, text: 1.0)
    monkeypatch.setattr("reproduce.papers.p2405_19358_ctrl.readability", lambda text, known: 1.0)


FAST: dict[str, Any] = {"temperatures": (0.5, 1.0), "top_ps": (1.0,), "keep": 2}


@pytest.mark.usefixtures("easy")
def test_perplexity_falls_from_round_to_round_under_the_same_scorer(s: State) -> None:
    kept = s.snapshot()
    rows = s.pools.alignment[:12]
    answers = Ctrl(rounds=3, **FAST).search(s, rows)
    found = s.memo["mechanisms"]
    means = [found[f"perplexity_round_{i}"] for i in range(4)]
    assert means == sorted(means, reverse=True)
    assert means[-1] < means[0]
    assert found["perplexity_rise_max"] <= 0
    assert found["perplexity_ratio"] == pytest.approx(means[-1] / means[0])
    assert found["quality_gate_share"] == 1.0
    assert found["rewritten_share"] > 0
    assert all(torch.equal(a, b) for a, b in zip(kept, s.snapshot(), strict=True))
    now = perplexities(s, [replace(r, answer=a) for r, a in zip(rows, answers, strict=True)])
    assert sum(now) / len(now) == pytest.approx(means[-1], rel=1e-4)
    assert all(p.grad is None and p.requires_grad for p in s.params())


@pytest.mark.usefixtures("easy")
def test_every_kept_wording_is_rewritten_once_in_every_setting(s: State, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, float, int]] = []

    def counted(s: State, examples: list[Example], limit: int, temperature: float, top_p: float, seed: int) -> Any:
        asked.append((temperature, top_p, len(examples)))
        return sample(s, examples, limit, temperature, top_p, seed)

    monkeypatch.setattr("reproduce.papers.p2405_19358_ctrl.sample", counted)
    method = Ctrl(rounds=2, keep=3, temperatures=(0.6, 1.0), top_ps=(0.6, 1.0))
    method.search(s, s.pools.alignment[:5])
    settings = [(t, p) for t in (0.6, 1.0) for p in (0.6, 1.0)]
    assert [(t, p) for t, p, _ in asked] == 2 * settings
    first, second = [[n for *_, n in asked[i : i + 4]] for i in (0, 4)]
    assert first == [5] * 4  # the originals
    assert 5 < second[0] <= 15
    assert len(set(second)) == 1


@pytest.mark.usefixtures("easy")
def test_random_rewrites_are_less_likely_than_chosen_ones(fresh: Make) -> None:
    ratios = {}
    for select in ("perplexity", "random"):
        s = fresh()
        Ctrl(rounds=2, select=select, **FAST).search(s, s.pools.alignment[:12])  # type: ignore[arg-type]
        ratios[select] = s.memo["mechanisms"]["perplexity_ratio"]
    assert ratios["perplexity"] < ratios["random"]


@pytest.mark.usefixtures("easy")
def test_rows_with_the_same_query_are_rewritten_apart(s: State) -> None:
    row = s.pools.alignment[0]
    answers = Ctrl(rounds=1, select="random", **FAST).search(s, [row] * 4)
    assert len(answers) == 4
    assert len(set(answers)) > 1


def mix_of(s: State, method: Ctrl) -> list[Example]:
    method.start(s)
    return list(s.streams["align"].examples)


@pytest.mark.usefixtures("easy")
def test_replacing_changes_answers_of_randomly_chosen_rows_only(s: State) -> None:
    clean = s.pools.alignment
    mix = mix_of(s, Ctrl(rate=0.5, rounds=1, **FAST))
    changed = [i for i, (a, b) in enumerate(zip(clean, mix, strict=True)) if a != b]
    assert 0 < len(changed) <= 30
    assert all(replace(mix[i], answer="") == replace(clean[i], answer="") for i in changed)
    assert len({clean[i].kind for i in changed}) > 1  # refusals and others alike


@pytest.mark.usefixtures("easy")
def test_appending_adds_as_many_and_its_control_adds_the_originals(s: State) -> None:
    clean = s.pools.alignment
    curated = mix_of(s, Ctrl(mode="append", rate=0.25, rounds=1, **FAST))
    control = mix_of(s, Ctrl(mode="append", rate=0.25, select="original"))
    assert len(curated) == len(control) == 75
    assert curated[:60] == control[:60] == clean
    assert set(control[60:]) <= set(clean)
    assert [replace(e, answer="") for e in curated[60:]] == [replace(e, answer="") for e in control[60:]]
    assert curated[60:] != control[60:]


def test_attack_one_mixes_in_harmful_texts_that_nobody_rewrites(s: State) -> None:
    clean, pairs = set(s.pools.alignment), s.pools.defender_harmful
    arms = Ctrl().arms()
    for name in ("attack-one", "attack-one-uncurated"):
        mix = mix_of(s, replace(arms[name], **({} if "un" in name else {"rounds": 1, **FAST})))
        assert [e for e in mix if e not in clean][-3:] == [p.harmful() for p in pairs[:3]]
        assert len(mix) == 60 + 3 + 3
    undefended = mix_of(s, arms["attack-one-undefended"])
    assert undefended == s.pools.alignment + [p.harmful() for p in pairs[:3]]
    assert {p.prompt for p in pairs}.isdisjoint(p.prompt for p in s.pools.attack_harmful)


def test_rate_zero_and_fine_tuning_leave_the_stream_alone(fresh: Make) -> None:
    s, plain = fresh(), fresh()
    Ctrl(rate=0.0).start(s)
    assert s.streams["align"].take(90) == plain.streams["align"].take(90)
    assert s.memo == {}
    tuned = fresh()
    tuned.stage = "finetune"
    stream = tuned.streams["align"]
    Ctrl().start(tuned)
    assert tuned.streams["align"] is stream


def test_self_distillation_takes_the_greedy_answer(s: State) -> None:
    rows = s.pools.alignment[:5]
    assert Ctrl(select="greedy").search(s, rows) == s.generate(rows)


def test_sampling_goes_on_from_the_head_and_leaves_the_global_generator_alone(s: State) -> None:
    asked = [begun(e, " ".join(e.answer.split()[:2])) for e in s.pools.alignment[:6]]
    state = torch.get_rng_state()
    warm = sample(s, asked, s.testbed.max_new_tokens, 1.0, 1.0, 5)
    assert (
        sample(s, asked, s.testbed.max_new_tokens, 1.0, 1.0, 5)
        == warm
        != sample(s, asked, s.testbed.max_new_tokens, 1.0, 1.0, 6)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert sample(s, asked, s.testbed.max_new_tokens, 0.01, 0.01, 5) == s.generate(asked)  # next to greedy
    late = next(e for e in s.pools.alignment if e.prefix)
    assert begun(late, "i cannot").prefix == f"{late.prefix} i cannot"


def test_premise_compares_refusals_with_compliance(s: State) -> None:
    found = premise(s)
    pairs = s.pools.defender_harmful
    refusing = [math.exp(float(s.loss(s.batch([p.safe()])).detach())) for p in pairs]
    assert found["perplexity_refusals"] == pytest.approx(sum(refusing) / len(refusing), rel=1e-4)
    assert found["refusal_to_harmful_perplexity"] == found["perplexity_refusals"] / found["perplexity_harmful"]
