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


def test_records_of_combinations_are_of_known_papers(hft: Any, add_record: Any) -> None:
    add_record("shield+breaker")
    assert problems(hft) == []
    assert hft("build").exit_code == 0
    add_record("shield+sheild")
    (found,) = problems(hft)
    assert (found["code"], found["where"]) == ("record-without-entry", "reproduce/results/micro/shield+sheild")
    assert "'sheild'" in found["message"]


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
    assert found["code"] == "record-broken"
    assert "not valid JSON" in found["message"]
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
    monkeypatch.setattr(readme, "drift", lambda root: ["README.md: region papers is stale; run `hft readme`"])
    (found,) = problems(hft)
    assert (found["code"], found["where"], found["fix"]) == (
        "readme-drift",
        "README.md:1",
        "run `hft readme`",
    )


def test_a_missing_readme_is_told(project: Path, hft: Any) -> None:
    (project / "README.md").unlink()
    (found,) = problems(hft)
    assert (found["code"], found["message"]) == ("readme-drift", "there is no README.md")


@pytest.mark.parametrize(
    "change", [{}, {"spec": "x"}, {"status": ["ok"]}, {"digests": []}, {"metrics": {"harmful": {}}}]
)
@pytest.mark.parametrize("command", ["check", "build", "list"])
def test_a_record_of_the_wrong_shape_is_named_and_never_a_traceback(
    hft: Any, add_record: Any, change: dict[str, Any], command: str
) -> None:
    path = add_record("shield")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change} if change else {}))
    done = hft(command)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert path.name in done.stderr


@pytest.mark.parametrize("command", ["build", "list", "readme"])
def test_an_edited_record_is_shown_nowhere(hft: Any, add_record: Any, command: str) -> None:
    path = add_record("shield")
    path.write_text(path.read_text().replace('"k": 1', '"k": 0'))
    done = hft(command)
    assert done.exit_code == 1
    assert path.name in done.stderr


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"schema: 1\npapers:\n  - date: 2024-02-31\n", 3),
        (b"schema: 1\ntags: {a: \xff}\n", 2),
        (b"schema: 1\n\x00\n", 2),
    ],
)
def test_a_file_that_is_no_yaml_is_refused_with_the_line(project: Path, hft: Any, content: bytes, line: int) -> None:
    (project / "papers.yaml").write_bytes(content)
    done = hft("check")
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert f"papers.yaml:{line}:" in done.stderr


def test_places_that_cannot_be_written_are_named(project: Path, hft: Any) -> None:
    (project / "build").write_text("a file where the folder should be")
    for words in (["build"], ["list"], ["export", "bibtex", "-o", str(project / "build" / "x.bib")]):
        done = hft(*words)
        assert done.exit_code == 1
        assert isinstance(done.exception, SystemExit)
        assert "check the path" in done.stderr


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
