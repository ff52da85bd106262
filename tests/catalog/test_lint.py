"""Every rule of `hft check`: code, line, entry and fix of what it finds; exit code 1, nothing written."""

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from catalog import readme

DRIFT = readme.drift  # the fixture takes it out

TOMORROW = datetime.date.today() + datetime.timedelta(days=1)
CODE = "links: {code: https://github.com/gardeners/shield}"
TITLE = 'title: "A Handful of Turnips Breaks Any Gardener"'
TWIN = f"""\
  - id: twin
    {TITLE.replace("Breaks Any", "breaks any")}
    authors: [Zoë Müller]
    date: 2024-03-01
    ids: {{arxiv: null, openreview: "ZzZzZzZz99", doi: null, acl: null}}
    venue: {{name: TMLR, year: 2024, track: journal, status: accepted}}
    type: survey
    setting: {{access: service, harmful_data: explicit, adapts: full}}
    curation: {{added: 2026-11-20, source: invented, checked: 2026-11-20}}

  # the defense everyone compares with
"""

# old text, new text, code, entry, part of the message, part of the fix
BAD: dict[str, tuple[str, str, str, str, str, str]] = {
    "unquoted arXiv id": (
        'ids: {arxiv: "2310.12345"',
        "ids: {arxiv: 2310.12340",
        *("unquoted-id", "breaker", "2310.1234 is not quoted", 'arxiv: "'),
    ),
    "unquoted OpenReview id": (
        'openreview: "AbCdEfGh12"',
        "openreview: AbCdEfGh12",
        *("unquoted-id", "shield", "AbCdEfGh12", '"AbCdEfGh12"'),
    ),
    "id with version": (
        '"2310.12345"',
        '"2310.12345v2"',
        "malformed-id",
        "breaker",
        "no bare",
        '"2310.12345"',
    ),
    "id as address": (
        '"10.1234/shield.5"',
        '"https://doi.org/10.1234/shield.5"',
        *("malformed-id", "shield", "no bare doi", 'doi: "10.1234/shield.5"'),
    ),
    "unknown stage": (
        "stage: alignment",
        "stage: aligment",
        "unknown-stage",
        "shield",
        "'aligment'",
        "'alignment'",
    ),
    "unknown type": ("type: attack", "type: atack", "unknown-type", "breaker", "'atack'", "'attack'"),
    "unknown access": (
        "explicit, adapts: full",
        "explict, adapts: full",
        "unknown-value",
        "breaker",
        "explict",
        "'explicit'",
    ),
    "unknown tag": (
        "tags: [few-shot]",
        "tags: [few-shots]",
        "unknown-tag",
        "breaker",
        "'few-shots'",
        "'few-shot'",
    ),
    "tag twice": (
        "tags: [few-shot]",
        "tags: [few-shot, few-shot]",
        "repeated-tag",
        "breaker",
        "twice",
        "remove",
    ),
    "unknown key": (
        "    stage: alignment",
        "    stge: alignment",
        "unknown-key",
        "shield",
        "stge",
        "'stage'",
    ),
    "missing key": (f"    {TITLE}\n", "", "missing-key", "breaker", "title", "title"),
    "text for a number": (
        "baseline: 55.2",
        'baseline: "55.2"',
        "schema",
        "shield",
        "claims.0.reported.baseline",
        "schema",
    ),
    "text read backwards": (
        TITLE,
        'title: "\\u202eBackwards"',
        *("invisible", "breaker", "title holds the invisible character U+202E", "type the text anew"),
    ),
    "hidden mark in a claim": (
        "Fewer weeds than without it",
        "Fewer weeds\u200b than without it",
        *("invisible", "shield", "says holds the invisible character U+200B", "type the text anew"),
    ),
    "link with code in it": (
        "https://github.com/gardeners/shield",
        "https://github.com/gardeners/<b>`shield`",
        *("link-characters", "shield", "characters that no address has", "hexadecimal"),
    ),
    "stage on an attack": (
        "type: attack\n",
        "type: attack\n    stage: alignment\n",
        *("stage-on-non-defense", "breaker", "type attack", "remove"),
    ),
    "defense without stage": (
        "    stage: alignment\n",
        "",
        "stage-missing",
        "shield",
        "without stage",
        "stage:",
    ),
    "same slug": ("- id: shield", "- id: breaker", "duplicate", "breaker", "id breaker", "merge"),
    "same arXiv id": ('"2402.01010"', '"2310.12345"', "duplicate", "shield", "arxiv 2310.12345", "merge"),
    "twin title": (
        "  # the defense everyone compares with\n",
        TWIN,
        *("duplicate", "twin", "entry 'breaker'", "merge"),
    ),
    "baseline's slug": ("- id: breaker", "- id: sft", "reserved-id", "sft", "baseline", "another"),
    "date after arXiv month": (
        "date: 2023-10-05",
        "date: 2023-11-01",
        "date-after-arxiv",
        "breaker",
        "2310.12345",
        "day",
    ),
    "date long before arXiv": (
        "date: 2023-10-05",
        "date: 2023-08-31",
        "date-before-arxiv",
        "breaker",
        "2310.12345",
        "ids",
    ),
    "date in the future": (
        "checked: 2026-11-20}\n\n",
        f"checked: {TOMORROW}}}\n\n",
        "date-in-future",
        "breaker",
        "future",
        "day",
    ),
    "year in the venue": (
        "{name: NeurIPS, year",
        "{name: NeurIPS2024, year",
        "unknown-venue",
        "shield",
        "NeurIPS2024",
        "'NeurIPS'",
    ),
    "short venue": (
        "{name: NeurIPS, year",
        '{name: "Neurips\'24", year',
        "unknown-venue",
        "shield",
        "Neurips'24",
        "'NeurIPS'",
    ),
    "venue before date": (
        "year: 2024, track: main",
        "year: 2023, track: main",
        "venue-year",
        "shield",
        "2023",
        "correct",
    ),
    "accepted by arXiv": (
        "track: null, status: preprint",
        "track: null, status: accepted",
        "venue-status",
        "breaker",
        "arXiv",
        "preprint",
    ),
    "http": (
        "https://github.com",
        "http://github.com",
        "link-http",
        "shield",
        "http:",
        "https://github.com/gardeners/shield",
    ),
    "token": ("/shield}", "/shield?token=s3cret}", "link-token", "shield", "token", "revoke"),
    "tracker": ("/shield}", "/shield?utm_source=x}", "link-tracker", "shield", "tracker", "gardeners/shield"),
    "stray query": ("/shield}", "/shield?}", "link-query", "shield", "stray query", "gardeners/shield"),
    "link of an id": (
        CODE,
        "links: {project: https://arxiv.org/abs/2402.01010}",
        "link-built",
        "shield",
        "arxiv.org",
        "ids",
    ),
    "claim without source": (
        '        source: "section 4"\n',
        "",
        "claim-without-source",
        "shield",
        "claims.1",
        "source:",
    ),
    "claim twice": ("- id: C2", "- id: C1", "duplicate-claim", "shield", "C1 twice", "C2"),
    "number without setting": (
        "method: shield, setting: {ratio: 0.1}",
        "method: shield",
        *("reported-without-setting", "shield", "reported.0", "setting:"),
    ),
    "empty setting": (
        "method: shield, setting: {ratio: 0.1}",
        "method: shield, setting: {}",
        *("reported-without-setting", "shield", "reported.0", "setting:"),
    ),
    "two bounds": (
        "at_most: 0.8",
        "at_most: 0.8, at_least: 0.1",
        "schema",
        "shield",
        "exactly one",
        "schema",
    ),
    "module that does not exist": (
        "    tags: [few-shot]\n",
        "    tags: [few-shot]\n    reproduction: {module: p2310_12345_breaker}\n",
        *(
            "entry-without-module",
            "breaker",
            "p2310_12345_breaker",
            "reproduce/papers/p2310_12345_breaker.py",
        ),
    ),
    "loose format": ("tags: [few-shot]", "tags: [ few-shot ]", "format", "", "canonical", "hft fmt"),
}


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", BAD)
def test_each_fault_is_told_with_line_entry_and_fix(name: str, project: Path, hft: Any, edit: Any) -> None:
    old, new, code, paper, message, fix = BAD[name]
    line = edit(old, new)
    before = files(project)

    result = hft("check", "--json")

    assert result.exit_code == 1, result.output
    found = [problem for problem in json.loads(result.stdout) if problem["code"] == code]
    assert len(found) == 1, result.stdout
    assert found[0].keys() == {"code", "where", "paper", "message", "fix"}
    file, number = found[0]["where"].split(":")
    assert file == "papers.yaml"
    assert line - 12 <= int(number) <= line + 12
    assert found[0]["paper"] == paper
    assert message in found[0]["message"]
    assert fix in found[0]["fix"]
    assert files(project) == before

    shown = hft("check")
    assert shown.exit_code == 1
    assert f"{found[0]['where']}: " in shown.stderr
    assert fix in shown.stderr


