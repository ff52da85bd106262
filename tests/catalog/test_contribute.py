"""`hft add`: one entry more, from arXiv or from what is known, and never a paper twice."""

import datetime
import difflib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from arxiv_server import ArxivServer, Entry
from ruamel.yaml import YAML

from catalog import contribute, entries, lint
from catalog.candidates import Candidate
from catalog.problems import RefusedError
from catalog.sources.arxiv import Server

TODAY = datetime.date(2026, 11, 23)
PAPER = Entry(
    "2412.07097",
    "Scarecrow: Keeping Birds off\n  Seeds & Sprouts",
    ("Zoë Müller", "Łukasz Żak"),
    published="2024-12-10T00:40:23Z",
    comment="Accepted at NeurIPS 2025, 12 pages",
)


@pytest.fixture
def arxiv() -> Iterator[ArxivServer]:
    with ArxivServer([PAPER]) as server:
        yield server


@pytest.fixture
def nowhere() -> str:
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/api/query"


def entry_of(project: Path, arxiv: str) -> dict[str, Any]:
    """The one entry with an arXiv id, as another parser reads it."""
    document = YAML(typ="safe").load((project / "papers.yaml").read_text(encoding="utf-8"))
    (found,) = [entry for entry in document["papers"] if entry["ids"]["arxiv"] == arxiv]
    return dict(found)


def added_lines(before: str, after: str) -> list[str]:
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    assert not [line for line in lines if line[0] == "-"]
    return [line[2:] for line in lines if line[0] == "+" and line[2:]]


@pytest.mark.parametrize(
    "text",
    [
        "2412.07097",
        "arXiv:2412.07097v2",
        "https://arxiv.org/abs/2412.07097v1?context=cs.LG",
        "http://arxiv.org/pdf/2412.07097v3.pdf",
        "https://doi.org/10.48550/arXiv.2412.07097",
    ],
)
def test_online_an_id_alone_makes_a_whole_entry(project: Path, hft: Any, arxiv: ArxivServer, text: str) -> None:
    before = (project / "papers.yaml").read_text(encoding="utf-8")
    result = hft("add", text, "--type", "defense", "--stage", "alignment", "--arxiv-url", arxiv.url)
    assert result.exit_code == 0, result.stderr
    entry = entry_of(project, "2412.07097")
    assert entry.pop("curation")["source"] == "hft add"
    assert entry == {
        "id": "scarecrow",
        "title": "Scarecrow: Keeping Birds off Seeds & Sprouts",
        "nickname": "Scarecrow",
        "authors": ["Zoë Müller", "Łukasz Żak"],
        "date": datetime.date(2024, 12, 10),
        "ids": {"arxiv": "2412.07097", "openreview": None, "doi": None, "acl": None},
        "venue": {"name": "NeurIPS", "year": 2025, "track": "main", "status": "accepted"},
        "type": "defense",
        "stage": "alignment",
    }
    after = (project / "papers.yaml").read_text(encoding="utf-8")
    assert len(added_lines(before, after)) == 10
    line = after.splitlines().index("  - id: scarecrow") + 1
    assert f"papers.yaml:{line}: added scarecrow" in result.stdout
    assert lint.check(project) == []


