"""Adding or changing one entry changes the lines of that entry and no other byte of papers.yaml."""

import datetime
import difflib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from catalog import atomic, editing, papers
from catalog.canonical import canonical
from catalog.papers import Document
from catalog.problems import RefusedError

REAL = Path(__file__).parents[2] / "papers.yaml"
GARDEN = Path(__file__).parents[1] / "fixtures" / "garden.yaml"

ENTRY: dict[str, Any] = {
    "id": "weeder",
    "title": 'Weeder: "Pulling" Weeds: a #1 Method',
    "authors": ["Zoë Müller", "van der Berg, Jan", "Null Yes"],
    "date": datetime.date(2024, 1, 15),
    "ids": {"arxiv": "2401.10010", "openreview": None, "doi": None, "acl": None},
    "venue": {"name": "arXiv", "year": 2024, "track": None, "status": "preprint"},
    "type": "attack",
    "setting": {"access": "service", "harmful_data": "explicit", "adapts": "full"},
    "curation": {"added": datetime.date(2026, 11, 20), "source": "invented", "checked": datetime.date(2026, 11, 20)},
}


def document(text: str) -> Document:
    return Document(Path("papers.yaml"), text)


def changes(old: str, new: str) -> tuple[str, str]:
    """What stands in `new` only, and in `old` only, by lines."""
    lines = list(difflib.ndiff(old.splitlines(keepends=True), new.splitlines(keepends=True)))
    return tuple("".join(line[2:] for line in lines if line[0] == sign) for sign in "+-")  # type: ignore[return-value]


def test_adding_to_the_real_catalogue_is_a_diff_of_that_entry(tmp_path: Path) -> None:
    path = tmp_path / "papers.yaml"
    path.write_bytes(before := REAL.read_bytes())
    papers.add(path, ENTRY)
    after = path.read_bytes()
    matcher = difflib.SequenceMatcher(None, before.splitlines(), after.splitlines(), autojunk=False)
    edits = [op for op in matcher.get_opcodes() if op[0] != "equal"]
    assert [(op[0], op[2] - op[1]) for op in edits] == [("insert", 0)]
    added = b"\n".join(after.splitlines()[edits[0][3] : edits[0][4]]).strip(b"\n").decode()
    assert YAML(typ="safe").load(added) == [ENTRY]
    assert before == after.replace(added.encode() + b"\n\n", b"")


@pytest.mark.parametrize(
    ("date", "neighbours"),
    [
        ((2020, 1, 1), ["weeder", "breaker", "shield"]),
        ((2024, 1, 15), ["breaker", "weeder", "shield"]),
        ((2024, 2, 29), ["breaker", "shield", "weeder"]),
        ((2025, 1, 1), ["breaker", "shield", "weeder"]),
    ],
)
@pytest.mark.parametrize("end", ["\n", ""])
@pytest.mark.parametrize("footer", ["", "\n# the end"])
def test_it_stands_by_date_and_id_and_the_file_stays_canonical(
    tmp_path: Path, date: tuple[int, int, int], neighbours: list[str], end: str, footer: str
) -> None:
    path = tmp_path / "papers.yaml"
    before = GARDEN.read_text(encoding="utf-8").rstrip("\n") + ("\n" + footer if footer else "") + end
    path.write_text(before, encoding="utf-8")
    papers.add(path, {**ENTRY, "date": datetime.date(*date)})
    after = path.read_text(encoding="utf-8")
    assert [entry["id"] for entry in YAML(typ="safe").load(after)["papers"]] == neighbours
    assert canonical(document(after)) == after
    assert set(changes(before + ("\n" if not end else ""), after)[1].split()) == set()


def test_several_entries_at_once_equal_one_after_the_other(tmp_path: Path) -> None:
    others = [{**ENTRY, "id": f"weeder-{n}", "date": datetime.date(2022 + n, 3, 1)} for n in range(4)]
    at_once, each = tmp_path / "a.yaml", tmp_path / "b.yaml"
    for path in (at_once, each):
        path.write_bytes(GARDEN.read_bytes())
    papers.add(at_once, *others)
    for entry in reversed(others):
        papers.add(each, entry)
    assert at_once.read_bytes() == each.read_bytes()


def test_line_ends_and_byte_order_mark_stay(tmp_path: Path) -> None:
    path = tmp_path / "papers.yaml"
    path.write_bytes(before := b"\xef\xbb\xbf" + GARDEN.read_bytes().replace(b"\n", b"\r\n"))
    papers.add(path, ENTRY)
    after = path.read_bytes()
    assert after.startswith(b"\xef\xbb\xbf")
    assert after.count(b"\n") == after.count(b"\r\n") == before.count(b"\n") + 10


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")) | st.just(" "), min_size=1, max_size=40)
TEXTS = st.sampled_from(["yes", "null", "2024-02-02", "1e3", "# no", "a: b", "[x", "'", '"', "a #b", "- x", "{{x}}"])


@settings(max_examples=40, deadline=None)
@given(title=TEXTS | WORDS.map(str.strip).filter(bool), authors=st.lists(TEXTS, min_size=1, max_size=3))
def test_any_title_and_name_comes_back_as_it_went_in(title: str, authors: list[str]) -> None:
    garden = document(GARDEN.read_text(encoding="utf-8"))
    text = editing.insert(garden, [{**ENTRY, "title": title, "authors": authors}])
    found = YAML(typ="safe").load(text)["papers"][1]
    assert (found["title"], found["authors"]) == (title, authors)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"title": "two\nlines"}, "title"),
        ({"ids": {"arxiv": "2401.10010v2"}}, "no bare arxiv id"),
        ({"type": "atack"}, "'attack'"),
        ({"nonsense": 1}, "unknown key"),
    ],
)
def test_an_entry_that_does_not_fit_changes_nothing(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    path = tmp_path / "papers.yaml"
    path.write_bytes(GARDEN.read_bytes())
    with pytest.raises(RefusedError, match=message):
        papers.add(path, {**ENTRY, "id": "fits", "date": datetime.date(2025, 1, 1)}, {**ENTRY, **wrong})
    assert path.read_bytes() == GARDEN.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["papers.yaml"]


def test_a_file_in_another_layout_is_refused_rather_than_broken(tmp_path: Path) -> None:
    path = tmp_path / "papers.yaml"
    path.write_text("schema: 1\npapers:\n- id: x\n  title: X\n", encoding="utf-8")
    with pytest.raises(RefusedError, match="hft fmt"):
        papers.add(path, ENTRY)


def test_amending_changes_one_entry_and_keeps_its_comments() -> None:
    before = GARDEN.read_text(encoding="utf-8")
    after = editing.amend(document(before), "shield", lambda entry: entry["venue"].update(year=2025))
    added, removed = changes(before, after)
    assert removed == "    venue: {name: NeurIPS, year: 2024, track: main, status: accepted}\n"
    assert added == removed.replace("2024", "2025")


def test_a_killed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "papers.yaml"
    path.write_text("old")
    code = (
        "import os, signal, sys; from pathlib import Path; from catalog import atomic;"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL);"
        "atomic.write(Path(sys.argv[1]), b'new' * 1000)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=REAL.parent)
    assert done.returncode == -9
    assert path.read_text() == "old"


def test_a_written_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "papers.yaml"
    path.write_text("old")
    path.chmod(0o640)
    atomic.write(path, b"new")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o640)
