"""excluded.yaml: what `hft check` finds wrong in it, and what reaches the database."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from catalog import excluded

SCOPE = "| rule | leaves out |\n|---|---|\n| `prompt-only` | Attacks that change no weights |\n"
GOOD = """\
schema: 1
excluded:
  - title: "Talking a Gardener into Weeds"
    ids: {arxiv: "2307.00001", openreview: "QqQqQqQq11"}
    date: 2023-07
    decision: out
    rule: prompt-only
    why: "Only words change"
    decided: 2026-11-20

  - title: "Watering Cans: A Survey"
    ids: {doi: "10.1234/cans"}
    date: 2024-01-31
    decision: out
    rule: prompt-only
    decided: 2026-11-20
"""

RULE = "rule: prompt-only\n    why"
DECISION = "    decision: out\n    rule: prompt-only\n    why"

# old text, new text, code, line, part of the message, part of the fix
BAD: dict[str, tuple[str, str, str, int, str, str]] = {
    "unknown rule": (RULE, RULE.replace("prompt", "promt"), "unknown-rule", 3, "promt", "'prompt-only'"),
    "no id": ('{doi: "10.1234/cans"}', "{doi: null}", "excluded-without-id", 11, "no id", "arXiv"),
    "decided later": ("decided: 2026-11-20\n\n", "decided: 2999-01-01\n\n", "date-in-future", 3, "future", "decided"),
    "date after the id": ("date: 2023-07", "date: 2023-08", "date-after-arxiv", 3, "2023-08", "arXiv id"),
    "date is no month": ("date: 2023-07", "date: 2023-13", "schema", 3, "date", "excluded.schema.json"),
    "no decision": (DECISION, DECISION.replace("    decision: out\n", ""), "schema", 3, "decision", ""),
    "unknown key": ("    why:", "    because:", "schema", 3, "because", "excluded.schema.json"),
    "unquoted id": ('"2307.00001"', "2307.00001", "schema", 3, "ids.arxiv", ""),
    "broken": ("excluded:", "excluded: [", "yaml", 0, "broken YAML", ""),
    "no list": ("excluded:", "dropped:", "schema", 1, "excluded", "excluded:"),
    "twice": ('{doi: "10.1234/cans"}', '{openreview: "QqQqQqQq11"}', "duplicate", 11, "line 3", "one of the two"),
    "twice by title": (
        "Watering Cans: A Survey",
        "Talking a gardener into weed",
        "duplicate",
        11,
        "line 3",
        "one of the two",
    ),
    "in by id": ('"10.1234/cans"', '"10.1234/shield.5"', "both-in-and-out", 11, "'shield'", "remove"),
    "in by title": (
        "Watering Cans: A Survey",
        "Shield - robust gardening for LLMs",
        "both-in-and-out",
        11,
        "'shield'",
        "",
    ),
}


@pytest.fixture
def listed(project: Path) -> Path:
    (project / excluded.SCOPE).write_text(SCOPE, encoding="utf-8")
    (project / excluded.FILE).write_text(GOOD, encoding="utf-8")
    return project / excluded.FILE


def test_a_sound_list_has_no_problem_and_reaches_the_database(hft: Any, listed: Path) -> None:
    assert json.loads(hft("check", "--json").stdout) == []
    assert hft("build").exit_code == 0
    with sqlite3.connect(listed.parent / "build/hft.sqlite") as connection:
        rows = connection.execute("SELECT title, date, arxiv, doi, rule, why FROM excluded ORDER BY id").fetchall()
    assert rows == [
        ("Talking a Gardener into Weeds", "2023-07", "2307.00001", None, "prompt-only", "Only words change"),
        ("Watering Cans: A Survey", "2024-01-31", None, "10.1234/cans", "prompt-only", None),
    ]


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_told_with_line_and_fix_and_nothing_is_built(hft: Any, listed: Path, name: str) -> None:
    old, new, code, line, message, fix = BAD[name]
    assert GOOD.count(old) == 1
    listed.write_text(GOOD.replace(old, new), encoding="utf-8")
    result = hft("check", "--json")
    (problem,) = json.loads(result.stdout)
    assert result.exit_code == 1
    assert problem["code"] == code
    assert problem["where"].startswith(f"excluded.yaml:{line or ''}")
    assert message in problem["message"]
    assert fix in problem["fix"]
    assert hft("build").exit_code == 1
    assert not (listed.parent / "build/hft.sqlite").exists()


def test_a_changed_list_makes_the_database_stale(hft: Any, listed: Path) -> None:
    hft("list")
    listed.write_text(GOOD.replace("Only words change", "No weights change"), encoding="utf-8")
    hft("list")
    with sqlite3.connect(listed.parent / "build/hft.sqlite") as connection:
        assert connection.execute("SELECT why FROM excluded WHERE why IS NOT NULL").fetchall() == [
            ("No weights change",)
        ]


def test_information_is_apart_from_problems(hft: Any, listed: Path, edit: Any) -> None:
    edit("authors: [Zoë Müller, Łukasz Żak]", "authors: []")
    result = hft("check", "--info", "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["problems"]) == (0, [])
    assert {"no-authors", "no-venue", "no-code"} <= {fact["code"] for fact in document["information"]}
    assert "breaker: no authors" in hft("check", "--info").stdout
    assert "no authors" not in hft("check").stdout
