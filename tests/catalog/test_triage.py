"""`hft triage`: each decision is one entry more in one file, and one candidate less in the queue."""

import datetime
import difflib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from catalog import excluded, excluding, pending
from catalog.excluded import Excluded
from catalog.pending import Pending, Queue
from catalog.problems import RefusedError
from catalog.schema import Ids

HOME = Path(__file__).parents[2]
FIRST, SECOND = "2611.00001", "2611.00002"


def candidate(title: str, **given: Any) -> Pending:
    return Pending(
        title=title,
        authors=["Ida Holm", "Li Wei"],
        published=datetime.date(2026, 11, 5),
        categories=["cs.LG"],
        score=0.5,
        found_by=["titles"],
        found=datetime.date(2026, 11, 20),
        **given,
    )


@pytest.fixture
def atlas(project: Path) -> Path:
    """The real catalogue with two pending candidates."""
    for name in ("papers.yaml", excluded.FILE, excluded.SCOPE):
        (project / name).write_bytes((HOME / name).read_bytes())
    papers = {
        FIRST: candidate("Sheds: Under Malicious Tuning", type="defense", stage="alignment", comment="ICLR 2026"),
        SECOND: candidate('Prompts "and" \\Weeds: Größe', type="attack"),
    }
    (project / "catalog").mkdir()
    (project / pending.FILE).write_text(Queue(papers=papers).text(), encoding="utf-8")
    return project


def grown(before: bytes, after: bytes) -> list[str]:
    """The lines of the one block that was put in; nothing else may differ."""
    old, new = before.decode().splitlines(), after.decode().splitlines()
    changes = [op for op in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if op[0] != "equal"]
    ((kind, _, _, start, end),) = changes
    assert kind == "insert"
    return new[start:end]


def pending_ids(root: Path) -> list[str]:
    return list(json.loads((root / pending.FILE).read_text(encoding="utf-8"))["papers"])


def test_accepting_adds_one_entry_and_marks_what_was_predicted(atlas: Path, hft: Any) -> None:
    before, out = (atlas / "papers.yaml").read_bytes(), (atlas / excluded.FILE).read_bytes()
    result = hft("triage", FIRST, "--accept", "--json")
    assert result.exit_code == 0, result.stderr
    (told,) = json.loads(result.stdout)
    assert (told["added"], told["unsure"]) == ("sheds", ["type", "stage"])
    block = [line.strip() for line in grown(before, (atlas / "papers.yaml").read_bytes()) if line.strip()]
    assert block[:3] == ["- id: sheds", 'title: "Sheds: Under Malicious Tuning"', "nickname: Sheds"]
    assert {"type: defense", "stage: alignment", "unsure: [type, stage]"} <= set(block)
    assert any("hft discover" in line for line in block)
    assert pending_ids(atlas) == [SECOND]
    assert (atlas / excluded.FILE).read_bytes() == out


def test_what_a_person_says_is_no_guess(atlas: Path, hft: Any) -> None:
    assert hft("triage", f"https://arxiv.org/abs/{FIRST}v2", "--accept", "--type", "attack").exit_code == 0
    added = (atlas / "papers.yaml").read_text(encoding="utf-8").partition("- id: sheds")[2].partition("- id:")[0]
    assert "type: attack" in added
    assert "unsure" not in added
    assert "stage" not in added


def test_rejecting_adds_one_line_of_precedent(atlas: Path, hft: Any) -> None:
    before, papers = (atlas / excluded.FILE).read_bytes(), (atlas / "papers.yaml").read_bytes()
    result = hft("triage", SECOND, "--reject", "--rule", "prompt-only", "--why", "Only words: change")
    assert result.exit_code == 0, result.stderr
    block = [line for line in grown(before, (atlas / excluded.FILE).read_bytes()) if line]
    assert block[1:] == [
        f'    ids: {{arxiv: "{SECOND}"}}',
        "    date: 2026-11-05",
        "    decision: out",
        "    rule: prompt-only",
        '    why: "Only words: change"',
        f"    decided: {datetime.date.today()}",
    ]
    kept = excluded.read(atlas)
    assert [each.title for each in kept if each.ids.arxiv == SECOND] == ['Prompts "and" \\Weeds: Größe']
    assert pending_ids(atlas) == [FIRST]
    assert (atlas / "papers.yaml").read_bytes() == papers


