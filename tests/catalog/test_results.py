import json

import pytest
from made import run

from catalog import measured, results
from catalog.meta import effects

MOTH = {"paper": "moth", "level": "explicit"}
BARE = {"ratio": None, "n": None, "task": None, "arm": "explicit"}


def under_moth(harmful="1111", **given):
    made = run(harmful, **{"paper": "moth", "method": {"paper": "sft"}, **BARE, **given})
    made["spec"]["attack"] = MOTH
    return made


RECORDS = [
    run("1111"),
    run("1110", seed=1),
    run("1000", paper="guard"),
    run("0000", paper="guard", seed=1),
    run("1111", attack={"strength": "strong"}),
    run("1100", "1110", paper="guard", attack={"strength": "strong"}),
    run("0000", paper="guard+lock", method={"paper": "guard+lock", "parts": [{"paper": "guard"}, {"paper": "lock"}]}),
    run("1000", paper="lock"),
    under_moth(),
    under_moth("1000", method={"paper": "guard"}),
    under_moth("1111", arm="other", method={"paper": "lock"}),
]


def rows(records=RECORDS):
    return results.tidy(records)


def row(paper, **wanted):
    (found,) = [r for r in rows() if r["paper"] == paper and all(r[k] == v for k, v in wanted.items())]
    return found


def test_what_is_printed_is_strict_json():
    assert json.loads(json.dumps(rows(), allow_nan=False)) == rows()


def test_a_defense_stands_with_its_twin_difference_and_worst_case():
    found = row("guard", condition="graded")
    twin = effects.arm({0: "1111", 1: "1110"})
    assert found["sft"]["harmful"]["value"] == twin.value
    assert (found["sft"]["harmful"]["low"], found["sft"]["harmful"]["high"]) == (twin.low, twin.high)
    gap = effects.difference({0: "1000", 1: "0000"}, {0: "1111", 1: "1110"})
    assert (found["harmful_vs_sft"], found["harmful_vs_sft_high"]) == (gap.value, gap.high)
    worst = found["worst_case"]
    assert (worst["condition"], worst["harmful"]["value"], worst["sft"]["harmful"]["value"]) == ("strong", 0.5, 1.0)
    assert (worst["gain_condition"], worst["harmful_vs_sft"]["value"]) == ("strong", -0.5)
    assert (worst["measured"], worst["declared"], worst["complete"]) == (2, 6, False)
    assert worst["not_run"] == ["ratio-0.2", "steps-300", "steps-600", "lora"]


def test_the_worst_case_stands_on_one_row_of_each_method():
    standing = [r["paper"] for r in rows() if r["worst_case"]]
    assert sorted(standing) == ["guard", "guard+lock", "lock", "sft"]
    assert row("guard", condition="strong")["worst_case"] is None


def test_cells_name_their_records():
    assert row("guard", condition="graded")["records"] == [one["key"] for one in RECORDS[2:4]]


@pytest.mark.parametrize(
    ("slug", "papers"),
    [
        (None, {"sft", "guard", "lock", "guard+lock", "moth"}),
        ("guard", {"sft", "guard", "guard+lock", "moth"}),
        ("guard+lock", {"sft", "guard+lock"}),
        ("moth", {"sft", "moth"}),
        ("sft", {"sft", "moth"}),
    ],
)
def test_a_paper_is_shown_with_what_it_is_compared_with(slug, papers):
    assert {one["spec"]["paper"] for one in results.select(RECORDS, slug)} == papers


def test_a_defense_brings_the_twin_of_the_attack_it_was_run_under_and_no_other_defense():
    shown = results.select(RECORDS, "guard")
    assert [one["spec"]["method"]["paper"] for one in shown if one["spec"]["paper"] == "moth"] == ["guard", "sft"]
    (cell,) = [cell for cell in measured.cells(shown) if cell.borrowed]
    assert cell.versus_sft["harmful"].value == -0.75


