"""Modules, records, schema and README must agree with papers.yaml."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from catalog import canonical, papers, readme, schema
from reproduce import find

BREAKER = "p2310_12345_breaker"
SOURCE = "class Breaker:\n    paper = 'breaker'\n    version: int = 2\n"


def name_module(edit: Any, name: str = BREAKER) -> None:
    edit(
        "    curation: {added: 2026-11-20, source: invented, checked: 2026-11-20}\n\n",
        f"    reproduction:\n      module: {name}\n"
        "    curation: {added: 2026-11-20, source: invented, checked: 2026-11-20}\n\n",
    )


def problems(hft: Any) -> list[dict[str, str]]:
    result = hft("check", "--json")
    found: list[dict[str, str]] = json.loads(result.stdout)
    assert result.exit_code == (1 if found else 0)
    return found


def test_module_and_entry_that_name_each_other_are_fine(hft: Any, edit: Any, add_module: Any) -> None:
    name_module(edit)
    add_module(BREAKER, SOURCE)
    assert problems(hft) == []


def test_a_module_without_entry(hft: Any, add_module: Any) -> None:
    add_module(BREAKER, SOURCE)
    (found,) = problems(hft)
    assert (found["code"], found["where"]) == ("module-without-entry", f"reproduce/papers/{BREAKER}.py:1")
    assert "arXiv 2310.12345" in found["fix"]


def test_a_module_of_another_paper(hft: Any, edit: Any, add_module: Any) -> None:
    name_module(edit, "p2402_01010_shield")
    add_module("p2402_01010_shield", SOURCE)
    (found,) = problems(hft)
    assert (found["code"], found["paper"], found["where"]) == ("module-mismatch", "breaker", "papers.yaml:22")


def test_a_module_file_without_an_id(hft: Any, add_module: Any) -> None:
    add_module("breaker", SOURCE)
    (found,) = problems(hft)
    assert found["code"] == "unreadable"
    assert found["where"].endswith("breaker.py")


def test_a_changed_module_needs_a_higher_version(hft: Any, edit: Any, add_module: Any, add_record: Any) -> None:
    name_module(edit)
    path = add_module(BREAKER, SOURCE)
    add_record("breaker", version=2, digests={"source": find.source_digest(path)})
    assert problems(hft) == []

    add_module(BREAKER, SOURCE + "    rho: float = 3.0\n")
    (found,) = problems(hft)
    assert (found["code"], found["paper"]) == ("version-not-bumped", "breaker")
    assert "version = 3" in found["fix"]

    add_module(BREAKER, SOURCE.replace("2", "3") + "    rho: float = 3.0\n")
    assert problems(hft) == []


def test_a_comment_in_a_module_changes_nothing(hft: Any, edit: Any, add_module: Any, add_record: Any) -> None:
    name_module(edit)
    path = add_module(BREAKER, SOURCE)
    add_record("breaker", version=2, digests={"source": find.source_digest(path)})
    add_module(BREAKER, f"# a remark\n{SOURCE}")
    assert problems(hft) == []


def test_records_of_an_unknown_paper(project: Path, hft: Any, add_record: Any) -> None:
    add_record("sheild")
    (found,) = problems(hft)
    assert (found["code"], found["where"]) == ("record-without-entry", "reproduce/results/micro/sheild")
    assert "'shield'" in found["fix"]
    built = hft("build")
    assert built.exit_code == 1
    assert "unknown paper 'sheild'" in built.stderr
    assert not (project / "build" / "hft.sqlite").exists()


def test_records_of_baselines_are_fine(hft: Any, add_record: Any) -> None:
    add_record("sft")
    add_record("non-aligned")
    assert problems(hft) == []


def test_an_edited_record(hft: Any, add_record: Any) -> None:
    path = add_record("shield")
    path.write_text(path.read_text().replace('"k": 1', '"k": 0'))
    (found,) = problems(hft)
    assert (found["code"], found["paper"]) == ("record-broken", "shield")
    assert found["where"] == f"reproduce/results/micro/shield/{path.name}"
    assert "git checkout" in found["fix"]


def test_a_record_that_is_no_json(hft: Any, add_record: Any) -> None:
    path = add_record("shield")
    path.write_text("{")
    (found,) = problems(hft)
    assert found["code"] == "unreadable"
    assert path.name in found["where"]
    assert hft("list").exit_code == 1


def test_schema_drift_is_told_and_mended_by_fmt(hft: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "papers.schema.json"
    monkeypatch.setattr(schema, "SCHEMA_FILE", file)
    (found,) = problems(hft)
    assert (found["code"], found["fix"]) == ("schema-drift", "run `hft fmt`")
    assert json.loads(hft("fmt", "--json").stdout) == {"changed": ["papers.schema.json"]}
    assert problems(hft) == []
    assert json.loads(file.read_text())["properties"]["papers"]["items"] == {"$ref": "#/$defs/Paper"}


def test_the_json_schema_judges_as_the_models_do(project: Path) -> None:
    validator = Draft202012Validator(json.loads(schema.json_schema()))
    data = json.loads(json.dumps(papers.plain(papers.read(project / "papers.yaml").data), default=str))
    assert list(validator.iter_errors(data)) == []
    data["papers"][1]["stage"] = "aligment"
    data["papers"][0]["ids"]["arxiv"] = 2310.12345
    data["papers"][0]["colour"] = "red"
    assert {tuple(error.absolute_path) for error in validator.iter_errors(data)} == {
        ("papers", 0),
        ("papers", 0, "ids", "arxiv"),
        ("papers", 1, "stage"),
    }


def test_readme_drift(project: Path, hft: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "README.md").write_text("old")
    monkeypatch.setattr(readme, "drift", lambda root: [f"region papers of {root.name} is stale"])
    (found,) = problems(hft)
    assert (found["code"], found["where"], found["fix"]) == (
        "readme-drift",
        "README.md:1",
        "run `hft readme`",
    )


def test_fmt_writes_the_canonical_form_once(project: Path, hft: Any, edit: Any) -> None:
    path = project / "papers.yaml"
    good = path.read_text(encoding="utf-8")
    edit("tags: [few-shot]", "tags: [ few-shot ]")
    bad = path.read_text(encoding="utf-8")

    assert hft("fmt", "--check").exit_code == 1
    assert path.read_text(encoding="utf-8") == bad
    assert hft("fmt").exit_code == 0
    assert path.read_text(encoding="utf-8") == good
    assert hft("fmt", "--check").exit_code == 0
    assert good.startswith(canonical.SCHEMA_LINE)


def test_fmt_refuses_an_unquoted_id(project: Path, hft: Any, edit: Any) -> None:
    edit('"2310.12345"', "2310.12340")
    before = (project / "papers.yaml").read_bytes()
    result = hft("fmt")
    assert result.exit_code == 1
    assert "breaker: arxiv id 2310.1234 is not quoted" in result.stderr
    assert (project / "papers.yaml").read_bytes() == before
