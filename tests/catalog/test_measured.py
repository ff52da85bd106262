import copy
import math

import pytest

from catalog import contrasts, measured, studies
from catalog.meta import effects
from catalog.schema import MechanismTest, MetricTest, TrendTest

SPEC = {
    "kind": "run",
    "protocol": "micro-1",
    "testbed": "micro",
    "paper": "sft",
    "arm": "main",
    "version": 1,
    "method": {"paper": "sft"},
    "attack": {"paper": "poison", "strength": "graded"},
    "ratio": 0.1,
    "n": 1000,
    "task": "sentiment",
    "mode": "full",
    "model": "tiny",
    "data": "world",
    "seed": 0,
}


def record(harmful="1100", accuracy="1111", status="ok", reason=None, made="2026-11-23T03:00:00Z", base="", **spec):
    full = {**SPEC, **spec}
    if "paper" in spec and "method" not in spec:
        full["method"] = {"paper": spec["paper"]}
    entries = {
        name: {"n": len(marks), "k": marks.count("1"), "outcomes": marks}
        for name, marks in {"harmful": harmful, "accuracy": accuracy}.items()
    }
    return {
        "key": measured.canonical(full),
        "spec": full,
        "status": status,
        "reason": reason,
        "metrics": entries if status == "ok" else {},
        "before": {"harmful": {"n": 4, "k": 0}},
        "mechanisms": {"embedding_drift": 10.0 + full["seed"], "embedding_drift_before": 4.0},
        "curves": {"step": [0, 5], "embedding_drift": [0.0, 10.0 + full["seed"]]},
        "digests": {"base": base},
        "made": made,
    }


def only(found, paper, arm="main"):
    (cell,) = [cell for cell in found if (cell.paper, cell.arm) == (paper, arm)]
    return cell


def test_seeds_become_one_cell_with_the_interval_of_their_outcomes():
    (cell,) = measured.cells([record("1100", seed=0), record("1110", seed=1)])
    assert cell.seeds == 2
    assert cell.metrics["harmful"] == effects.arm({0: "1100", 1: "1110"})
    assert cell.before["harmful"] == effects.counts([0, 0], 4)
    assert cell.mechanisms["embedding_drift"].value == 10.5


def test_a_defense_is_paired_with_the_twin_of_its_condition_only():
    found = measured.cells(
        [
            record("1111", seed=0),
            record("1111", seed=1),
            record("0000", seed=0, mode="double-lora"),
            record("1000", seed=0, paper="guard"),
            record("1100", seed=2, paper="guard"),
        ]
    )
    gap = only(found, "guard").versus_sft["harmful"]
    assert gap == effects.difference({0: "1000", 2: "1100"}, {0: "1111", 1: "1111"})
    assert (gap.seeds, gap.dropped) == (1, 1)
    assert all(not cell.versus_sft for cell in found if cell.paper == "sft")


def test_no_twin_no_difference():
    (cell,) = measured.cells([record(paper="guard", ratio=0.2)])
    assert cell.versus_sft == {}


def test_arms_settings_and_ratios_are_not_mixed():
    records = [
        record(paper="guard", method={"paper": "guard", "rho": 1.0}),
        record(paper="guard", method={"paper": "guard", "rho": 2.0}),
        record(paper="guard", arm="bare", method={"paper": "guard", "rho": 0.0}),
        record(paper="guard", ratio=0.2, method={"paper": "guard", "rho": 1.0}),
    ]
    assert [cell.seeds for cell in measured.cells(records)] == [1, 1, 1, 1]


def test_a_new_version_replaces_all_arms_of_the_old_one():
    old = [record("1111", paper="guard"), record("1111", paper="guard", arm="retired"), record()]
    found = measured.cells([*old, record("0000", paper="guard", version=2)])
    assert [(cell.paper, cell.version) for cell in found] == [("guard", 2), ("sft", 1)]
    assert only(found, "guard").metrics["harmful"].value == 0