def test_offline_what_is_known_is_written_and_what_is_not_is_marked(project: Path, hft: Any) -> None:
    result = hft("add", "2412.07097", "--offline", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["added"] == "arxiv-2412-07097"
    entry = entry_of(project, "2412.07097")
    assert entry["date"] == datetime.date(2024, 12, 1)
    assert entry["unsure"] == document["unsure"] == ["title", "authors", "date", "type", "stage"]
    found = lint.check(project)
    assert [(problem.code, problem.warning) for problem in found] == [("unsure", True)]
    assert hft("check").exit_code == 0
    assert "fills in the title" in (told := hft("check").stderr)
    assert "not looked up yet" in told


def test_without_a_network_it_says_so_and_writes_what_is_known(project: Path, hft: Any, nowhere: str) -> None:
    result = hft("add", "2412.07097", "--title", "Roots in Rows", "--type", "survey", "--arxiv-url", nowhere)
    assert result.exit_code == 0, result.stderr
    assert "arXiv gave no answer" in result.stderr
    assert entry_of(project, "2412.07097")["unsure"] == ["date"]


def test_offline_the_snapshot_is_asked(project: Path, hft: Any) -> None:
    facts = {"version": 2, "title": "Roots in Rows", "authors": ["Ann Bell"], "published": "2024-12-10",
             "updated": "2025-01-01", "categories": ["cs.LG"]}  # fmt: skip
    (project / "catalog").mkdir()
    (project / "catalog" / "arxiv_snapshot.json").write_text(
        json.dumps({"version": 1, "papers": {"2412.07097": facts}})
    )
    assert hft("add", "2412.07097", "--type", "survey", "--offline").exit_code == 0
    entry = entry_of(project, "2412.07097")
    assert (entry["id"], entry["authors"], entry.get("unsure")) == ("roots-rows", ["Ann Bell"], None)


def test_asked_again_with_a_network_a_placeholder_becomes_the_entry(
    project: Path, hft: Any, arxiv: ArxivServer
) -> None:
    hft("add", "2412.07097", "--offline")
    result = hft("add", "2412.07097", "--type", "attack", "--arxiv-url", arxiv.url)
    assert result.exit_code == 0, result.stderr
    assert (entry_of(project, "2412.07097")["id"], entry_of(project, "2412.07097").get("unsure")) == ("scarecrow", None)
    again = hft("add", "2412.07097", "--arxiv-url", arxiv.url)
    assert "there already as scarecrow (same arXiv id)" in again.stdout


@pytest.mark.parametrize(
    "text",
    ["2402.01010", "https://openreview.net/forum?id=AbCdEfGh12&noteId=x", "10.1234/SHIELD.5"],
)
def test_a_paper_that_is_there_is_named_with_its_line(project: Path, hft: Any, text: str, nowhere: str) -> None:
    before = (project / "papers.yaml").read_bytes()
    result = hft("add", text, "--arxiv-url", nowhere, "--json")
    line = before.decode().splitlines().index("  - id: shield") + 1
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["added"], found["known"], found["where"]) == (None, "shield", f"papers.yaml:{line}")
    assert (project / "papers.yaml").read_bytes() == before


def test_a_twin_on_arxiv_of_a_known_paper_is_no_second_entry(project: Path, hft: Any, arxiv: ArxivServer) -> None:
    arxiv.put(Entry("2403.01234", "Shield: robust gardening for LLMs.", ("Bell, Ann", "Zoë Müller"),
                    published="2024-03-02T00:00:00Z"))  # fmt: skip
    before = (project / "papers.yaml").read_bytes()
    result = hft("add", "2403.01234", "--arxiv-url", arxiv.url)
    assert "there already as shield (near-equal title within a year)" in result.stdout
    assert (project / "papers.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["scarecrow"], 2, "no arXiv id"),
        (["https://example.org/paper.pdf"], 2, "no address of a paper"),
        (["2412.07097", "--stage", "alignment", "--type", "attack"], 2, "for defenses"),
        (["2412.07097", "--type", "atack"], 2, "'attack'"),
        (["2412.07097", "--date", "2024-13-01"], 2, "--date '2024-13-01' is no day"),
        (["2412.07097", "--arxiv-url", "ftp://x"], 2, "no http address"),
        (["10.1145/3658644.1", "--offline"], 1, "--title, --date, --venue"),
        (["2412.07097", "--offline", "--venue", "Gardeners' Weekly 2024"], 1, "unknown venue"),
        (["2412.07097", "--offline", "--date", "2025-03-01"], 1, "after the month"),
        (["2412.07097", "--offline", "--tag", "perturbations"], 1, "'perturbation'"),
        (["2412.07097", "--offline", "--code", "https://github.com/a/b?token=ghp_x"], 1, "token"),
        (["2412.07097", "--offline", "--title", "x", "--code", "javascript:alert(1)"], 1, "links.code"),
        (["2412.07097", "--offline", "--title", "A \u2067title"], 1, "title holds the invisible character U+2067"),
        (["2412.07097", "--offline", "--author", "Ann\u202e Bell"], 1, "holds the invisible character U+202E"),
    ],
)
def test_what_cannot_be_added_is_refused_and_changes_nothing(
    project: Path, hft: Any, arguments: list[str], code: int, hint: str
) -> None:
    before = (project / "papers.yaml").read_bytes()
    result = hft("add", *arguments)
    assert result.exit_code == code, result.output
    assert hint in result.stderr
    assert (project / "papers.yaml").read_bytes() == before
    assert sorted(file.name for file in project.iterdir()) == ["README.md", "papers.yaml"]


