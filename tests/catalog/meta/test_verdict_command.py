"""`hft meta verdict` as a user meets it: a table, papers.yaml with records, faults by row."""

import json

import pytest
from made import run
from typer.testing import CliRunner

from catalog import measured
from catalog.cli import app
from catalog.meta import claims
from catalog.schema import Paper

HEADER = "paper,claim,reported,measured,se,ci_low,ci_high,df,baseline_reported,baseline_measured,metric,joint,primary\n"
GOOD = (
    "guard,C1,-0.30,-0.28,0.02,,,,0.60,0.65,,one,yes\n"
    "guard,C1b,0,-0.001,0.004,,,,0.90,0.92,fine_tune_accuracy,one,yes\n"
    "guard,C2,-0.10,0.08,,0.02,0.14,9,,,,,no\n"
    "wall,C1,-0.30,-0.40,0.02,,,4,0.60,0.71,,,\n"
)


@pytest.fixture
def ask(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run_(rows, *options, header=HEADER):
        (tmp_path / "claims.csv").write_text(header + rows)
        return CliRunner().invoke(app, ["meta", "verdict", "--csv", "claims.csv", *options])

    return run_


def test_a_table_gives_one_document(ask):
    result = ask(GOOD, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [one["verdict"] for one in found["claims"]] == [
        "reproduced",
        "reproduced",
        "not reproduced",
        "baseline mismatch",
    ]
    assert [one["claims"] for one in found["tests"]] == [["C1", "C1b"], ["C2"], ["C1"]]
    assert {one["paper"]: one["verdict"] for one in found["papers"]} == {
        "guard": "reproduced",
        "wall": "baseline mismatch",
    }
    assert found["claims"][1]["test"] == "non-inferiority"
    assert found["claims"][2]["ci_low"] == pytest.approx(0.02)
    assert found["claims"][0]["df"] is None
    assert found["margins"]["version"] >= 1
    assert ask(GOOD, "--json").stdout == result.stdout


def test_the_table_for_people_names_margins_and_reasons(ask):
    said = ask(GOOD).stdout
    assert "margins version" in said
    assert "baseline mismatch" in said
    assert "the effect goes the other way" in " ".join(said.split())


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("guard,C1,-30,-0.28,0.02,,,,,,,,\n", "reported is -30, outside -1 to 1"),
        ("guard,C1,-0.3,nan,0.02,,,,,,,,\n", "measured is 'nan', not a number"),
        ("guard,C1,-0.3,-0.2,0,,,,,,,,\n", "se is 0"),
        ("guard,C1,-0.3,-0.2,-0.1,,,,,,,,\n", "se is -0.1"),
        ("guard,C1,-0.3,-0.2,,,,,,,,,\n", "neither se nor both"),
        ("guard,C1,-0.3,-0.2,,-0.1,0.1,,,,,,\n", "with interval"),
        ("guard,C1,0.3,-0.2,0.1,,,,,,,,\n", "not smaller than the baseline"),
        (",C1,-0.3,-0.2,0.1,,,,,,,,\n", "no paper"),
        ("guard,C1,-0.3,-0.2,0.1,,,,,,accuracy,,\n", "did you mean 'fine_tune_accuracy'"),
        ("guard,C1,-0.3,-0.2,0.1,,,,,,,,maybe\n", "primary is 'maybe'"),
        (GOOD.splitlines()[0] + "\nguard,C1,-0.3,-0.2,0.1,,,,,,,,\n", "stands in line 2 too"),
    ],
)
def test_faulty_rows_are_named(ask, row, told):
    result = ask(row)
    assert result.exit_code == 1
    assert told in result.stderr
    assert "claims.csv:" in result.stderr
    assert result.stdout == ""


def test_repeated_rows_count_once(ask):
    result = ask(GOOD + GOOD.splitlines()[0] + "\n", "--json")
    assert len(json.loads(result.stdout)["claims"]) == 4
    assert "counts once" in result.stderr


def test_wrong_usage(ask):
    assert ask(GOOD, "--margins", "99").exit_code == 2
    assert ask(GOOD, "vaccine").exit_code == 2
    missing = ask("guard,C1,-0.3,-0.2\n", header="paper,claim,reported,measured\n")
    assert missing.exit_code == 2
    assert "'se'" in missing.stderr