def test_a_defense_under_another_papers_attack_stands_as_long_as_both_are_the_newest():
    moth = {"paper": "moth", "arm": "explicit", "attack": {"paper": "moth", "level": "explicit"}, "ratio": None}
    under = [record(**moth, method={"paper": who}, method_version=1) for who in ("guard", "wall")]
    bare, wall = record(**moth, method={"paper": "sft"}), record(paper="wall", version=2)
    assert measured.newest([*under, bare, wall]) == [under[0], bare, wall]
    rewritten = record(**moth | {"version": 2}, method={"paper": "sft"})
    assert measured.newest([*under, bare, rewritten]) == [rewritten]
    elsewhere = record(paper="wall", version=2, testbed="hub")
    assert len(measured.newest([*under, elsewhere])) == 3  # another testbed says nothing of this one


def test_a_repeat_on_the_same_base_is_not_another_replicate():
    first = record("1111", made="2026-11-23T03:00:00Z", base="aa")
    again = record("0000", made="2026-11-24T03:00:00Z", base="aa")
    (cell,) = measured.cells([again, first])
    assert (cell.seeds, cell.metrics["harmful"].value) == (1, 1)


def test_a_seed_on_two_bases_is_two_replicates_and_pairs_within_each():
    old = [record("1111", base="aa"), record("1100", base="aa", paper="guard")]
    new = [record("1110", base="bb"), record("0000", base="bb", paper="guard", made="2026-11-24T03:00:00Z")]
    found = measured.cells([*old, *new])
    assert [cell.seeds for cell in found] == [2, 2]
    guard = only(found, "guard")
    assert guard.versus_sft["harmful"].value == pytest.approx(-(0.5 + 0.75) / 2)
    assert contrasts.mechanisms(guard)["embedding_drift"].seeds == 2
    apart = measured.cells([old[0], new[1]])
    assert only(apart, "guard").versus_sft == {}  # no base has both


def test_failed_seeds_are_kept_with_their_reason_and_out_of_the_numbers():
    records = [
        record("1100", seed=0, paper="guard"),
        record(seed=1, paper="guard", status="diverged", reason="loss was not finite"),
        record(seed=2, paper="guard", status="diverged", reason="loss was not finite"),
    ]
    (cell,) = measured.cells(records)
    assert cell.failures == (measured.Failure("diverged", "loss was not finite", (1, 2)),)
    assert cell.metrics["harmful"].seeds == 1
    (failed,) = measured.cells(records[1:])
    assert failed.metrics == {}


def test_records_are_left_as_they_are():
    records = [record("1111"), record("1000", paper="guard")]
    kept = copy.deepcopy(records)
    measured.frame(measured.cells(records))
    assert records == kept


def test_frame_has_a_row_for_each_cell_with_numbers_and_condition():
    frame = measured.frame(measured.cells([record("1111"), record("1000", paper="guard")]))
    guard = frame.set_index("paper").loc["guard"]
    assert (guard["harmful"], guard["harmful_prompts"], guard["level"]) == (0.25, 4, "graded")
    assert guard["harmful_vs_sft"] == -0.75
    assert guard["harmful_low"] < 0.25 < guard["harmful_high"]


def test_curves_are_means_over_seeds():
    (cell,) = measured.cells([record(seed=0), record(seed=1)])
    assert measured.curve(cell, "embedding_drift") == ([0, 5], [0.0, 10.5])
    assert measured.curve(cell, "harmful_loss_seen") == ([], [])


def study(seed, value, **more):
    spec = {"kind": "study", "protocol": "micro-1", "testbed": "micro", "paper": "map", "arm": "main"}
    spec |= {"version": 1, "study": {"directions": 3}, "model": "tiny", "data": "world", "seed": seed}
    found = {"height": {"value": value, "unit": "points", "says": "mean height"}}
    figure = {"x": [0.0, 1.0], "y": {"line": [value, 0.0]}, "x_label": "x", "y_label": "y"}
    whole = {"key": str(seed), "spec": spec, "status": "ok", "reason": None, "made": "2026-11-23", "digests": {}}
    return whole | {"findings": found, "figures": {"landscape": figure}} | more


