"""The living analysis: what it pools, that it is deterministic, and that it says what changed and why."""

import json

import numpy as np
import pytest
from made import run
from scipy.stats import t as student
from typer.testing import CliRunner

from catalog import measured
from catalog.cli import app
from catalog.meta import gathered, living_stages, margins, report
from catalog.meta.network import network
from catalog.meta.pool import pool

DRAW = np.random.default_rng(11)
HARD = DRAW.random(120)
STRONG = {"strength": "strong"}
SHARES = {"sft": 0.7, "shield": 0.2, "charm": 0.72}


def marks(share, seed):
    """Outcomes of 120 prompts; bases differ, and a prompt is as hard for every arm."""
    level = np.clip(share + 0.03 * np.sin(7 * seed), 0, 1)
    return "".join("01"[int(one)] for one in (HARD + 0.1 * np.random.default_rng(seed).random(120)) / 1.1 < level)


def records(seeds=range(6), **more):
    return [
        run(harmful=marks(share, seed), accuracy=marks(0.9, seed), paper=paper, seed=seed, **more)
        for paper, share in SHARES.items()
        for seed in seeds
    ]


def reported(found, before=None):
    return report.report(measured.cells(found), [], {}, margins.load(), before)


def row(made, method, condition="graded"):
    (bed,) = made.document["testbeds"]
    (one,) = [one for one in bed["defenses"] if one["method"] == method]
    return next(row for row in one["conditions"] if row["condition"] == condition)


def gaps(method, seeds=range(6)):
    """Differences to SFT counted by hand, one a base."""
    return np.array([(marks(SHARES[method], s).count("1") - marks(SHARES["sft"], s).count("1")) / 120 for s in seeds])


def test_a_base_is_a_cluster_and_effects_are_paired_differences():
    found = row(reported(records()), "shield")["hs_rd"]
    assert (found["k"], found["clusters"], found["prompts"]) == (6, 6, 120)
    assert found["ci_low"] < gaps("shield").mean() < found["ci_high"]
    (line,) = [one for one in gathered.lines(measured.cells(records())) if one.method == "shield"]
    assert line.effects["hs_rd"].y == pytest.approx(gaps("shield"))


def test_conclusions_follow_the_intervals_and_the_declared_margins():
    made = reported(records()).document["conclusions"]
    says = {name.removeprefix("micro/micro-9/"): one["says"] for name, one in made.items()}
    assert says["shield/graded/hs_rd"] == "lowers HS"
    assert says["charm/graded/hs_rd"] in ("practically no effect on HS", "raises HS")
    assert says["shield/graded/fa_rd"] == "keeps FA"


def test_two_bases_carry_no_general_claim():
    made = reported(records(range(2)))
    assert row(made, "shield")["hs_rd"]["conclusion"] == "no general claim"


def test_equal_answers_of_few_bases_are_not_certainty():
    """Accuracy of both arms is the same to the last answer: the effect is 0, its interval is not."""
    found = row(reported(records()), "shield")["fa_rd"]
    assert found["estimate"] == 0
    assert found["ci_low"] < -0.003
    assert found["ci_high"] > 0.003


def test_repeated_records_do_not_make_more_clusters():
    twice = [*records(), *({**one, "made": "2026-11-24T00:00:00Z"} for one in records())]
    assert reported(twice).document["testbeds"] == reported(records()).document["testbeds"]


def test_order_of_the_records_does_not_matter():
    made, other = (json.dumps(reported(found).document) for found in (records(), records()[::-1]))
    assert made == other


def test_same_records_and_last_report_give_the_same_bytes():
    first = reported(records()).document
    again = reported(records(), first).document
    assert json.dumps(first) == json.dumps(again)
    assert first["looks"] == 1


def test_new_records_are_a_look_and_are_named_behind_what_they_changed():
    first = reported(records(range(2))).document
    second = reported(records(), first).document
    assert second["looks"] == 2
    entry = second["changes"][-1]
    assert (entry["records_added"], entry["records_removed"]) == (12, 0)
    changed = {one["conclusion"]: one for one in entry["changed"]}["micro/micro-9/shield/graded/hs_rd"]
    assert (changed["before"], changed["after"]) == ("no general claim", "lowers HS")
    new = {one["key"] for one in records(range(2, 6)) if one["spec"]["paper"] in ("shield", "sft")}
    assert set(changed["added"]) == new
    assert reported(records(), second).document["looks"] == 2


def test_a_conclusion_that_changes_without_records_is_put_to_rules_or_program():
    first = reported(records()).document
    first["conclusions"]["micro/micro-9/shield/graded/hs_rd"]["says"] = "raises HS"
    second = reported(records(), first).document
    (change,) = second["changes"][-1]["changed"]
    assert (change["after"], change["cause"]) == ("lowers HS", "rules or program")
    assert second["looks"] == 1


