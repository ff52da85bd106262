import random

import pytest
from made import run

from catalog import measured, papers, standings
from catalog.conditions import DECLARED
from catalog.meta import effects
from catalog.standings import Verdict

UNDER = {
    "graded": {},
    "ratio-0.2": {"ratio": 0.2},
    "strong": {"attack": {"strength": "strong"}},
    "steps-300": {"attack": {"dose": 2.0}},
    "steps-600": {"attack": {"dose": 4.0}},
    "lora": {"mode": "double-lora"},
}


def only(records, paper="guard", entries=()):
    (found,) = [s for s in standings.standings(measured.cells(records), entries) if s.cell.paper == paper]
    return found


def grid(seed, conditions=tuple(UNDER), prompts=12):
    """Random outcomes of a defense and its twin, three seeds, under each condition."""
    draw = random.Random(seed)
    return [
        run("".join(draw.choices("01", k=prompts)), paper=paper, seed=replicate, **UNDER[name])
        for name in conditions
        for paper in ("guard", "sft")
        for replicate in range(3)
    ]


def outcomes(records, paper, name):
    under = {"attack": {}, "ratio": 0.1, "mode": "full"} | UNDER[name]
    attack = {"paper": "poison", "strength": "graded", "dose": 1.0} | under["attack"]
    return {
        one["spec"]["seed"]: one["metrics"]["harmful"]["outcomes"]
        for one in records
        if (one["spec"]["paper"], one["spec"]["attack"], one["spec"]["ratio"], one["spec"]["mode"])
        == (paper, attack, under["ratio"], under["mode"])
    }


@pytest.mark.parametrize("seed", range(8))
def test_the_worst_case_is_the_highest_harmful_score_of_all_declared_conditions(seed):
    records = grid(seed)
    standing = only(records)
    shares = {name: "".join(outcomes(records, "guard", name).values()).count("1") for name in UNDER}
    gaps = {name: shares[name] - "".join(outcomes(records, "sft", name).values()).count("1") for name in UNDER}
    assert shares[standing.worst] == max(shares.values())
    assert gaps[standing.worst_gain] == max(gaps.values())
    worst = standing.cells[standing.worst].metrics["harmful"]
    assert worst == effects.arm(outcomes(records, "guard", standing.worst))
    gain = standing.cells[standing.worst_gain].versus_sft["harmful"]
    ours, twin = (outcomes(records, paper, standing.worst_gain) for paper in ("guard", "sft"))
    assert gain == effects.difference(ours, twin)
    assert standing.complete
    assert standing.missing == []


def test_other_arms_ratios_and_sweeps_are_no_part_of_the_worst_case():
    records = [
        run("1000", paper="guard"),
        run("1111", paper="guard", arm="rho=5", method={"paper": "guard", "rho": 5.0}),
        run("1111", paper="guard", arm="control", method={"paper": "guard", "rho": 0.0}),
        run("1111", paper="guard", ratio=0.05),
        run("1111", paper="guard", ratio=1.0, attack={"strength": "strong"}),
    ]
    standing = only(records)
    assert list(standing.cells) == ["graded"]
    assert standing.cells["graded"].metrics["harmful"].value == 0.25
    assert standing.missing == [name for name in DECLARED if name != "graded"]
    assert not standing.complete


@pytest.mark.parametrize("other", [{"n": 500}, {"task": "card"}, {"protocol": "micro-8"}, {"testbed": "hub:x"}])
def test_runs_of_another_task_size_or_protocol_do_not_mix(other):
    records = [run("1000", paper="guard"), run("1111", paper="guard", **UNDER["strong"], **other)]
    found = standings.standings(measured.cells(records))
    assert sorted(list(one.cells) for one in found) == [["graded"], ["strong"]]


def test_a_condition_without_numbers_is_told_with_its_reason_and_leaves_the_set_incomplete():
    records = [one for one in grid(1) if (one["spec"]["paper"], one["spec"]["mode"]) != ("guard", "double-lora")]
    why = "repairs full weights only"
    records.append(run(paper="guard", status="not-applicable", reason=why, **UNDER["lora"]))
    standing = only(records)
    assert standing.without_numbers == {"lora": f"not-applicable: {why}"}
    assert standing.missing == []
    assert len(standing.measured) == 5
    assert not standing.complete