def test_findings_and_figures_are_means_over_seeds():
    records = [study(0, 70.0), study(1, 80.0)]
    (finding,) = studies.findings(records)
    assert (finding.estimate.value, finding.estimate.seeds, finding.unit) == (75.0, 2, "points")
    (figure,) = studies.figures(records)
    assert figure.y == {"line": [75.0, 0.0]}


def test_a_new_version_replaces_the_studies_of_the_old_one():
    other = record(paper="map", version=2)
    assert studies.findings([study(0, 70.0), other]) == studies.figures([study(0, 70.0), other]) == []


def test_a_failed_study_is_known_by_its_reason():
    failed = study(0, 0.0, status="skipped", reason="needs two bases", findings={}, figures={})
    assert studies.findings([failed]) == []
    assert studies.failed([failed])["map"][0].reason == "needs two bases"


def claim(**given):
    return MetricTest(
        **{"metric": "harmful_score", "contrast": "method - sft", "better": "smaller", "margin": 5.0} | given
    )


WORLD = [
    record("1111", seed=0),
    record("1110", seed=1),
    record("1000", seed=0, paper="guard"),
    record("0000", seed=1, paper="guard"),
    record("1100", seed=0, paper="guard", arm="bare", method={"paper": "guard", "rho": 0.0}),
    record("1100", seed=0, paper="guard", ratio=0.2),
    record("1111", seed=0, paper="guard", attack={"paper": "poison", "strength": "strong"}),
]


def test_a_contrast_with_sft_is_the_paired_difference_under_the_named_condition():
    (found,) = contrasts.measure(claim(ratio=0.1), "guard", measured.cells(WORLD))
    expected = effects.difference({0: "1000", 1: "0000"}, {0: "1111", 1: "1110"})
    assert found.estimate == expected


def test_a_contrast_may_name_an_arm_or_the_aligned_model():
    found = measured.cells(WORLD)
    (against_arm,) = contrasts.measure(claim(contrast="method - bare", ratio=0.1), "guard", found)
    assert against_arm.estimate.value == -0.25
    (against_aligned,) = contrasts.measure(claim(contrast="sft - aligned", ratio=0.1), "guard", found)
    assert against_aligned.estimate.value == pytest.approx((1.0 + 0.75) / 2)
    assert against_aligned.estimate.prompts == 0


def test_a_relative_contrast_of_a_mechanism():
    test = claim(metric="embedding_drift", scale="ratio", contrast="method - aligned", ratio=0.1)
    (found,) = contrasts.measure(test, "guard", measured.cells(WORLD))
    assert found.estimate.value == pytest.approx(((10 - 4) / 4 + (11 - 4) / 4) / 2)


def test_what_was_not_run_is_not_measured():
    assert contrasts.measure(claim(ratio=0.05), "guard", measured.cells(WORLD)) == []
    assert contrasts.measure(claim(attack="strong"), "guard", measured.cells(WORLD)) == []


def test_arms_that_are_attacks_are_compared_across_attacks():
    records = [
        record("1111", paper="moth", arm=level, attack={"paper": "moth", "level": level}, method={"paper": "sft"})
        for level in ("explicit", "benign")
    ]
    (found,) = contrasts.measure(claim(contrast="explicit - benign"), "moth", measured.cells(records))
    assert found.estimate.value == 0
    assert not math.isnan(found.estimate.low)


def test_the_undefended_arm_of_a_claim_is_not_taken_from_the_attacks_of_others():
    other = record("1111", paper="moth", arm="explicit", attack={"paper": "moth"}, method={"paper": "sft"}, ratio=None)
    (found,) = contrasts.measure(claim(contrast="sft - aligned"), "map", measured.cells([record("1100"), other]))
    assert found.cell.paper == "sft"


