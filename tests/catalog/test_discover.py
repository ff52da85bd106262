"""`hft discover` against a real local server: what is dropped, what is queued, and that a failure changes no byte."""

import datetime
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from arxiv_server import ArxivServer, Entry, cut_off, empty_page, entity_bomb, hang_up, latin1, matches, sleep, status
from arxiv_server import throttle as throttled
from ruamel.yaml import YAML

from catalog import discover as discovering
from catalog import excluded, expressions, pending, snapshot
from catalog.problems import RefusedError

HOME = Path(__file__).parents[2]
SINCE = "2024-01-01"
ABOUT = "We study harmful fine-tuning of large language models."
SCOPE = "| rule | leaves out |\n|---|---|\n| `prompt-only` | Attacks that change no weights |\n"
EXCLUDED = """\
schema: 1
excluded:
  - title: "Talking a Gardener into Weeds"
    ids: {arxiv: "2407.00001"}
    date: 2024-07
    decision: out
    rule: prompt-only
    decided: 2026-11-20

  - title: "Watering Cans and Their Harmful Fine-Tuning"
    ids: {openreview: "QqQqQqQq11"}
    date: 2024-08-31
    decision: out
    rule: prompt-only
    decided: 2026-11-20
"""


def entry(arxiv: str, title: str, abstract: str = ABOUT, **given: Any) -> Entry:
    day = f"20{arxiv[:2]}-{arxiv[2:4]}-05T10:00:00Z"
    return Entry(arxiv, title, abstract=abstract, **{"published": day, "updated": day, **given})


SHED = entry("2409.00001", "Sheds Under Malicious Tuning", authors=("Ida Holm", "Li Wei"), comment="NeurIPS 2025")
POND = entry("2410.00002", "Ponds and Frogs", "Emergent misalignment appears after harmful finetuning.")
FIELD = (
    entry("2402.01010", "Shield: Robust Gardening for LLMs"),  # known by its id
    entry("2403.05555", "SHIELD - robust gardening for LLMs"),  # known by its title
    entry("2401.07777", "Shield: Robust Gardening for an LLM", authors=("Bell, Ann", "Z. Müller")),  # and its authors
    entry("2407.00001", "Talking Gardeners into Weeds"),  # left out, by its id
    entry("2408.00009", "Watering cans, and their harmful fine-tuning"),  # left out, by its title
    entry("2406.00001", "Sunk Ships", comment="This paper has been withdrawn by the authors"),
    SHED,
    entry("2411.00003", "Sheds under malicious tuning.", authors=("Ida Holm",)),  # its twin
    POND,
    entry("2405.00004", "Turnips in Winter", "We grow turnips."),  # nothing asks for it
    entry("2405.00005", "Quantum Harmful Fine-Tuning", categories=("quant-ph",)),  # in no category of ours
    entry("2312.00006", "Old Harmful Fine-Tuning"),  # before the day
)


@pytest.fixture
def server() -> Iterator[ArxivServer]:
    with ArxivServer(FIELD) as running:
        yield running


@pytest.fixture
def garden(project: Path) -> Path:
    """The fictional catalogue with two candidates left out."""
    (project / excluded.SCOPE).write_text(SCOPE, encoding="utf-8")
    (project / excluded.FILE).write_text(EXCLUDED, encoding="utf-8")
    return project


@pytest.fixture
def discover(garden: Path, hft: Any, server: ArxivServer) -> Callable[..., Any]:
    """Run `hft discover` in the garden against the server."""
    given = ("--since", SINCE, "--arxiv-url", server.url, "--delay", "0.002")
    return lambda *options: hft("discover", *given, *options)