def test_the_tables_say_what_the_json_says():
    default, worst = results.standing_tables(RECORDS)
    line = dict(zip(default[0][1:4], next(line for line in default[1] if line[0] == "guard")[1:4], strict=True))
    assert (line["HS"].split()[0], line["SFT"].split()[0], line["HS−SFT"].split()[0]) == ("12", "88", "-75")
    (told,) = [line for line in worst[1] if line[0] == "guard"]
    assert told[1].startswith("50 [")
    assert told[2] == "strong"
    assert told[worst[0].index("FA there")].startswith("75 [")
    assert "2 of 6: incomplete" in told


HILL = {
    "kind": "study", "paper": "hill", "arm": "main", "version": 1, "study": {"paper": "hill"}, "protocol": "micro-9",
    "testbed": "micro", "model": "tiny", "data": "world",
}  # fmt: skip


def of_hill(seed, height):
    found = {"height": {"value": height, "unit": "points", "says": "how high it is"}}
    made = run(seed=seed)
    return made | {"key": f"hill {seed}", "spec": HILL | {"seed": seed}, "findings": found, "metrics": {}}


def test_findings_of_a_study_are_rows_and_lines_of_their_own():
    records = [*RECORDS, of_hill(0, 1.0), of_hill(1, 3.0), of_hill(2, None)]
    (row,) = [row for row in results.tidy(records) if row["kind"] == "study"]
    mean = effects.over_seeds([1.0, 3.0])
    assert (row["paper"], row["finding"], row["unit"], row["says"]) == ("hill", "height", "points", "how high it is")
    assert (row["estimate"]["value"], row["estimate"]["low"], row["estimate"]["seeds"]) == (2.0, mean.low, 2)
    columns, (line,) = results.findings(records)
    assert dict(zip(columns, line, strict=True)) == {
        "study": "hill", "finding": "height", "value": f"2 [{mean.low:.3g}, {mean.high:.3g}]", "unit": "points",
        "seeds": "2", "what it is": "how high it is",
    }  # fmt: skip
    (alone,) = results.findings([of_hill(0, 1.0)])[1]
    assert alone[2:5] == ("1", "points", "1")
    (undefined,) = results.findings([of_hill(0, None)])[1]
    assert undefined[2:5] == ("undefined", "points", "0")


def test_baselines_are_shown_under_the_conditions_of_the_paper():
    card = run("1111", task="card")
    records = [*RECORDS, card, run("1000", paper="guard", task="card"), run("1111", ratio=0.7), of_hill(0, 1.0)]

    def baselines(slug):
        return [one for one in results.select(records, slug) if one["spec"]["paper"] == "sft"]

    assert baselines("guard") == [*RECORDS[:2], RECORDS[4], card]  # its own, and every declared one
    assert baselines("hill") == baselines("moth") == [*RECORDS[:2], card]  # the default attack


def test_what_is_unusual_about_a_cell_is_in_its_line():
    lines = results.summary([run(), run(n=400), run(task="card"), run(seed=1, status="diverged", reason="nan")])[1]
    assert {line[1]: line[-1] for line in lines} == {
        "graded": "1, 1 diverged",
        "graded card": "1",
        "graded n 400": "1",
    }
    (row,) = results.tidy([run(), run(seed=1, status="diverged", reason="nan")])
    assert row["failures"] == [{"status": "diverged", "reason": "nan", "seeds": [1]}]


def test_baselines_stand_only_beside_a_defense_of_the_same_task():
    records = [*RECORDS, run("1111", n=10)]
    default, _ = results.standing_tables(records)
    assert [line[0] for line in default[1]].count("sft") == 1


def test_a_former_version_of_an_attack_does_not_count_beside_a_defense_either():
    former = [under_moth(), under_moth("1000", method={"paper": "guard"}, method_version=1)]
    own, rewritten = run("1000", paper="guard"), under_moth(arm="rewritten", version=2)
    assert sorted(r["spec"]["paper"] for r in results.select([own, *former], "guard")) == ["guard", "moth", "moth"]
    assert [r["spec"]["paper"] for r in results.select([own, *former, rewritten], "guard")] == ["guard"]