def test_a_defense_under_another_papers_attack_is_not_an_arm_of_that_paper():
    attack = {"paper": "moth", "level": "explicit"}
    records = [
        record(marks, paper="moth", arm="explicit", attack=attack, method={"paper": who}, ratio=None)
        for marks, who in (("1111", "sft"), ("0000", "guard"))
    ]
    (found,) = contrasts.measure(claim(contrast="explicit - aligned"), "moth", measured.cells(records))
    assert found.cell.method == "sft"
    assert only([cell for cell in measured.cells(records) if cell.borrowed], "moth", "explicit").method == "guard"


def test_arms_of_a_borrowed_defense_stay_apart_but_share_the_twin():
    attack = {"paper": "moth", "level": "explicit"}
    moth = {"paper": "moth", "arm": "explicit", "attack": attack, "ratio": None}
    records = [
        record("1111", **moth, method={"paper": "sft"}),
        record("1000", **moth, method={"paper": "guard"}),
        record("0000", **moth, method={"paper": "guard"}, method_arm="bare"),
    ]
    gaps = {c.method_arm: c.versus_sft["harmful"].value for c in measured.cells(records) if c.borrowed}
    assert gaps == {"main": -0.75, "bare": -1.0}


def test_more_steps_are_another_condition_than_the_claim_names():
    longer = {"paper": "poison", "strength": "graded", "dose": 4.0}
    more = [record("1111", seed=0, attack=longer), record("1111", seed=0, paper="guard", attack=longer)]
    assert len(contrasts.measure(claim(ratio=0.1), "guard", measured.cells([*WORLD, *more]))) == 1


def test_a_claim_on_one_task_leaves_the_others_out():
    card = [record("1110", task="card"), record("1010", task="card", paper="guard")]
    found = measured.cells([*WORLD, *card])
    (asked,) = contrasts.measure(claim(ratio=0.1, task="card"), "guard", found)
    assert (asked.cell.condition["task"], asked.estimate.value) == ("card", -0.25)
    assert len(contrasts.measure(claim(ratio=0.1), "guard", found)) == 2
    assert contrasts.measure(claim(ratio=0.1, task="letter"), "guard", found) == []


def test_mechanisms_are_paired_with_the_twin_by_seed():
    found = measured.cells([record(seed=0), record(seed=2), record(seed=2, paper="guard")])
    gaps = contrasts.mechanisms(only(found, "guard"))
    assert (gaps["embedding_drift"].value, gaps["embedding_drift"].seeds) == (0.0, 1)
    assert contrasts.mechanisms(only(found, "sft")) == {}


def test_the_number_of_steps_is_that_of_the_curves():
    (cell,) = measured.cells([record(seed=0), record(seed=1)])
    assert cell.steps == 5


def test_an_arm_of_a_sweep_knows_its_knob_and_value():
    (cell,) = measured.cells([record(paper="guard", arm="rho=0.5")])
    assert cell.swept == ("rho", 0.5)
    assert only(measured.cells([record()]), "sft").swept is None


def test_any_recorded_mechanism_can_be_contrasted():
    test = claim(metric=None, mechanism="embedding_drift", contrast="method - sft", ratio=0.1)
    (found,) = contrasts.measure(test, "guard", measured.cells(WORLD))
    (named,) = contrasts.measure(claim(metric="embedding_drift", ratio=0.1), "guard", measured.cells(WORLD))
    assert found.estimate == named.estimate
    assert contrasts.measure(test.model_copy(update={"mechanism": "unheard_of"}), "guard", measured.cells(WORLD)) == []


def test_a_claim_under_another_papers_attack_pairs_defense_and_sft_there():
    attack = {"paper": "moth", "level": "explicit"}
    known = {"paper": "moth", "arm": "explicit", "attack": attack, "ratio": None}
    records = [
        *WORLD,
        record("1111", method={"paper": "sft"}, **known),
        record("1000", method={"paper": "guard"}, **known),
        record("1110", method={"paper": "guard", "rho": 0.0}, method_arm="bare", **known),
    ]
    test = claim(attack="moth:explicit")
    (found,) = contrasts.measure(test, "guard", measured.cells(records))
    assert found.estimate.value == -0.75
    (bare,) = contrasts.measure(claim(attack="moth:explicit", contrast="bare - sft"), "guard", measured.cells(records))
    assert bare.estimate.value == -0.25
    assert contrasts.measure(claim(attack="moth:benign"), "guard", measured.cells(records)) == []