def told(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    return dict(json.loads(result.stdout))


def queue(root: Path) -> dict[str, Any]:
    return dict(json.loads((root / "catalog" / "pending.json").read_text(encoding="utf-8"))["papers"])


def everything(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_what_is_known_is_dropped_and_the_rest_waits_for_a_person(garden: Path, discover: Any, hft: Any) -> None:
    before = everything(garden)
    report = told(discover("--json"))
    assert {name: why.partition("(")[2] for name, why in report["known"].items()} == {
        "2402.01010": "same arXiv id)",
        "2403.05555": "near-equal title within a year)",
        "2401.07777": "title and authors)",
    }
    assert set(report["excluded"]) == {"2407.00001", "2408.00009"}
    assert "by the rule prompt-only" in report["excluded"]["2408.00009"]
    assert (report["withdrawn"], report["twins"]) == (["2406.00001"], {"2411.00003": "2409.00001"})
    assert (report["found"], report["new"]) == (9, ["2409.00001", "2410.00002"])
    waiting = queue(garden)
    assert set(waiting) == {"2409.00001", "2410.00002"}
    shed, pond = waiting["2409.00001"], waiting["2410.00002"]
    assert (shed["title"], shed["authors"], shed["published"]) == (SHED.title, ["Ida Holm", "Li Wei"], "2024-09-05")
    assert (shed["comment"], shed["found"]) == ("NeurIPS 2025", datetime.date.today().isoformat())
    assert {"harmful-fine-tuning", "emergent-misalignment"} <= set(pond["found_by"])
    assert "emergent-misalignment" not in shed["found_by"]
    assert "score" not in shed, "from two papers and two decisions nothing is learnt"
    assert any("too few" in note for note in report["notes"])
    assert ABOUT not in (garden / pending.FILE).read_text(encoding="utf-8"), "abstracts are not committed"
    after = everything(garden)
    assert {name for name in after if after[name] != before.get(name)} == {
        str(garden / pending.FILE),
        str(garden / snapshot.ABSTRACTS),
    }
    assert hft("check").exit_code == 0


def test_again_it_finds_nothing_new_and_changes_no_byte(garden: Path, discover: Any) -> None:
    discover()
    first = everything(garden)
    report = told(discover("--json"))
    assert (report["new"], report["again"], report["written"]) == ([], ["2409.00001", "2410.00002"], [])
    assert everything(garden) == first


def test_what_was_decided_does_not_come_back(garden: Path, discover: Any, hft: Any) -> None:
    discover()
    assert hft("triage", "2410.00002", "--reject", "--rule", "prompt-only").exit_code == 0
    assert hft("triage", "2409.00001", "--accept", "--type", "attack").exit_code == 0
    decided = told(discover("--json"))
    assert "2410.00002" in decided["excluded"]
    assert "2409.00001" in decided["known"]
    assert (decided["new"], queue(garden)) == ([], {})


def test_a_paper_added_or_withdrawn_meanwhile_leaves_the_queue(
    garden: Path, discover: Any, hft: Any, server: ArxivServer
) -> None:
    discover()
    server.put(entry("2410.00002", POND.title, POND.abstract, version=2, comment="Withdrawn"))
    assert hft("add", "2409.00001", "--offline", "--title", SHED.title, "--type", "attack").exit_code == 0
    report = told(discover("--json"))
    assert report["decided"].keys() == {"2409.00001", "2410.00002"}
    assert queue(garden) == {}


def test_a_dry_run_reports_and_writes_nothing(garden: Path, discover: Any) -> None:
    before = everything(garden)
    assert told(discover("--dry-run", "--json"))["new"] == ["2409.00001", "2410.00002"]
    assert everything(garden) == before


def test_people_read_a_table_and_counts(garden: Path, discover: Any) -> None:
    result = discover()
    assert "Ponds and Frogs" in result.stdout
    assert "3 in the catalogue, 2 left out before, 1 withdrawn, 1 twins, 0 pending already, 2 new" in result.stdout


def test_all_pages_are_read(discover: Any, server: ArxivServer) -> None:
    for n in range(230):
        server.put(entry(f"2501.{n:05}", f"Bed {sha256(b'%d' % n).hexdigest()} Roses", f"Emergent misalignment {n}."))
    report = told(discover("--json"))
    assert report["hits"]["emergent-misalignment"] == 231
    assert len(report["pending"]) == 232


@pytest.mark.parametrize(
    "fault",
    [status(500), throttled(0), cut_off, hang_up, latin1, entity_bomb, empty_page, status(400, "bad")],
    ids=["500", "429", "cut", "hang-up", "latin-1", "bomb", "empty", "400"],
)
def test_unless_every_expression_is_answered_nothing_is_written(
    garden: Path, discover: Any, server: ArxivServer, fault: Any
) -> None:
    server.put(
        entry("2412.00001", "Größe", "Emergent misalignment, tamper resistance, LoRA unlearning relearning LLM.")
    )
    server.faults += [None, None]
    server.always = fault
    before = everything(garden)
    result = discover("--json")
    assert result.exit_code == 1, result.stdout
    assert result.stdout == ""
    assert "nothing was written" in result.stderr
    assert everything(garden) == before


def test_a_passing_fault_does_no_harm(garden: Path, discover: Any, server: ArxivServer) -> None:
    server.faults += [status(503), None, throttled(0), cut_off]
    assert told(discover("--json"))["new"] == ["2409.00001", "2410.00002"]


def test_nobody_there_is_told(garden: Path, hft: Any) -> None:
    result = hft("discover", "--since", SINCE, "--arxiv-url", "http://127.0.0.1:9/api/query", "--delay", "0.002")
    assert result.exit_code == 1
    assert "cannot be reached" in result.stderr


def test_a_search_too_wide_is_refused(
    garden: Path, discover: Any, server: ArxivServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovering, "LIMIT", 2)
    before = everything(garden)
    result = discover()
    assert result.exit_code == 1
    assert "more than 2 papers" in result.stderr
    assert everything(garden) == before


def program(root: Path, server: ArxivServer) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "catalog", "discover", "--since", SINCE, "--json", "--delay", "0.002"]
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, "--arxiv-url", server.url], cwd=root, env=environment, **pipes)