def paper(*given):
    """An entry of the catalogue with these claims: id, metric, better, margin, reported (or None), kind."""
    setting = {"access": "service", "harmful_data": "explicit", "adapts": "lora"}
    rows = [
        {
            "id": name,
            "says": "a claim",
            "kind": kind,
            "source": "Table 1",
            "setting": {"ratio": 0.1},
            "test": {"metric": metric, "contrast": "method - sft", "ratio": 0.1, "better": better, "margin": margin},
        }
        | ({"reported": dict(zip(("metric", "baseline", "method", "unit"), reported, strict=True))} if reported else {})
        for name, metric, better, margin, reported, kind in given
    ]
    venue = {"name": "Fair", "year": 2024, "status": "preprint"}
    curation = {"added": "2026-01-01", "source": "made", "checked": "2026-01-01"}
    fields = {"id": "guard", "title": "Guard", "authors": ["A"], "date": "2024-01-01", "ids": {}, "venue": venue}
    fields |= {"type": "defense", "stage": "alignment", "setting": setting, "claims": rows, "curation": curation}
    return Paper.model_validate_json(json.dumps(fields))


HARM = ("C1", "harmful_score", "smaller", 5.0, ("attack_success_rate", 80.0, 40.0, "percent"), "headline")
KEPT = ("C1b", "fine_tune_accuracy", "larger", -3.0, ("fine_tune_accuracy", 90.0, 90.0, "percent"), "headline")


def cells(**arms):
    records = [
        run(harmful=marks, accuracy="1" * len(marks), paper=name, seed=seed)
        for name, strings in arms.items()
        for seed, marks in enumerate(strings)
    ]
    return measured.cells(records)


RUNS = cells(sft=["11110", "11101", "11011"], guard=["11000", "10001", "01010"])


def test_claims_of_papers_meet_the_records():
    harm, kept = claims.tried([paper(HARM, KEPT)], RUNS, [])
    assert harm.joint == kept.joint == "C1"
    assert harm.claimed.reported == pytest.approx(-0.40)
    assert harm.claimed.baseline_measured == pytest.approx(12 / 15)
    assert harm.claimed.spare is None
    assert harm.found.value == pytest.approx(-6 / 15)
    assert kept.claimed.spare == pytest.approx(0.03), "the margin that the claim declares, not m_fa"
    assert (harm.testbed, harm.setting) == ("micro", "graded, 10% harmful, sentiment")
    assert (harm.direction.at_most, kept.direction.at_least) == (pytest.approx(-0.05), pytest.approx(-0.03))


def test_what_cannot_be_compared_keeps_its_direction_test():
    mean = (*HARM[:4], ("harmfulness", 0.47, 0.08, "score"), "headline")
    silent = ("C2", "harmful_score", "smaller", 5.0, None, "control")
    unmeasured = ("C3", "over_refusal", "smaller", 5.0, None, "headline")
    first, second, third = claims.tried([paper(mean, silent, unmeasured)], RUNS, [])
    assert first.claimed is None
    assert "another scale" in first.unjudged
    assert (second.unjudged, second.primary, second.direction.value) == (
        "no reported number",
        False,
        pytest.approx(-0.4),
    )
    assert (third.unjudged, third.direction) == ("not run", None)


def test_only_harm_with_kept_accuracy_is_a_joint_claim():
    more = ("C1b", "fine_tune_accuracy", "larger", 3.0, KEPT[4], "headline")
    other = ("C2", *KEPT[1:])
    for given in ((HARM, more), (HARM, other), (HARM,)):
        assert {one.joint for one in claims.tried([paper(*given)], RUNS, [])} == {None}


def test_settings_that_read_alike_are_told_apart():
    again = [run(harmful=marks, paper=name, protocol="micro-8") for name, marks in (("sft", "11"), ("guard", "10"))]
    both = [record for cell in RUNS for record in cell.runs] + again
    found = claims.tried([paper(HARM)], measured.cells(both), [])
    assert len({one.setting for one in found}) == 2
    assert any("protocol micro-8" in one.setting for one in found)