def test_a_contrast_names_one_quantity():
    for given in ({"metric": None}, {"mechanism": "embedding_drift"}):
        with pytest.raises(ValueError, match="exactly one of metric and mechanism"):
            claim(**given)


def test_both_sides_of_a_contrast_can_be_read_off_before_fine_tuning():
    before = {"harmful": {"n": 4, "k": 2}}
    records = [record("1111"), {**record("1111", paper="guard"), "before": before}]
    test = claim(contrast="method@before - sft@before", ratio=0.1)
    (found,) = contrasts.measure(test, "guard", measured.cells(records))
    assert found.estimate.value == 0.5
    (risen,) = contrasts.measure(claim(contrast="method - method@before"), "guard", measured.cells(records))
    assert risen.estimate.value == 0.5
    plain = claim(contrast="method - aligned"), claim(contrast="method - sft@before")
    assert [contrasts.measure(t, "guard", measured.cells(records))[0].estimate.value for t in plain] == [1.0, 1.0]


def test_a_relative_contrast_needs_a_positive_reference():
    records = [record(), record(paper="guard")]
    records[0]["mechanisms"]["embedding_drift"] = -1.0
    test = claim(metric="embedding_drift", scale="ratio")
    assert contrasts.measure(test, "guard", measured.cells(records)) == []


def test_the_statistic_of_one_arm_is_its_mean_over_seeds():
    test = MechanismTest(mechanism="embedding_drift", ratio=0.1, at_most=11.0)
    (found,) = contrasts.measure(test, "guard", measured.cells(WORLD))
    assert (found.estimate.value, found.estimate.seeds) == (10.5, 2)
    assert contrasts.measure(test.model_copy(update={"mechanism": "unheard_of"}), "guard", measured.cells(WORLD)) == []
    with pytest.raises(ValueError, match="exactly one of at_least and at_most"):
        MechanismTest(mechanism="embedding_drift")


def swept(rho, marks, seed=0, **more):
    arm = "main" if rho == 1.0 else f"rho={rho:g}"
    return record(marks, paper="guard", arm=arm, method={"paper": "guard", "rho": rho}, seed=seed, **more)


def test_a_trend_ranks_a_quantity_against_a_field_in_each_seed():
    falling = [swept(0.5, "1111"), swept(1.0, "1110"), swept(2.0, "1000")]
    rising = [swept(0.5, "0000", 1), swept(1.0, "1110", 1), swept(2.0, "1111", 1)]
    apart = [swept(4.0, "1111", ratio=0.2), swept(1.0, "1111", 2)]
    other = record("1111", paper="guard", arm="bare", method={"paper": "guard", "rho": 9.0, "mask": True})
    test = TrendTest(metric="harmful_score", over="rho", ratio=0.1, at_most=-0.6)
    (found,) = contrasts.measure(test, "guard", measured.cells([*falling, *apart, other]))
    assert (found.estimate.value, found.estimate.seeds) == (-1.0, 1)
    (both,) = contrasts.measure(test, "guard", measured.cells([*falling, *rising, *apart, other]))
    assert (both.estimate.value, both.estimate.seeds) == (0.0, 2)
    assert contrasts.measure(test, "guard", measured.cells(falling[:2])) == []