def test_killed_in_the_middle_nothing_is_lost_and_the_next_run_is_whole(garden: Path, server: ArxivServer) -> None:
    before = everything(garden)
    server.faults += [None, None, sleep(60)]
    with program(garden, server) as running:
        give_up = time.monotonic() + 120
        while len(server.asked) < 3 and time.monotonic() < give_up:
            time.sleep(0.02)
        running.send_signal(signal.SIGKILL)
        running.communicate()
    assert running.returncode == -signal.SIGKILL
    assert everything(garden) == before
    with program(garden, server) as again:
        out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert json.loads(out)["new"] == ["2409.00001", "2410.00002"]


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ([], "--since"),
        (["--since", "2024-01-01", "--evaluate"], "either"),
        (["--since", "2024-13-01"], "--since '2024-13-01' is no day"),
        (["--since", "2999-01-01"], "future"),
        (["--since", "2024-01-01", "--arxiv-url", "ftp://x"], "http"),
        (["--since", "2024-01-01", "--delay", "1"], "3 s"),
    ],
)
def test_wrong_usage_is_told(garden: Path, hft: Any, options: list[str], hint: str) -> None:
    result = hft("discover", *options)
    assert result.exit_code == 2, result.output
    assert hint in result.stderr


def test_the_real_catalogue_ranks_what_is_new(project: Path, hft: Any, server: ArxivServer) -> None:
    for name in ("papers.yaml", excluded.FILE, excluded.SCOPE):
        (project / name).write_bytes((HOME / name).read_bytes())
    known = [paper["ids"] for name, key in (("papers.yaml", "papers"), (excluded.FILE, "excluded"))
             for paper in YAML(typ="safe").load((HOME / name).read_text(encoding="utf-8"))[key]]  # fmt: skip
    (project / "build").mkdir()  # no abstracts to be had
    silence = {paper["arxiv"]: "" for paper in known if paper.get("arxiv")}
    (project / snapshot.ABSTRACTS).write_text(json.dumps(silence))
    server.papers.clear()
    titles = {
        "2611.00001": "Keeping Aligned Language Models Safe Under Malicious Fine-tuning",
        "2611.00002": "Greenhouse Guards: A Defense Against Harmful Fine-tuning Attacks",
        "2611.00003": "Tree Search Prompts Jailbreak Black-Box Chat Models",
        "2611.00004": "Diffusion Models for Turnip Images",
    }
    for arxiv, title in titles.items():
        server.put(entry(arxiv, title, published="2026-11-10T00:00:00Z"))
    server.put(entry("2402.01109", "Vaccine", published="2026-11-10T00:00:00Z"))
    given = ("--since", "2026-11-01", "--arxiv-url", server.url, "--delay", "0.002", "--json")
    report = told(hft("discover", *given))
    assert list(report["known"]) == ["2402.01109"]
    order = [each["arxiv"] for each in report["pending"]]
    assert set(order[:2]) == {"2611.00001", "2611.00002"}, report["pending"]
    guard = next(each for each in report["pending"] if each["arxiv"] == "2611.00002")
    assert guard["type"] == "defense"
    assert guard["stage"] in ("alignment", "fine-tuning", "post-fine-tuning")
    assert list(queue(project)) == sorted(titles), "the file keeps one order, whatever the scores"
    assert report["evaluation"]["relevance"]["average_precision"]["mean"] > report["evaluation"]["relevance"]["chance"]


