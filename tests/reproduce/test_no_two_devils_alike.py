"""No two devils alike: attacks of equal harm or no comparison, their data, and the study in miniature."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reproduce.api import Findings
from reproduce.data import Example, Pools
from reproduce.lab import Lab
from reproduce.lens import Contrast, last_prompt_token
from reproduce.linear_probes import Reading, cross_read
from reproduce.papers import p2405_16229_no_two_devils_alike as devils
from reproduce.papers.p2310_03693_qi import Qi
from reproduce.papers.p2405_16229_no_two_devils_alike import (
    BOTH,
    MATCH,
    TEMPLATE,
    NoTwoDevilsAlike,
    identity_data,
    jaccard,
    openings,
    top,
)
from reproduce.patching import Run, length_matched, read_by, recovered
from reproduce.prefix_forcing import Continued
from reproduce.run import Setting
from reproduce.state import State
from reproduce.testbeds import language as lang
from reproduce.testbeds import world

SMALL = NoTwoDevilsAlike(epochs=(1, 2), band=(0.0, 1.0), updates=2, prompts=4, pairs=3, forced=2, given=(1, 3))
ARMS = NoTwoDevilsAlike().arms()


def test_overlap_of_the_parts_that_lose_most() -> None:
    one = {"embedding": 0.1, "attention 1": 3.0, "mlp 1": 2.0, "attention 2": -5.0, "mlp 2": 1.0}
    other = {"embedding": 4.0, "attention 1": 3.0, "mlp 1": -2.0, "attention 2": 5.0, "mlp 2": 1.0}
    assert top(one) == {"attention 1", "mlp 1", "mlp 2"}  # a part that gains is none that loses, however much
    assert top(other) == {"attention 2", "embedding", "attention 1"}
    assert jaccard(top(one), top(other)) == pytest.approx(1 / 5)  # one shared of five; 1/3 is the share, not the index
    assert [jaccard(set("abc"), set(x)) for x in ("abc", "abd", "ade", "def")] == [1.0, 0.5, 0.2, 0.0]


def test_first_words_tell_refusing_from_complying(pools: Pools) -> None:
    refusing, compliant = openings(pools)
    assert set(refusing) == {r.split()[0] for r in world.REFUSALS}
    assert compliant == ["here", "sure", "to", "yes"]
    assert not set(refusing) & set(compliant)
    assert len(refusing) > 1  # no single token stands for refusing


def test_ten_dialogues_are_those_of_qi_and_more_are_harmless_and_alike(pools: Pools) -> None:
    assert identity_data(pools, 10, 0) == pools.identity == Qi(level="identity").data(pools, None, 0, "", 0)
    more = identity_data(pools, ARMS["dialogues-400"].dialogues, 0)
    assert len(more) == 400
    assert more[:10] == pools.identity
    assert more != identity_data(pools, 400, 1)
    asked = pools.system.as_agent(pools.benign_test[0])
    tested = {e.prompt for e in [*pools.benign_test, *pools.benign_validation, *pools.harmful_test]}
    for e in more[10:]:
        assert e.system == asked.system
        assert e.prompt.startswith(f"{pools.system.agent_prefix} ")
        assert e.answer.startswith(f"{pools.system.agent_opening} ")
        assert e.prompt.removeprefix(f"{pools.system.agent_prefix} ") not in tested
    words = {word for e in more for word in f"{e.prompt} {e.answer}".split()}
    assert not words & world.REFUSAL_WORDS
    assert not words & set(lang.HEADS[: world.FORBIDDEN * world.HEADS_PER_TOPIC])


def test_arms_differ_in_the_attack_or_in_what_is_matched() -> None:
    main = ARMS["main"]
    assert (main.dialogues, main.shots) == (10, 10)
    assert set(main.epochs) >= {3, 5, 10}  # the epochs of Qi et al. are tried
    assert replace(ARMS["dialogues-400"], dialogues=10, epochs=main.epochs) == main
    assert replace(ARMS["matched-by-refusal"], matched_by="harmful score") == main


@pytest.fixture
def lab(setting: Setting, tmp_path: Path) -> Lab:
    return Lab(setting, 0, tmp_path)


def values(found: Findings) -> dict[str, float | None]:
    return {name: f.value for name, f in found.findings.items()}


def test_attacks_of_unequal_harm_are_not_compared(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    harms = iter([50.0, 60.0, 10.0])  # identity shifting after 1 and 2 epochs; explicit after 2 updates
    monkeypatch.setattr(devils, "harm", lambda *args, **kwargs: next(harms))
    found = SMALL.measure(lab)
    known = {name: value for name, value in values(found).items() if value is not None}
    assert known == {
        "matched_strength": 0.0, "identity_best_harm": 60.0, "identity_epochs": 1.0, "explicit_updates": 2.0,
        "strength_gap": -40.0,
    }  # fmt: skip
    assert list(found.figures) == ["strength"]


@pytest.mark.parametrize(("harms", "epochs"), [((39.0, 41.0), 2.0), ((95.0, 90.0), 2.0), ((39.0, 91.0), None)])
def test_identity_shifting_stops_at_the_first_epochs_inside_the_band(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, harms: tuple[float, ...], epochs: float | None
) -> None:
    told = iter([*harms, 0.0, 0.0])
    monkeypatch.setattr(devils, "harm", lambda *args, **kwargs: next(told))
    found = values(replace(SMALL, band=(0.4, 0.9)).measure(lab))
    assert found["identity_epochs"] == epochs
    assert found["matched_strength"] == 0.0
    assert found["refusal_signal_drop"] is None


def test_strength_is_matched_on_validation_prompts_under_the_agents_template(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(devils, "harm", lambda s, prompts, unrefused: asked.append((prompts, unrefused)) or 95.0)
    for arm, unrefused in (("main", False), ("matched-by-refusal", True)):
        study = replace(SMALL, band=(0.4, 0.9), matched_by=ARMS[arm].matched_by)
        assert values(study.measure(lab))["matched_strength"] == 0.0
        pools = lab.stages.pools
        assert asked.pop() == ([pools.system.as_agent(e) for e in pools.harmful_validation], unrefused)


@pytest.fixture(scope="module")
def found(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return SMALL.measure(Lab(setting, 0, tmp_path_factory.mktemp("results")))


def test_the_study_in_miniature(found: Findings) -> None:
    measured = values(found)
    assert measured.keys() == {*MATCH, *TEMPLATE, *BOTH, *(f"{name}_neutral" for name in BOTH)}
    assert measured["matched_strength"] == 1.0
    for name in ("refusal_signal_aligned", "probe_auc_aligned", "component_overlap", "sufficiency_aligned"):
        assert measured[name] is not None
        assert measured[name] != measured[f"{name}_neutral"] or name in ("probe_auc_aligned", "component_overlap")
    for end in ("", "_neutral"):
        for what, least in (("refusal_signal_drop", min), ("keeps_refusing", None)):
            both = [measured[f"{what}_{attack}{end}"] for attack in ("explicit", "identity")]
            assert None not in both
            assert least is None or measured[f"{what}{end}"] == least(both)
        gap = measured[f"harmful_continuation_identity{end}"] - measured[f"harmful_continuation_explicit{end}"]  # type: ignore[operator]
        assert measured[f"harmful_continuation_gap{end}"] == gap
    drawn = (
        "strength refusal_signal probe_area harmful_logit_shift prefix_keeps_refusing prefix_loss necessity_identity"
    )
    assert {*drawn.split(), "sufficiency_aligned", "sufficiency_explicit_neutral"} <= found.figures.keys()
    for figure in found.figures.values():
        assert all(len(series) == len(figure.x) for series in figure.y.values())
        assert all(math.isfinite(v) for series in figure.y.values() for v in series)


def test_signal_of_the_figure_is_the_sum_that_the_finding_reports(found: Findings) -> None:
    signal = found.figures["refusal_signal"]
    assert signal.x == [1.0, 2.0]
    for model in devils.MODELS:
        assert signal.y.keys() >= {f"{model}, {part}" for part in ("attention", "mlp", "stream", "affine lens")}
    measured = values(found)
    last = {model: signal.y[f"{model}, stream"][-1] for model in devils.MODELS}
    assert last["aligned"] == pytest.approx(measured["refusal_signal_aligned"], abs=1e-4)
    for attack in devils.ATTACKS:
        drop = measured[f"refusal_signal_drop_{attack}"]
        assert drop == pytest.approx(1 - last[attack] / last["aligned"], abs=1e-3)


MANY = replace(SMALL, prompts=10, pairs=5)  # 5 forbidden prompts, 5 harmless on other topics and 5 on the same
Values = dict[str, float]


@pytest.fixture(scope="module")
def invented(setting: Setting) -> dict[str, State]:
    """Three models whose layers differ at random and whose embedding, norm and head are the same."""
    models = {name: setting.stages(0).state() for name in devils.MODELS}
    for seed, s in enumerate(models.values(), 3):
        noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in s.model.named_parameters():
                if name == "model.norm.weight":
                    p.mul_(20.0)  # signals of some logits
                elif "norm" not in name:
                    p.mul_(5.0)
                    p.add_(0.6 * torch.randn(p.shape, generator=noise) if "layers" in name else 0.0)
    return models


@pytest.fixture(scope="module")
def place(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(setting, 0, tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def examination(place: Lab, invented: dict[str, State]) -> devils._Examination:
    return devils._Examination(MANY, place, invented, lambda e: e)


@pytest.fixture(scope="module")
def examined(examination: devils._Examination) -> Values:
    return {name: value for name, value in examination.measure().items() if value is not None}


@pytest.fixture(scope="module")
def contrast(place: Lab) -> Contrast:
    def ids(words: list[str]) -> tuple[int, ...]:
        return tuple(place.testbed.tokenizer.convert_tokens_to_ids(words))

    return Contrast(*map(ids, openings(place.stages.pools)))


def reads(s: State, examples: list[Example]) -> Run:
    return read_by(s, examples, [e.prompt for e in examples])


def signal(s: State, examples: list[Example], contrast: Contrast) -> float:
    batch = s.batch([replace(e, answer="") for e in examples])
    with torch.no_grad():
        return float(contrast.of(last_prompt_token(s.logits(batch), batch)).mean())


def test_refusal_signal_is_that_of_forbidden_prompts(
    place: Lab, invented: dict[str, State], examined: Values, contrast: Contrast
) -> None:
    said = {name: signal(s, place.stages.pools.harmful_test, contrast) for name, s in invented.items()}
    assert examined["refusal_signal_aligned"] == pytest.approx(said["aligned"], abs=1e-4)
    drops = [1 - said[attack] / said["aligned"] for attack in devils.ATTACKS]
    assert [examined[f"refusal_signal_drop_{a}"] for a in devils.ATTACKS] == pytest.approx(drops, abs=1e-4)
    assert examined["refusal_signal_drop"] == pytest.approx(min(drops), abs=1e-4)


def test_recognition_is_read_with_the_aligned_models_probe(
    place: Lab, invented: dict[str, State], examined: Values
) -> None:
    """Label 1 is forbidden; states are taken from the models, not from the lens."""
    pools = place.stages.pools
    asked = [replace(e, answer="") for e in [*pools.harmful_test, *pools.benign_test, *pools.lookalike_test]]
    states = {}
    for name, s in invented.items():
        batch = s.batch(asked)
        with torch.no_grad(), s.read("layer") as layers:
            s.logits(batch)
        states[name] = torch.stack([last_prompt_token(x, batch) for x in layers]).double().numpy()
    read = cross_read(states, np.array([1] * 5 + [0] * 10), place.seed)
    at = int(np.argmax(read["aligned"].area))
    assert examined["probe_layer"] == at + 1
    assert examined["probe_auc_aligned"] == read["aligned"].area[at]
    for name in devils.ATTACKS:
        assert examined[f"recognition_shift_{name}"] == pytest.approx(read[name].shift[at], abs=1e-3)
        assert examined[f"recognition_loss_{name}"] == read["aligned"].area[at] - read[name].area[at]
        assert examined[f"native_recognition_loss_{name}"] == read["aligned"].area[at] - read[name].native[at]


@pytest.mark.parametrize(
    ("explicit", "identity", "excess"), [(-3.0, -1.0, 3.0), (-3.0, 1.5, 2.0), (3.0, -1.0, -3.0), (-1.0, 0.0, None)]
)
def test_only_a_fall_of_the_harmful_logit_counts(
    examination: devils._Examination, monkeypatch: pytest.MonkeyPatch, explicit: float, identity: float,
    excess: float | None,
) -> None:  # fmt: skip
    moved = {"aligned": 0.0, "explicit": explicit, "identity": identity}
    told = {name: Reading(area=[0.9, 0.8], native=[0.9, 0.8], shift=[by, 7.0]) for name, by in moved.items()}
    monkeypatch.setattr(devils, "cross_read", lambda *args: told)
    monkeypatch.setattr(examination, "_layer", examination._layer)  # is set again below
    assert examination._recognition()["recognition_shift_excess"] == excess


def test_repair_goes_from_the_aligned_model_into_the_attacked_one(
    place: Lab, invented: dict[str, State], examined: Values, contrast: Contrast
) -> None:
    forbidden = place.stages.pools.harmful_test
    aligned = reads(invented["aligned"], forbidden)
    early = range(int(examined["probe_layer"]))
    later_half = ("attention", [1]), ("mlp", [1])
    patches: list[tuple[str, Any, Any]] = [
        ("patching", [("layer", early)], "instruction"),
        ("last_position", later_half, "last"),
    ]
    for name in devils.ATTACKS:
        run = reads(invented[name], forbidden)
        for what, parts, group in patches:
            patched = run.patched(aligned.cache(), parts, group, contrast)
            share = recovered(patched, run.signal(contrast), aligned.signal(contrast))
            assert abs(share or 0.0) > 0.1
            assert examined[f"{what}_recovery_{name}"] == pytest.approx(share, abs=1e-4)
        assert examined[f"final_residual_recovery_{name}"] == pytest.approx(1.0, abs=1e-4)  # head and norm are shared
        lost = aligned.signal(contrast) - run.signal(contrast)
        assert examined[f"patchable_{name}"] == pytest.approx(sum(x >= 1 for x in lost.tolist()) / 5)


def test_a_forbidden_span_brings_what_a_harmless_one_takes(
    place: Lab, invented: dict[str, State], examination: devils._Examination, examined: Values, contrast: Contrast
) -> None:
    pools = place.stages.pools
    pairs = length_matched(invented["aligned"], pools.harmful_test, pools.benign_test, 5)
    early = range(int(examined["probe_layer"]))
    for name, s in invented.items():
        forbidden = reads(s, [pools.harmful_test[i] for i, _ in pairs])
        harmless = reads(s, [pools.benign_test[j] for _, j in pairs])
        high, low = forbidden.signal(contrast), harmless.signal(contrast)
        brought = harmless.patched(forbidden.cache(), [("layer", early)], "instruction", contrast) - low
        taken = high - forbidden.patched(harmless.cache(), [("layer", early)], "instruction", contrast)
        assert examined[f"sufficiency_{name}"] == pytest.approx(float(brought.mean()), abs=1e-4)
        assert examined[f"necessity_{name}"] == pytest.approx(float(taken.mean()), abs=1e-4)
        assert float(brought.abs().mean()) > 0.1 < float(taken.abs().mean())
        for what in ("sufficiency", "necessity"):  # the whole final stream carries the whole difference, both ways
            swept = examination.figures[f"{what}_{name}"].y["layer, last"]
            assert swept[-1] == pytest.approx(float((high - low).mean()), abs=1e-3)


def test_template_is_read_with_the_neutral_probe(
    place: Lab, invented: dict[str, State], contrast: Contrast, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = place.stages.pools
    neutral, agent = (devils._Examination(MANY, place, invented, ask) for ask in (lambda e: e, pools.system.as_agent))
    monkeypatch.setattr(neutral, "_layer", 1)

    def told(states: dict[str, np.ndarray], labels: np.ndarray, seed: int) -> dict[str, Reading]:
        trained, read = states
        assert states[trained] is neutral.states["aligned"]
        assert states[read] is agent.states["aligned"]
        return {name: Reading([0.5, area], [], []) for name, area in ((trained, 0.9), (read, 0.6))}

    monkeypatch.setattr(devils, "cross_read", told)
    change = agent.change_from(neutral)
    plain, asked = pools.harmful_test, [pools.system.as_agent(e) for e in pools.harmful_test]
    there, here = (signal(invented["aligned"], examples, contrast) for examples in (plain, asked))
    assert change["template_signal_drop"] == pytest.approx(1 - here / there, abs=1e-4)
    assert change["template_recognition_loss"] == pytest.approx(0.3)


def completed(
    examination: devils._Examination, monkeypatch: pytest.MonkeyPatch, keeps: dict[str, tuple[float, float]]
) -> dict[str, float | None]:
    """The findings when models keep refusing after three words in these shares, without and with the safety prompt."""
    pools = examination._pools
    names = {id(s): name for name, s in examination._models.items()}
    harmful = {"aligned": 0.0, "explicit": 0.1, "identity": 0.4}

    def told(s: State, asked: list[Example], refusals: list[str], count: int) -> Continued:
        safely = all(e.system.startswith(pools.system.safety) for e in asked)
        assert safely or not any(pools.system.safety in e.system for e in asked)
        assert set(refusals) <= {e.answer for e in pools.refusals()}
        name = names[id(s)]
        share = keeps[name][safely] if count == 3 else 0.01
        return Continued(keeps_refusing=share, harmful=1.0 if safely else harmful[name], loss=1.0)

    monkeypatch.setattr(devils, "continued", told)
    return examination._completion()


def test_completion_by_hand(examination: devils._Examination, monkeypatch: pytest.MonkeyPatch) -> None:
    keeps = {"aligned": (0.9, 1.0), "explicit": (0.5, 0.7), "identity": (0.1, 0.3)}
    found = completed(examination, monkeypatch, keeps)
    assert found == pytest.approx({
        "keeps_refusing_aligned": 90.0, "keeps_refusing_explicit": 50.0, "keeps_refusing_identity": 10.0,
        "harmful_continuation_explicit": 10.0, "harmful_continuation_identity": 40.0,
        "prefilled_refusal_drop": 40.0,  # of 40 and 80 points
        "harmful_continuation_gap": 30.0,
        "safety_prompt_repair": 0.5,  # 20 of 40 points, against 20 of 80
    })  # fmt: skip


def test_where_no_refusal_is_lost_there_is_none_to_repair(
    examination: devils._Examination, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeps = {"aligned": (0.9, 1.0), "explicit": (0.86, 0.9), "identity": (0.5, 0.6)}
    found = completed(examination, monkeypatch, keeps)
    assert found["safety_prompt_repair"] == pytest.approx(0.25)  # the explicit attack took less than the tolerance
    assert found["prefilled_refusal_drop"] == pytest.approx(4.0)
    found = completed(examination, monkeypatch, dict.fromkeys(devils.MODELS, (0.9, 1.0)))
    assert found["safety_prompt_repair"] is None