def test_a_sound_catalogue_has_no_problem(hft: Any) -> None:
    result = hft("check", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])
    assert hft("check").exit_code == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("date: 2023-10-05", "date: 2023-09-30"),  # the last day of the month before
        ("date: 2024-02-29", "date: 2023-06-01"),  # posted on OpenReview first
    ],
)
def test_month_ends_and_earlier_postings_are_fine(hft: Any, edit: Any, old: str, new: str) -> None:
    edit(old, new)
    hft("fmt")
    assert json.loads(hft("check", "--json").stdout) == []


def test_same_title_years_apart_is_fine(hft: Any, edit: Any) -> None:
    edit("  # the defense everyone compares with\n", TWIN.replace("2024-03-01", "2024-12-01"))
    hft("fmt")
    assert json.loads(hft("check", "--json").stdout) == []


def test_an_expiring_code_link_is_a_warning(hft: Any, edit: Any) -> None:
    edit(CODE, "links: {code: https://anonymous.4open.science/r/shield-41C2}")
    result = hft("check")
    assert result.exit_code == 0
    assert "warning: papers.yaml:35: shield: code link to an anonymous host" in result.stderr
    assert json.loads(hft("check", "--json").stdout) == []


@pytest.mark.parametrize("command", [["check"], ["fmt"], ["build"], ["list"], ["show", "shield"], ["search", "garden"]])
@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("type: attack", "type: [attack", 19),
        ("type: attack", "title: again", 18),
        ("type: attack", "\ttype: x", 18),
    ],
)
def test_broken_yaml_stops_every_command(
    project: Path, hft: Any, edit: Any, command: list[str], old: str, new: str, line: int
) -> None:
    edit(old, new)
    before = files(project)
    result = hft(*command)
    assert result.exit_code == 1
    assert f"papers.yaml:{line}: broken YAML" in result.stderr
    assert "mend the syntax" in result.stderr
    assert result.stdout == ""
    assert files(project) == before


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("stage: alignment", "stage: aligment", "papers.yaml:32: shield: unknown stage 'aligment'"),
        ("papers:\n", "stray: 1\npapers:\n", "unknown key stray"),
    ],
)
def test_a_fault_that_keeps_the_readme_from_being_compared_is_told_once(
    project: Path, hft: Any, edit: Any, monkeypatch: pytest.MonkeyPatch, old: str, new: str, said: str
) -> None:
    monkeypatch.setattr(readme, "drift", DRIFT)
    edit(old, new)
    result = hft("check")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count(said) == 1