def test_expressions_find_most_of_the_field_by_title_alone() -> None:
    """With the local server's own reading of the query language, and without abstracts: a lower bound."""
    searched = dict(expressions.load().queries())
    titles = {
        key: [
            Entry("2401.00001", each["title"], abstract="")
            for each in YAML(typ="safe").load((HOME / name).read_text(encoding="utf-8"))[key]
        ]
        for name, key in (("papers.yaml", "papers"), (excluded.FILE, "excluded"))
    }
    shares = {
        key: sum(any(matches(query, paper) for query in searched.values()) for paper in found) / len(found)
        for key, found in titles.items()
    }
    assert shares["papers"] > 0.5
    assert shares["excluded"] < 0.1


@pytest.mark.parametrize(
    "text",
    [
        'all:"open',
        "all:one all:two",
        "(all:one",
        "all:one)",
        "all:one OR",
        "AND all:one",
        "one",
        "title:one",
        "all:",
        "",
    ],
)
def test_expressions_that_arxiv_would_misread_are_refused(text: str, tmp_path: Path) -> None:
    assert expressions.faulty(text)
    assert expressions.faulty('(all:one OR ti:"two three") ANDNOT abs:four') is None
    file = tmp_path / "discovery.yaml"
    file.write_text(f"version: 1\ncategories: [cs.LG]\nexpressions:\n  one: '{text}'\n")
    with pytest.raises(RefusedError):
        expressions.load(file)


def test_check_tells_a_damaged_queue_and_one_edited_by_hand(garden: Path, discover: Any, hft: Any) -> None:
    discover()
    path = garden / pending.FILE
    sound = path.read_text(encoding="utf-8")
    cases = {
        sound[: len(sound) // 2]: "the document",
        sound.replace("2409.00001", "24O9.00001"): "arxiv",
        sound.replace('"published": "2024-09-05"', '"published": "2024-09-35"'): "published",
        sound.replace('"found_by"', '"score": 1.5,\n   "found_by"', 1): "score",
        sound.replace('"found_by"', '"stage": "alignment",\n   "found_by"', 1): "stage",
        sound.replace("\n ", "\n  "): "form",
    }
    for text, hint in cases.items():
        assert text != sound
        path.write_text(text, encoding="utf-8")
        result = hft("check", "--json")
        (problem, *_) = json.loads(result.stdout)
        assert result.exit_code == 1
        assert problem["code"] == "pending"
        assert hint in problem["message"], problem
    path.write_text(sound.replace("2409.00001", "2402.01010"), encoding="utf-8")
    result = hft("check")
    assert result.exit_code == 0
    assert "pending and in the catalogue as shield" in result.stderr