def test_a_seed_without_change_has_no_trend_and_counts_as_none():
    falling = [swept(0.5, "1111"), swept(1.0, "1110"), swept(2.0, "1000")]
    still = [swept(rho, "1111", 1) for rho in (0.5, 1.0, 2.0)]
    test = TrendTest(metric="harmful_score", over="rho", ratio=0.1, at_most=-0.9)
    (both,) = contrasts.measure(test, "guard", measured.cells([*falling, *still]))
    assert (both.estimate.value, both.estimate.seeds) == (-0.5, 2)
    (flat,) = contrasts.measure(test, "guard", measured.cells(still))
    assert flat.estimate.value == 0.0


def test_a_trend_may_leave_out_values_at_which_nothing_can_move():
    ratios, marks = (0.0, 0.05, 0.1, 0.2), ("1111", "0000", "1000", "1100")
    records = [record(mark, ratio=ratio, paper="guard") for ratio, mark in zip(ratios, marks, strict=True)]
    cells = measured.cells(records)
    over_all = TrendTest(metric="harmful_score", over="ratio", at_least=0.0)
    some = TrendTest(metric="harmful_score", over="ratio", among=[0.05, 0.1, 0.2], at_least=0.0)
    found = [contrasts.measure(test, "guard", cells)[0].estimate.value for test in (over_all, some)]
    assert found == pytest.approx([1 - 6 * (3**2 + 1 + 1 + 1) / (4 * 15), 1.0])
    with pytest.raises(ValueError, match="at least 3 items"):
        TrendTest(metric="harmful_score", over="ratio", among=[0.05, 0.2], at_least=0.0)


def test_a_trend_over_the_ratio_may_follow_the_gap_to_sft():
    ratios, ours, theirs = (0.05, 0.1, 0.2), ("0000", "1000", "1111"), ("1100", "1100", "1111")
    records = [record(marks, ratio=ratio) for ratio, marks in zip(ratios, theirs, strict=True)]
    records += [record(marks, ratio=ratio, paper="guard") for ratio, marks in zip(ratios, ours, strict=True)]
    test = TrendTest(metric="harmful_score", over="ratio", of="method - sft", at_least=0.0)
    (found,) = contrasts.measure(test, "guard", measured.cells(records))
    assert found.estimate.value == 1.0
    with pytest.raises(ValueError, match="no ratio of its own"):
        TrendTest(metric="harmful_score", over="ratio", ratio=0.1, at_least=0.0)


def test_the_fall_of_the_harmful_loss_is_read_off_its_curve():
    curves = {"step": [0, 20, 60, 100], "harmful_loss_unseen": [3.0, 2.0, 1.0, 0.8]}
    records = [{**record(paper=who), "curves": curves} for who in ("sft", "guard")]
    records[1] = {**records[1], "curves": {**curves, "harmful_loss_unseen": [3.0, 2.9, 2.8, 2.7]}}
    cells = measured.cells(records)
    (whole,) = contrasts.measure(claim(metric="harmful_loss_fall"), "guard", cells)
    (late,) = contrasts.measure(claim(metric="harmful_loss_late_fall"), "guard", cells)
    assert whole.estimate.value == pytest.approx(0.3 - 2.2)
    assert late.estimate.value == pytest.approx((2.825 - 2.7) - (1.25 - 0.8))


def test_the_early_fall_tells_a_slower_loss_from_one_that_only_started_lower():
    steps = [0, 12, 24, 60]
    losses = {"sft": [3.0, 1.5, 0.2, 0.1], "low": [1.5, 0.0, 0.1, 0.1], "slow": [1.5, 1.25, 0.6, 0.1]}
    records = [
        {**record(paper=who), "curves": {"step": steps, "harmful_loss_unseen": curve}} for who, curve in losses.items()
    ]
    cells = measured.cells(records)

    def fall(who, metric):
        return contrasts.measure(claim(metric=metric, scale="ratio"), who, cells)[0].estimate.value

    assert fall("low", "harmful_loss_fall") == fall("slow", "harmful_loss_fall") == pytest.approx(1.4 / 2.9 - 1)
    assert fall("low", "harmful_loss_early_fall") == 0.0
    assert fall("slow", "harmful_loss_early_fall") == pytest.approx(0.25 / 1.5 - 1)
