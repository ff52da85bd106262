"""The program: one JSON document on stdout, exit codes, help that answers at once and never loads torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from catalog.cli import app


@pytest.mark.parametrize(
    "arguments", [["list"], ["show", "shield"], ["search", "turnips"], ["check"], ["fmt"], ["build"]]
)
def test_json_is_one_document_and_all_of_stdout(hft: Any, arguments: list[str]) -> None:
    result = hft(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    json.loads(result.stdout)
    human = hft(*arguments)
    assert human.exit_code == 0
    with pytest.raises(json.JSONDecodeError):
        json.loads(human.stdout)


def test_list_filters_and_shows_status(hft: Any) -> None:
    rows = json.loads(hft("list", "--type", "defense", "--json").stdout)
    assert [(row["id"], row["status"], row["authors"]) for row in rows] == [
        ("shield", "not reproduced yet", ["Ann Bell", "Zoë Müller"])
    ]
    assert "shield" in hft("list").stdout


def test_show_gives_facts_addresses_and_runs(hft: Any, add_record: Any) -> None:
    add_record("shield")
    facts = json.loads(hft("show", "https://arxiv.org/abs/2402.01010v2", "--json").stdout)
    assert facts["links"] == {
        "arxiv": "https://arxiv.org/abs/2402.01010",
        "openreview": "https://openreview.net/forum?id=AbCdEfGh12",
        "doi": "https://doi.org/10.1234/shield.5",
        "code": "https://github.com/gardeners/shield",
    }
    assert facts["runs"] == {"micro": {"ok": 1}}
    assert facts["date"] == "2024-02-29"
    assert "Fewer weeds than without it" in hft("show", "shield").stdout


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["show", "sheild"], "did you mean shield"),
        (["list", "--tag", "few-shots"], "'few-shot'"),
        (["list", "--stage", "aligment"], "'alignment'"),
        (["list", "--type", "atack"], "'attack'"),
        (["nonsense"], "nonsense"),
    ],
)
def test_wrong_usage_is_exit_code_2_with_a_hint(hft: Any, arguments: list[str], hint: str) -> None:
    result = hft(*arguments)
    assert result.exit_code == 2
    assert hint in result.stderr
    assert result.stdout == ""


def test_build_writes_where_it_is_told(project: Path, hft: Any) -> None:
    told = json.loads(hft("build", "--db", str(project / "there.sqlite"), "--json").stdout)
    assert told["rows"]["paper"] == 2
    assert (project / "there.sqlite").is_file()
    assert not (project / "build").exists()


@pytest.mark.parametrize(
    ("form", "mark"),
    [
        ("bibtex", "@inproceedings{bell2024shield,"),
        ("csv", "ids.arxiv"),
        ("json", "NeurIPS"),
        ("ris", "TY  - "),
        ("records", ""),
        ("dictionary", "claims"),
    ],
)
def test_export(project: Path, hft: Any, form: str, mark: str) -> None:
    result = hft("export", form, "-o", str(project / "new" / "x"))
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    assert mark in (project / "new" / "x").read_text(encoding="utf-8")


@pytest.mark.parametrize("form", ["bibtex", "csv", "json", "ris", "dictionary"])
def test_export_to_standard_output_gives_the_bytes_of_the_file(project: Path, hft: Any, form: str) -> None:
    hft("export", form, "-o", "x")
    result = hft("export", form, "-o", "-")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout_bytes == (project / "x").read_bytes()
    assert not (project / "-").exists()


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("meta verdict", "[ID]..."),
        ("meta agreement", "[ID]..."),
        ("sync", "[ID]..."),
        ("run", "[ID]..."),
        ("triage", "[list | ID]..."),
        ("results", "[ID|verify]"),
    ],
)
def test_usage_names_arguments_once(hft: Any, command: str, usage: str) -> None:
    line = hft(*command.split(), "--help").stdout.splitlines()[0]
    assert line == f"Usage: root {command} [OPTIONS] {usage}"


def test_the_root_is_found_from_below(project: Path, hft: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    below = project / "reproduce" / "deep"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert len(json.loads(hft("list", "--json").stdout)) == 2


def test_the_real_catalogue_has_at_least_26_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    assert len(json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)) >= 26


def test_help_loads_nothing_heavy_and_reading_never_torch() -> None:
    modules = "import sys; print(*sys.modules, file=sys.stderr)"
    run = "from typer.testing import CliRunner; from catalog.cli import app; CliRunner().invoke(app, {})"
    heavy = {"torch", "pandas", "sqlalchemy", "ruamel.yaml", "transformers", "numpy"}
    pool = ["meta", "pool", "--method", "vaccine", "--json"]
    for arguments, unwanted in (
        (["--help"], heavy | {"pydantic"}),
        (["list"], {"torch", "transformers"}),
        (pool, {"torch", "transformers", "pandas", "scipy.stats", "altair"}),
    ):
        code = f"{run.format(arguments)}; {modules}"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
        )
        assert not unwanted & set(done.stderr.split())