def test_what_was_left_out_is_not_added_without_a_word(project: Path, hft: Any) -> None:
    (project / "excluded.yaml").write_text(
        'schema: 1\nexcluded:\n  - {title: "Roots in Rows", ids: {arxiv: "2412.07097"}, date: 2024-12-10,\n'
        "     decision: out, rule: no-fine-tuning, decided: 2026-11-20}\n"
    )
    before = (project / "papers.yaml").read_bytes()
    result = hft("add", "2412.07097", "--offline")
    assert result.exit_code == 1
    assert "left out on 2026-11-20 by the rule no-fine-tuning" in result.stderr
    assert (project / "papers.yaml").read_bytes() == before


def test_an_id_that_arxiv_does_not_know_is_refused(project: Path, arxiv: ArxivServer) -> None:
    unknown = Candidate("", ids={"arxiv": "2412.99999"}, origin="test")
    with pytest.raises(RefusedError, match="does not know"):
        contribute.add(project / "papers.yaml", unknown, Server(arxiv.url, delay=0.01), TODAY)


def test_other_ids_need_facts_and_get_them(project: Path, hft: Any) -> None:
    result = hft(
        "add", "https://aclanthology.org/2024.findings-acl.549.pdf", "--offline", "--title", "On Weeds in Open Gardens",
        "--author", "Jan de Vries", "--date", "2023-10-05", "--type", "attack",
    )  # fmt: skip
    assert result.exit_code == 1
    assert "unknown venue 'ACL'" in result.stderr  # of the fixture, whose list is shorter


SLUGS = {
    "Vaccine: Perturbation-aware Alignment for Large Language Models": "vaccine",
    "On Evaluating the Durability of Safeguards for Open-Weight LLMs": "evaluating-durability-safeguards",
    'What\'s in Your "Safe" Data?: Identifying Benign Data': "whats-your-safe",
    "Über-Gärtnern in Eden": "uber-gartnern-eden",
    "Safe LoRA: the Silver Lining": "safe-lora",
    "1 + 1 = 3?": "1-1-3",
    "安全": "paper",
}


@pytest.mark.parametrize(("title", "slug"), SLUGS.items())
def test_slugs_come_from_the_name_or_the_title(title: str, slug: str) -> None:
    made = entries.slug(entries.name_in(title) or title, TODAY, ())
    assert made == slug


def test_a_slug_is_never_taken_twice_nor_that_of_a_baseline() -> None:
    taken: list[str] = []
    for _ in range(4):
        taken.append(entries.slug("Lisa", TODAY, taken))
    assert taken == ["lisa", "lisa-2026", "lisa-2026-2", "lisa-2026-3"]
    assert entries.slug("SFT", TODAY, ()) == "sft-2026"


def test_a_full_disk_leaves_the_catalogue(project: Path, hft: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (project / "papers.yaml").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device", "papers.yaml")

    monkeypatch.setattr(os, "fsync", full)
    result = hft("add", "2412.07097", "--offline")
    assert result.exit_code == 1
    assert "No space left" in result.stderr
    assert (project / "papers.yaml").read_bytes() == before
    assert sorted(file.name for file in project.iterdir()) == ["README.md", "papers.yaml"]


def test_a_day_that_is_none_is_told_with_its_option(hft: Any) -> None:
    for words, option in (
        (("add", "2412.07097", "--date", "May"), "--date"),
        (("discover", "--since", "May"), "--since"),
    ):
        result = hft(*words)
        assert result.exit_code == 2
        assert f"{option} 'May' is no day; write it as 2024-02-29" in result.stderr
