"""The survey's study on invented records whose findings can be worked out by hand, and its attack at other rates."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from reproduce import record
from reproduce.api import Findings
from reproduce.baselines import Poison
from reproduce.data import Pools
from reproduce.lab import Lab
from reproduce.papers.p2409_18169_survey import SAYS, PoisonAtRate, Survey
from reproduce.protocol import MICRO
from reproduce.run import Run, Setting


def invented(
    harm: int, accuracy: int = 90, align: float = 0.5, unseen: float = 0.5, drift: float = 1.0
) -> dict[str, Any]:
    counts = {"harmful": harm, "accuracy": accuracy, "refusal": 100 - harm}
    return {
        "metrics": {name: {"n": 200, "k": 2 * percent} for name, percent in counts.items()},
        "mechanisms": {
            "alignment_loss": align, "alignment_loss_before": 0.2, "harmful_loss_unseen": unseen,
            "embedding_drift": drift,
        },
        "curves": {"step": [0, 5], "alignment_loss": [0.2, align], "harmful_loss_unseen": [0.9, unseen]},
    }  # fmt: skip


Point = tuple[str, float | None, int, float, float]  # method, ratio, n, rate and epochs as multiples


def point(run: Run) -> Point:
    attack = run.attack
    rate = attack.factor if isinstance(attack, PoisonAtRate) else 1.0
    return run.method.paper, run.ratio, run.n, rate, attack.dose if isinstance(attack, Poison) else 1.0


@dataclass
class FakeLab:
    """Answers with the record of a point, and of (method, ratio, n) at the usual rate and epochs."""

    records: dict[Point, dict[str, Any]]
    seed: int = 7
    asked: list[Run] = field(default_factory=list)

    def run(self, run: Run) -> dict[str, Any]:
        self.asked.append(run)
        return self.records[point(run)]


STUDY = Survey(ratios=(0.0, 0.05, 0.1, 0.2), sizes=(250, 1000), rates=(0.5, 1.0, 4.0), epochs=(0.5, 1.0, 2.0))


@pytest.fixture
def lab() -> FakeLab:
    return FakeLab({
        ("sft", 0.0, 1000, 1, 1): invented(1, accuracy=98, align=0.1, unseen=0.8, drift=10.0),
        ("sft", 0.05, 1000, 1, 1): invented(30, accuracy=97, align=0.3, unseen=0.6, drift=12.0),
        ("sft", 0.1, 1000, 1, 1): invented(50, accuracy=99, align=0.6, unseen=0.4, drift=11.0),
        ("sft", 0.2, 1000, 1, 1): invented(80, accuracy=97, align=0.9, unseen=0.3, drift=14.0),
        ("sft", 0.05, 250, 1, 1): invented(20, accuracy=60, align=0.7, unseen=0.7, drift=2.0),
        ("sft", 0.1, 1000, 0.5, 1): invented(10, accuracy=70, align=0.2, unseen=0.9, drift=12.0),
        ("sft", 0.1, 1000, 4, 1): invented(90, accuracy=96, align=1.6, unseen=0.1, drift=99.0),
        ("sft", 0.1, 1000, 1, 0.5): invented(25, accuracy=80, align=0.4, unseen=0.5, drift=3.0),
        ("sft", 0.1, 1000, 1, 2): invented(45, accuracy=98, align=0.5, unseen=0.2, drift=30.0),
        ("non-aligned", 0.1, 1000, 1, 1): invented(95),
    })  # fmt: skip


@pytest.fixture
def found(lab: FakeLab) -> Findings:
    return STUDY.measure(lab)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("harm_rise_over_ratio", 79.0),
        ("harm_ratio_spearman", 1.0),
        ("accuracy_range_over_ratio", 2.0),
        ("non_aligned_minus_sft", 45.0),
        ("harm_alignment_loss_spearman", 1.0),
        ("harm_embedding_drift_spearman", 0.8),  # one exchange among four: 1 - 6 * 2 / (4 * 15)
        ("unseen_harmful_loss_change", -0.4),
        ("alignment_loss_rise", 0.4),
        ("harm_rise_over_n", 10.0),
        ("harm_rise_over_rate", 80.0),
        ("harm_rise_over_epochs", 20.0),
        ("harm_n_spearman", 1.0),
        ("harm_rate_spearman", 1.0),
        ("harm_epochs_spearman", 0.5),  # 25, 50, 45: one exchange among three
        ("accuracy_range_over_n", 37.0),
        ("accuracy_range_over_rate", 29.0),
        ("accuracy_range_over_epochs", 19.0),
        ("forgetting_over_ratio", 0.8),
        ("forgetting_over_n", -0.4),
        ("forgetting_over_rate", 1.4),
        ("forgetting_over_epochs", 0.1),
        ("revitalisation_over_ratio", 0.5),
        ("revitalisation_over_n", 0.1),
        ("revitalisation_over_rate", 0.8),
        ("revitalisation_over_epochs", 0.3),
        ("drift_ratio_spearman", 0.8),
        ("drift_n_spearman", 1.0),
        ("drift_rate_spearman", 0.5),  # 12, 11, 99
        ("drift_epochs_spearman", 1.0),
    ],
)
def test_findings(found: Findings, name: str, value: float) -> None:
    assert found.findings[name].value == pytest.approx(value)


def test_every_finding_is_named_and_checked_by_hand(found: Findings) -> None:
    assert found.findings.keys() == SAYS.keys()
    (mark,) = (m for m in test_findings.pytestmark if m.name == "parametrize")  # type: ignore[attr-defined]
    assert {name for name, _ in mark.args[1]} == SAYS.keys()


def test_every_run_is_an_undefended_one_of_this_replicate(lab: FakeLab, found: Findings) -> None:
    assert {r.seed for r in lab.asked} == {7}
    assert {r.method.paper for r in lab.asked} == {"sft", "non-aligned"}
    assert {(r.attack.paper, r.arm) for r in lab.asked} == {
        ("poison", "main"), ("hft-survey", "rate-50"), ("hft-survey", "rate-400"),
    }  # fmt: skip
    assert found.findings


def test_usual_points_of_all_sweeps_are_one_run(lab: FakeLab, found: Findings) -> None:
    asked = [point(r) for r in lab.asked]
    assert (
        asked.count(("sft", 0.1, 1000, 1.0, 1.0)) == 3
    )  # once in the sweeps of ratio, rate and epochs: the lab measures it once
    assert asked.count(("sft", 0.05, 1000, 1.0, 1.0)) == 2  # in the sweeps of ratio and samples
    assert set(asked) == set(lab.records)
    assert found.figures["rate"].y["harmful score"][1] == found.figures["epochs"].y["harmful score"][1] == 50.0


def test_rates_are_arms_of_the_attack_and_change_nothing_but_the_rate(pools: Pools) -> None:
    arms = PoisonAtRate().arms()
    assert {name: arm.factor for name, arm in arms.items()} == {
        "rate-25": 0.25, "rate-50": 0.5, "rate-200": 2.0, "rate-400": 4.0,
    }  # fmt: skip
    for arm in arms.values():
        usual, scaled = Poison().schedule(MICRO, 1000, 3e-5), arm.schedule(MICRO, 1000, 3e-5)
        assert scaled.lr == pytest.approx(arm.factor * usual.lr)
        assert (scaled.steps, scaled.batch, scaled.warmup) == (usual.steps, usual.batch, usual.warmup)
        for ratio in (0.0, 0.1):
            assert arm.data(pools, ratio, 200, "sentiment", 3) == Poison().data(pools, ratio, 200, "sentiment", 3)
        assert arm.adapter(MICRO, "full") == Poison().adapter(MICRO, "full")


def test_epochs_are_doses_of_the_usual_attack() -> None:
    steps = [Poison(dose=dose).schedule(MICRO, 1000, 3e-5).steps for dose in Survey().epochs]
    assert steps == [75, 150, 300, 600]


def test_figures_hold_the_same_numbers(found: Findings) -> None:
    ratio = found.figures["ratio"]
    assert ratio.x == [0.0, 0.05, 0.1, 0.2]
    assert ratio.y["harmful score"] == [1.0, 30.0, 50.0, 80.0]
    assert found.figures["n"].x == [250.0, 1000.0]
    assert found.figures["losses_rate"].y["alignment loss"] == [0.2, 0.6, 1.6]
    assert found.figures["drift_epochs"].y["embedding drift"] == [3.0, 11.0, 30.0]
    assert found.figures["steps"].y["alignment loss"] == [0.2, 0.6]
    for figure in found.figures.values():
        assert all(len(series) == len(figure.x) for series in figure.y.values())


def test_a_constant_series_has_no_rank_correlation(lab: FakeLab) -> None:
    for key, value in lab.records.items():
        value["metrics"]["harmful"]["k"] = 0 if key[0] == "sft" else 10
    findings = STUDY.measure(lab).findings  # type: ignore[arg-type]
    assert findings["harm_ratio_spearman"].value is None
    assert findings["harm_rise_over_ratio"].value == 0.0


def test_the_study_in_miniature_shares_its_records(setting: Setting, tmp_path: Path) -> None:
    study = Survey(
        ratios=(0.0, 0.2), sizes=(10, 20), rates=(1.0, 2.0), epochs=(1.0, 2.0), ratio=0.2, size_ratio=0.2, n=20
    )
    lab = Lab(setting, 0, tmp_path)
    first = study.measure(lab)
    written = sorted(tmp_path.rglob("*.json"))
    assert len(written) == 6  # two ratios, a further size, rate and number of epochs, the non-aligned model
    assert Counter(record.load(p)["spec"]["paper"] for p in written) == {"sft": 4, "hft-survey": 1, "non-aligned": 1}
    stamps = [p.stat().st_mtime_ns for p in written]
    assert study.measure(lab) == first
    assert [p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("*.json"))] == stamps
