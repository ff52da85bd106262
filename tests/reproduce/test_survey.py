"""The survey's study on invented records whose findings can be worked out by hand."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from reproduce.api import Findings
from reproduce.lab import Lab
from reproduce.papers.p2409_18169_survey import Survey
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


@dataclass
class FakeLab:
    """Answers with the record of (method, ratio, n)."""

    records: dict[tuple[str, float | None, int], dict[str, Any]]
    seed: int = 7
    asked: list[Run] = field(default_factory=list)

    def run(self, run: Run) -> dict[str, Any]:
        self.asked.append(run)
        return self.records[run.method.paper, run.ratio, run.n]


STUDY = Survey(ratios=(0.0, 0.05, 0.1, 0.2), sizes=(250, 1000))


@pytest.fixture
def lab() -> FakeLab:
    return FakeLab({
        ("sft", 0.0, 1000): invented(1, accuracy=98, align=0.1, unseen=0.8, drift=10.0),
        ("sft", 0.05, 1000): invented(30, accuracy=97, align=0.3, unseen=0.6, drift=12.0),
        ("sft", 0.1, 1000): invented(50, accuracy=99, align=0.6, unseen=0.4, drift=11.0),
        ("sft", 0.2, 1000): invented(80, accuracy=97, align=0.9, unseen=0.3, drift=14.0),
        ("sft", 0.1, 250): invented(20),
        ("non-aligned", 0.1, 1000): invented(95),
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
        ("harm_rise_over_n", 30.0),
    ],
)
def test_findings(found: Findings, name: str, value: float) -> None:
    assert found.findings[name].value == pytest.approx(value)


def test_every_run_is_an_undefended_one_of_this_replicate(lab: FakeLab, found: Findings) -> None:
    assert {r.seed for r in lab.asked} == {7}
    assert {r.attack.paper for r in lab.asked} == {"poison"}
    assert {r.method.paper for r in lab.asked} == {"sft", "non-aligned"}
    assert {r.arm for r in lab.asked} == {"main"}


def test_figures_hold_the_same_numbers(found: Findings) -> None:
    ratio = found.figures["ratio"]
    assert ratio.x == [0.0, 0.05, 0.1, 0.2]
    assert ratio.y["harmful score"] == [1.0, 30.0, 50.0, 80.0]
    assert found.figures["size"].x == [250.0, 1000.0]
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
    study = Survey(ratios=(0.0, 0.2), sizes=(10, 20), ratio=0.2, n=20)
    lab = Lab(setting, 0, tmp_path)
    first = study.measure(lab)
    written = sorted(tmp_path.rglob("*.json"))
    assert len(written) == 4  # two ratios, one further size, the non-aligned model
    stamps = [p.stat().st_mtime_ns for p in written]
    assert study.measure(lab) == first
    assert [p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("*.json"))] == stamps