def test_records_that_go_are_named():
    first = reported(records()).document
    entry = reported(records(range(5)), first).document["changes"][-1]
    assert (entry["records_added"], entry["records_removed"]) == (0, 3)


def test_the_network_is_paired_by_prompt():
    """Arms that share prompts are less uncertain against one another than counts of independent prompts would say."""
    made = reported(records())
    found = next(one for one in made.document["testbeds"][0]["networks"] if one["effect"] == "hs_rd")
    assert found["treatments"] == ["sft", "charm", "shield"]
    assert found["effects"]["shield"]["sft"]["estimate"] == pytest.approx(gaps("shield").mean(), abs=0.01)
    assert [one["cluster"] for one in found["leave_one_cluster_out"]] == [f"base {seed}" for seed in range(6)]
    analysis = next(one for (_, _, effect), one in made.networks.items() if effect == "hs_rd")
    study = analysis.studies[0]
    independent = sum(p * (1 - p) / 120 for p in (0.7, 0.72))
    assert study.variances[0, study.treatments.index("charm")] < independent / 2
    assert network(analysis.studies, "sft").estimate[2, 0] == pytest.approx(
        found["effects"]["shield"]["sft"]["estimate"]
    )


def test_moderators_are_contrasts_inside_a_defense_and_a_base():
    moved = {**SHARES, "shield": 0.4}
    strong = [
        run(harmful=marks(share, s), accuracy=marks(0.9, s), paper=paper, seed=s, attack={"strength": "strong"})
        for paper, share in moved.items()
        for s in range(6)
    ]
    made = reported([*records(), *strong])
    (found,) = made.document["testbeds"][0]["moderators"]["hs_rd"]["conditions"]
    by_base = [
        (marks(0.4, s).count("1") - marks(0.2, s).count("1")) / 120 / 2  # shield moves, charm does not
        for s in range(6)
    ]
    reach = student.ppf(0.975, 5) * np.std(by_base, ddof=1) / 6**0.5
    assert found["condition"] == "strong"
    assert found["estimate"] == pytest.approx(np.mean(by_base))
    assert found["ci_high"] - found["estimate"] == pytest.approx(reach)


def test_the_slope_over_the_share_is_that_of_the_default_attack_alone():
    def under(ratio, shield, **more):
        return [
            run(harmful=marks(share, s), accuracy=marks(0.9, s), paper=paper, seed=s, ratio=ratio, **more)
            for paper, share in {**SHARES, "shield": shield}.items()
            for s in range(6)
        ]

    strong = [one for ratio, shield in ((0.05, 0.1), (0.2, 0.6)) for one in under(ratio, shield, attack=STRONG)]
    made = reported([*records(), *under(0.2, 0.4), *strong])
    found = made.document["testbeds"][0]["moderators"]["hs_rd"]["per_doubling_of_ratio"]
    moved = [(marks(0.4, s).count("1") - marks(0.2, s).count("1")) / 120 / 2 for s in range(6)]  # charm does not
    assert found["estimate"] == pytest.approx(np.mean(moved))


def test_seeds_of_one_model_are_one_cluster():
    made = reported(records(testbed="hub:m", model="m"))
    found = row(made, "shield")["hs_rd"]
    assert (found["clusters"], found["seeds"]) == (1, 6)
    assert found["conclusion"] == "no general claim"


def test_the_command_writes_a_whole_report_and_says_what_changed(tmp_path):
    results, to = tmp_path / "results", tmp_path / "out"
    results.mkdir()

    def ask(*more):
        return CliRunner().invoke(app, ["meta", "report", "--results", str(results), *more])

    first = ask("--to", str(to))
    assert first.exit_code == 0, first.output
    assert json.loads((to / "report.json").read_text())["records"]["count"] == 0
    assert not list(to.glob(".*"))
    (tmp_path / "broken.json").write_text("{}")
    broken = ask("--since", str(tmp_path / "broken.json"))
    assert broken.exit_code == 1
    assert "not a report" in broken.output
    assert ask("--since", str(tmp_path / "none.json")).exit_code == 2


def test_another_defense_lies_around_the_plain_mean_not_around_those_that_never_change_anything():
    """In the middle stands the mean of the defenses; weights by variance would hide the one that moved."""
    y, v = np.array([0.0, 0.002, -0.0025, -0.30]), np.array([1e-6, 1e-6, 1e-6, 0.01])
    found = living_stages._between(y, v)
    assert (found.pi_low + found.pi_high) / 2 == pytest.approx(y.mean())
    tau2 = y.var(ddof=1) - v.mean()
    assert found.pi_high - y.mean() == pytest.approx(student.ppf(0.975, 2) * np.sqrt(tau2 + (tau2 + v.mean()) / 4))
    weighted = pool(y, v)
    assert not weighted.low < y.mean() < weighted.high