@pytest.mark.parametrize("command", [["build"], ["list", "--json"], ["show", "shield"], ["search", "garden"]])
def test_a_faulty_entry_is_never_built(project: Path, hft: Any, edit: Any, command: list[str]) -> None:
    edit("stage: alignment", "stage: aligment")
    before = files(project)
    result = hft(*command)
    assert result.exit_code == 1
    assert "papers.yaml:32: shield: unknown stage 'aligment'" in result.stderr
    assert "did you mean 'alignment'?" in result.stderr
    assert files(project) == before


@pytest.mark.parametrize("text", ["", "papers\n", "- a\n", "schema: 1\n", "papers:\n  - vaccine\n", "papers: {a: 1}\n"])
def test_what_is_no_catalogue_at_all(project: Path, hft: Any, text: str) -> None:
    (project / "papers.yaml").write_text(text)
    for command in ("check", "fmt", "list"):
        result = hft(command)
        assert result.exit_code == 1, result.output
        assert isinstance(result.exception, SystemExit)
        assert "papers.yaml:" in result.stderr


def test_a_file_that_is_gone_is_named_instead_of_a_traceback(
    project: Path, hft: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readme, "drift", DRIFT)
    result = hft("check")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert f"{project / 'pyproject.toml'}: No such file or directory" in result.stderr
