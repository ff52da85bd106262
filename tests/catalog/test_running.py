"""`hft run` and `hft results` as a user types them: names, bad input, edited records."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from catalog import running
from catalog.cli import app
from reproduce import record

ROOT = Path(__file__).parents[2]


def hft(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def planned(*words: str) -> list[dict[str, Any]]:
    done = hft("run", *words, "--dry-run", "--json", "--seeds", "1", "--ratios", "0.1", "--main")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["vaccine", "Vaccine", "arXiv:2402.01109v6", "https://arxiv.org/pdf/2402.01109v1.pdf"])
def test_a_paper_runs_under_all_its_names(name: str) -> None:
    assert planned(name) == planned("2402.01109")


def test_a_dry_run_names_the_committed_records() -> None:
    assert {Path(job["path"]).parent.name for job in planned("vaccine")} == {"sft", "vaccine"}
    assert all(job["done"] for job in planned("vaccine"))


def test_all_is_the_default_grid_and_arms_go_on_request() -> None:
    def labels(*words: str) -> set[str]:
        done = hft("run", *words, "--dry-run", "--json", "--seeds", "1", "--ratios", "0.1")
        return {job["label"] for job in json.loads(done.stdout)}

    grid = labels("--all", "--type", "defense")
    assert grid == labels("--all", "--type", "defense", "--main")
    assert labels("lisa") <= labels("--all", "--type", "defense", "--arms")
    assert grid & labels("lisa") == labels("lisa", "--main")  # a paper by its id comes with all its arms
    assert labels("qi-finetuning-compromises") <= labels("--all", "--type", "attack")


@pytest.mark.parametrize(("seeds", "chosen"), [("2", {0, 1}), ("2,", {2}), ("0,3", {0, 3})])
def test_seeds_are_counted_or_named(seeds: str, chosen: set[int]) -> None:
    done = hft("run", "vaccine", "--dry-run", "--json", "--seeds", seeds, "--ratios", "0.1", "--main")
    assert {int(job["label"].rsplit(" ", 1)[1]) for job in json.loads(done.stdout)} == chosen


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["vacine"], "did you mean vaccine"),
        (["badllama"], "badllama: no module yet; reproduced are"),
        ([], "name at least one paper"),
        (["vaccine", "--set", "roh=5"], "no field roh; fields are rho"),
        (["vaccine", "--set", "rho"], "write NAME=VALUE"),
        (["vaccine", "--attack", "strng"], "did you mean 'strong'"),
        (["vaccine", "--mode", "double_lora"], "did you mean 'double-lora'"),
        (["vaccine", "--ratios", "0,2"], "give numbers from 0 to 1"),
        (["vaccine", "--seeds", "none"], "give how many (5) or which (0,3; a single one with a comma: 3,)"),
        (["vaccine", "--testbed", "huge"], "there are micro and hub:PATH"),
        (["vaccine", "--testbed", "hub:/nowhere"], "no config.json there"),
        (["vaccine", "--split", "train"], "--split train"),
        (["vaccine", "--attack", "lisa"], "lisa is a defense, not an attack"),
        (["vaccine", "--attack", "qi-finetuning-compromises:none"], "arms of this attack are explicit"),
        (["vaccine", "--sweep", "--set", "rho=5"], "--sweep and --set both choose values"),
        (["vaccine+vaccine"], "both need aligner"),
        (["vaccine+nothing"], "nothing"),
        (["vaccine", "--stage", "alignment"], "--stage alignment: goes with --all"),
        (["vaccine", "--arms"], "--arms: goes with --all"),
        (["--all", "--arms", "--main"], "give --arms or --main, not both"),
        (["--all", "--stage", "aligment"], "did you mean 'alignment'"),
        (["--all", "--type", "defence"], "did you mean 'defense'"),
    ],
)
def test_bad_input_is_refused_with_a_fix_and_nothing_runs(words: list[str], says: str, tmp_path: Path) -> None:
    done = hft("run", *words, "--results", str(tmp_path))
    assert done.exit_code == 2, done.output
    assert says in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_results_verify_names_an_edited_record(tmp_path: Path) -> None:
    original = next(p for p in record.paths() if p.parent.name == "sft")
    copy = tmp_path / "micro" / "sft" / original.name
    copy.parent.mkdir(parents=True)
    shutil.copy(original, copy)
    assert hft("results", "verify", "--results", str(tmp_path)).exit_code == 0
    edited = json.loads(copy.read_text())
    edited["spec"]["seed"] = 7
    copy.write_text(json.dumps(edited))
    done = hft("results", "verify", "--results", str(tmp_path), "--json")
    assert done.exit_code == 1
    (problem,) = json.loads(done.stdout)
    assert problem["path"] == str(copy)


def test_results_are_json_with_intervals_for_every_cell() -> None:
    rows = json.loads(hft("results", "vaccine", "--json").stdout)
    methods = {row["method"] for row in rows}
    assert methods >= {"sft", "non-aligned", "vaccine"}
    assert all("vaccine" in method.split("+") for method in methods - {"sft", "non-aligned"})
    assert all(
        row["harmful_low"] <= row["harmful"] <= row["harmful_high"] for row in rows if row["harmful"] is not None
    )


def test_results_of_a_paper_without_records_say_what_to_do(tmp_path: Path) -> None:
    unmade = hft("results", "vaccine", "--results", str(tmp_path))
    assert (unmade.exit_code, unmade.stdout) == (1, "")
    assert f"vaccine: no records in {tmp_path}; hft run vaccine makes them" in unmade.stderr
    unknown = hft("results", "badllama")
    assert unknown.exit_code == 2
    assert "badllama: no module yet" in unknown.stderr


def test_results_of_a_study_are_its_findings() -> None:
    shown = hft("results", "safety-landscape")
    assert shown.exit_code == 0
    assert "visage_1d" in shown.stdout
    assert "worst HS" not in shown.stdout  # no table without a line
    rows = json.loads(hft("results", "safety-landscape", "--json").stdout)
    (peak,) = [row for row in rows if row.get("finding") == "fluent_success_peak"]
    values = [
        one["findings"]["fluent_success_peak"]["value"]
        for one in record.read()
        if one["spec"]["paper"] == "safety-landscape" and one["spec"]["version"] == 2
    ]
    assert peak["estimate"]["value"] == pytest.approx(sum(values) / len(values))
    assert peak["estimate"]["seeds"] == len(values)


def test_fresh_records_are_compared_with_the_committed_ones() -> None:
    runs = [r for r in record.read() if r["spec"]["paper"] == "sft" and r["status"] == "ok"][:2]
    changed = {**runs[0], "metrics": {**runs[0]["metrics"], "harmful": {"n": 10, "k": 0, "outcomes": "0" * 10}}}
    gap = 100 * runs[0]["metrics"]["harmful"]["k"] / runs[0]["metrics"]["harmful"]["n"]
    studies = [r for r in record.read() if r["spec"]["kind"] == "study" and r["status"] == "ok"][:2]
    other = {**studies[0], "findings": {**studies[0]["findings"], next(iter(studies[0]["findings"])): {"value": -1.0}}}
    line = running.compared([changed, runs[1], other, studies[1]], Path("elsewhere"))
    assert "2 of 4 runs and studies have exactly the outcomes" in line
    assert f"{gap:.1f} points" in line