def test_the_list_shows_the_most_relevant_first(atlas: Path, hft: Any) -> None:
    queue = pending.load(atlas)
    first = queue.papers[FIRST].model_copy(update={"score": 0.9})
    (atlas / pending.FILE).write_text(Queue(papers=queue.papers | {FIRST: first}).text(), encoding="utf-8")
    listed = json.loads(hft("triage", "list", "--json").stdout)
    assert [each["arxiv"] for each in listed] == [FIRST, SECOND]
    assert "2 pending" in hft("triage").stdout


@pytest.mark.parametrize(
    ("options", "code", "hint"),
    [
        ([FIRST], 2, "--accept or --reject"),
        ([FIRST, "--accept", "--reject"], 2, "--accept or --reject"),
        (["--accept"], 2, "say which"),
        ([FIRST, "--reject"], 2, "--rule"),
        ([FIRST, "--accept", "--rule", "privacy"], 2, "--rule"),
        ([FIRST, "--reject", "--rule", "privcy"], 1, "'privacy'"),
        ([FIRST, "--reject", "--rule", "privacy", "--type", "attack"], 2, "--accept"),
        ([FIRST, "--accept", "--type", "attack", "--stage", "alignment"], 2, "for defenses"),
        (["2611.00009", "--accept"], 2, "not pending"),
        (["sheds", "--accept"], 2, "no arXiv id"),
    ],
)
def test_what_cannot_be_decided_changes_nothing(
    atlas: Path, hft: Any, options: list[str], code: int, hint: str
) -> None:
    before = {path: path.read_bytes() for path in atlas.rglob("*") if path.is_file()}
    result = hft("triage", *options)
    assert result.exit_code == code, result.output
    assert hint in result.stderr
    assert {path: path.read_bytes() for path in atlas.rglob("*") if path.is_file()} == before


def test_broken_off_between_the_files_it_can_be_said_again(
    atlas: Path, hft: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = (atlas / pending.FILE).read_bytes()
    for options in (["--accept"], ["--reject", "--rule", "privacy"]):
        name = FIRST if "--accept" in options else SECOND
        assert hft("triage", name, *options).exit_code == 0
        (atlas / pending.FILE).write_bytes(queue)  # as if killed before it was written
        state = (atlas / "papers.yaml").read_bytes(), (atlas / excluded.FILE).read_bytes()
        assert hft("triage", name, *options).exit_code == 0
        assert ((atlas / "papers.yaml").read_bytes(), (atlas / excluded.FILE).read_bytes()) == state
        assert name not in pending_ids(atlas)


def test_a_full_disk_leaves_all_files(atlas: Path, hft: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in atlas.rglob("*") if path.is_file()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device", "disk")

    monkeypatch.setattr(os, "fsync", full)
    assert hft("triage", SECOND, "--reject", "--rule", "privacy").exit_code == 1
    assert {path: path.read_bytes() for path in atlas.rglob("*") if path.is_file()} == before


OUT = Excluded(
    title="Weeds",
    ids=Ids(arxiv="2403.00001"),
    date=datetime.date(2024, 3, 2),
    decision="out",
    rule="privacy",
    decided=datetime.date(2026, 11, 23),
)


@pytest.mark.parametrize("text", ["schema: 1\nexcluded: []\n", "schema: 1\nexcluded:\n", excluding.HEAD])
def test_the_first_one_left_out(text: str) -> None:
    entries, problems = excluded.parsed(excluding.inserted(text, OUT))
    assert ([each for _, each in entries], problems) == ([OUT], [])


def test_it_stands_by_date_above_the_comment_of_the_next() -> None:
    facts = "    date: {}\n    decision: out\n    rule: privacy\n    decided: 2026-11-20\n"
    one = f'  - title: "{{}}"\n    ids: {{{{arxiv: "{{}}"}}}}\n{facts}'
    head, early = "schema: 1\nexcluded:\n", one.format("Early", "2401.00001", "2024-01")
    late = one.format("Late", "2405.00001", "2024-05-01")
    after = excluding.inserted(f"{head}{early}\n  # a remark on Late\n{late}", OUT)
    assert after.startswith(f'{head}{early}\n  - title: "Weeds"')
    assert after.endswith(f"\n\n  # a remark on Late\n{late}")
    with pytest.raises(RefusedError):
        excluding.inserted(f"{head}{early}other: 1\n", OUT)
