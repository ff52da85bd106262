"""No two devils alike: attacks of equal harm or no comparison, their data, and the study in miniature."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from reproduce.api import Findings
from reproduce.data import Pools
from reproduce.lab import Lab
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
from reproduce.run import Setting
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