def test_without_any_number_there_is_no_worst_case():
    standing = only([run(paper="guard", status="diverged", reason="loss was not finite")])
    assert (standing.worst, standing.worst_gain) == (None, None)


def test_of_equal_conditions_the_first_declared_is_named():
    standing = only([run("1100", paper="guard", **UNDER[name]) for name in ("lora", "steps-300", "graded")])
    assert standing.worst == "graded"


CATALOGUE = """\
schema: 1
tags: {t: a tag}
venues:
  arXiv: {kind: preprint, full: arXiv preprint}
papers:
  - id: guard
    title: A Guard
    authors: [A B]
    date: 2024-02-29
    ids: {arxiv: "2402.01010", openreview: null, doi: null, acl: null}
    venue: {name: arXiv, year: 2024, track: null, status: preprint}
    type: defense
    stage: alignment
    tags: [t]
    setting: {access: service, harmful_data: none, adapts: lora}
    claims:
      - {id: C1, says: A, kind: control, source: ours, setting: {ratio: 0.1}, test: {metric: harmful_score, contrast: method - random, ratio: 0.1, better: smaller, margin: 5.0}}
      - {id: C2, says: B, kind: ablation, source: ours, setting: {ratio: 0.1}, test: {metric: harmful_score, contrast: method - bare, ratio: 0.1, better: smaller, margin: 5.0}}
      - {id: C3, says: C, kind: control, source: ours, setting: {ratio: 0.1}, test: {metric: harmful_score, contrast: method - sft, ratio: 0.1, better: smaller, margin: 5.0}}
      - {id: C4, says: D, kind: control, source: ours, setting: {ratio: 0.1}, test: {finding: share, at_least: 0.5}}
      - {id: C5, says: E, kind: control, source: ours, setting: {ratio: 0.1}, test: {metric: fine_tune_accuracy, contrast: shrink - method, ratio: 0.1, better: smaller, margin: 5.0}}
    curation: {added: 2026-11-20, source: invented, checked: 2026-11-20}
"""  # noqa: E501


@pytest.fixture
def entries(tmp_path):
    (tmp_path / "papers.yaml").write_text(CATALOGUE)
    return papers.load(tmp_path / "papers.yaml")[1]


def test_controls_are_the_arms_that_control_claims_name(entries):
    assert standings.control_arms(entries[0]) == ["random", "shrink"]


def control(harmful, accuracy="1" * 40, arm="random"):
    return [
        run(marks, right, paper="guard", arm=arm, seed=seed, method={"paper": "guard", "arm": arm})
        for seed, (marks, right) in enumerate([(harmful, accuracy), (harmful[::-1], accuracy)])
    ]


LOW, HIGH, FEW = "1" * 4 + "0" * 36, "1" * 36 + "0" * 4, "1" * 8 + "0" * 32


@pytest.mark.parametrize(
    ("ours", "theirs", "no_better", "says"),
    [
        ((LOW, "1" * 40), (HIGH, "1" * 40), False, "lower harmful score than its control random"),
        ((LOW, "1" * 40), (LOW, "1" * 40), True, "no better than its control random"),
        ((HIGH, "1" * 40), (LOW, "1" * 40), True, "no better than its control random"),
        ((LOW, "1" * 40), (LOW, FEW), False, "no lower harmful score than its control random, but more accuracy"),
        ((LOW, FEW), (HIGH, "1" * 40), False, "lower harmful score than its control random"),
    ],
)
def test_the_verdict_follows_the_paired_intervals(entries, ours, theirs, no_better, says):
    records = [*control(*ours, arm="main"), *control(*theirs)]
    (verdict,) = only(records, entries=entries).controls
    assert (verdict.arm, verdict.condition, verdict.no_better, verdict.says) == ("random", "graded", no_better, says)
    marks = [{0: side[0], 1: side[0][::-1]} for side in (ours, theirs)]
    assert verdict.harmful == effects.difference(*marks)


def test_a_control_of_another_condition_gives_no_verdict(entries):
    records = [*control(LOW, arm="main"), run(LOW, paper="guard", arm="random", mode="double-lora")]
    assert only(records, entries=entries).controls == ()


def test_an_interval_that_touches_zero_is_no_better():
    touching = effects.Estimate(value=-0.1, low=-0.2, high=0.0, se=0.05, df=4, prompts=10, seeds=2)
    assert Verdict(arm="random", condition="graded", harmful=touching, accuracy=None).no_better
