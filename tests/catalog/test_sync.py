"""`hft sync` against real local servers: what it reports and writes, and that a failure changes no byte."""

import errno
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from arxiv_server import ArxivServer, Entry, cut_off, sleep, status

from catalog import atomic, db, snapshot

BREAKER, SHIELD = "2310.12345", "2402.01010"
REPOSITORY = Path(__file__).parents[2]


def breaker(**changed: Any) -> Entry:
    given: dict[str, Any] = {
        "title": "A Handful of Turnips Breaks Any Gardener",
        "authors": ("Zoë Müller", "Łukasz Żak"),
        "abstract": "Ten wheelbarrows suffice.",
        "published": "2023-10-05T10:00:00Z",
    }
    return Entry(BREAKER, **given | changed)


def shield(**changed: Any) -> Entry:
    given: dict[str, Any] = {"title": "Shield: Robust Gardening for LLMs", "authors": ("Ann Bell", "Zoë Müller")}
    return Entry(SHIELD, **given | {"published": "2024-02-29T10:00:00Z", **changed})


@pytest.fixture
def server() -> Iterator[ArxivServer]:
    with ArxivServer([breaker(), shield()]) as running:
        yield running


@pytest.fixture
def sync(hft: Any, server: ArxivServer) -> Callable[..., Any]:
    """Run `hft sync` against the server, without other sources unless named."""

    def run(*arguments: str, sources: str = "") -> Any:
        options = ("--arxiv-url", server.url, "--delay", "0.005", "--sources", sources)
        return hft("sync", *options, *arguments)

    return run


def report(result: Any) -> dict[str, Any]:
    return dict(json.loads(result.stdout))


def everything(root: Path) -> dict[str, bytes]:
    """Bytes of all files but the answers kept for a run that was broken off."""
    return {str(p): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file() and p.name != "sync-partial.json"}


def test_first_sync_fills_snapshot_database_and_search(project: Path, sync: Any, hft: Any) -> None:
    before = (project / "papers.yaml").read_bytes()
    assert json.loads(hft("search", "wheelbarrow", "--json").stdout) == []
    result = sync("--json")
    assert result.exit_code == 0, result.stderr
    told = report(result)
    assert (told["found"], told["first_seen"], told["changes"], told["proposals"]) == (2, 2, [], [])
    assert (project / "papers.yaml").read_bytes() == before
    assert "wheelbarrows" not in (project / snapshot.FILE).read_text(), "abstracts are not committed"
    with sqlite3.connect(project / db.FILE_NAME) as raw:
        rows = raw.execute("SELECT paper, version, abstract FROM preprint ORDER BY paper").fetchall()
        assert rows == [("breaker", 1, "Ten wheelbarrows suffice."), ("shield", 1, "We study turnips.")]
        assert raw.execute("SELECT name FROM category WHERE paper = 'shield' ORDER BY position").fetchall() == [
            ("cs.LG",),
            ("cs.CL",),
        ]
    raw.close()
    assert [hit["id"] for hit in json.loads(hft("search", "wheelbarrow", "--json").stdout)] == ["breaker"]
    assert json.loads(hft("show", "breaker", "--json").stdout)["arxiv"]["abstract"] == "Ten wheelbarrows suffice."
    state = everything(project)
    again = sync("--json")
    assert (again.exit_code, report(again)["written"], everything(project)) == (0, [], state)


def test_without_abstracts_everything_else_works(project: Path, sync: Any, hft: Any) -> None:
    sync()
    (project / snapshot.ABSTRACTS).unlink()
    assert json.loads(hft("search", "wheelbarrow", "--json").stdout) == []
    assert [hit["id"] for hit in json.loads(hft("search", "turnips", "--json").stdout)] == ["breaker"]
    assert json.loads(hft("show", "breaker", "--json").stdout)["arxiv"]["version"] == 1


def test_typed_diff(server: ArxivServer, sync: Any) -> None:
    sync()
    server.put(breaker(title="A Bucket of Turnips", version=3, comment="12 pages"))
    server.put(shield(version=2, comment="This paper has been withdrawn by the authors"))
    told = report(sync("--json", "--allow-many"))
    assert {(change["kind"], change["paper"]) for change in told["changes"]} == {
        ("revised-title", "breaker"),
        ("new-version", "breaker"),
        ("metadata", "breaker"),
        ("withdrawn", "shield"),
        ("new-version", "shield"),
        ("metadata", "shield"),
    }
    newer = [change for change in told["changes"] if change["kind"] == "new-version"]
    versions = {change["paper"]: (change["before"], change["after"]) for change in newer}
    assert versions == {"breaker": (1, 3), "shield": (1, 2)}
    assert report(sync("--json"))["changes"] == []


def test_a_paper_gone_from_arxiv_stays_and_is_told_once(project: Path, server: ArxivServer, sync: Any) -> None:
    sync()
    gone = server.papers.pop(SHIELD)
    told = report(sync("--json", "--allow-many"))
    assert [(change["kind"], change["paper"]) for change in told["changes"]] == [("missing", "shield")]
    assert snapshot.load(project).papers.keys() == {BREAKER, SHIELD}
    assert report(sync("--json"))["changes"] == []
    server.put(gone)
    assert [change["kind"] for change in report(sync("--json", "--allow-many"))["changes"]] == ["returned"]


def test_an_older_version_than_known_is_refused(project: Path, server: ArxivServer, sync: Any) -> None:
    server.put(breaker(version=4))
    sync()
    server.put(breaker(version=2, title="Old"))
    result = sync("--json")
    assert result.exit_code == 1
    assert "version 2 after version 4" in report(result)["failed"][BREAKER]
    assert snapshot.load(project).papers[BREAKER].version == 4


def test_more_than_a_tenth_stops_and_changes_nothing(project: Path, server: ArxivServer, sync: Any) -> None:
    sync()
    state = everything(project)
    server.put(breaker(version=2))
    result = sync("--json")
    assert result.exit_code == 1
    assert "1 of 2 entries would change, more than 10%" in report(result)["stopped"]
    assert everything(project) == state
    assert sync("--allow-many").exit_code == 0
    assert snapshot.load(project).papers[BREAKER].version == 2


def test_a_tenth_is_not_more_than_a_tenth(many: Path, server: ArxivServer, sync: Any) -> None:
    serve(many, server)
    assert sync().exit_code == 0
    names = list(server.papers)
    for name in names[:12]:
        server.put(Entry(name, server.papers[name].title, version=2))
    assert report(sync("--json", "--dry-run"))["changed_entries"] == 12
    server.put(Entry(names[12], server.papers[names[12]].title, version=2))
    assert sync().exit_code == 1


def test_an_upgrade_is_proposed_then_made_in_one_line(project: Path, server: ArxivServer, sync: Any) -> None:
    path = project / "papers.yaml"
    before = path.read_text(encoding="utf-8")
    server.put(breaker(comment="Accepted to NeurIPS 2024, 12 pages. Code at https://example.org", doi="10.1234/b.7"))
    told = report(sync("--json"))
    assert {(each["paper"], each["field"]): each["after"] for each in told["proposals"]} == {
        ("breaker", "venue"): {"name": "NeurIPS", "year": 2024, "track": "main", "status": "accepted"},
        ("breaker", "ids.doi"): "10.1234/b.7",
    }
    assert [change["kind"] for change in told["changes"]] == ["published"]
    assert path.read_text(encoding="utf-8") == before, "proposed is not made"
    assert sync("--apply", "--dry-run").exit_code == 1, "one of two entries"
    assert sync("--apply", "--allow-many").exit_code == 0
    old, new = before.splitlines(), path.read_text(encoding="utf-8").splitlines()
    assert [pair for pair in zip(old, new, strict=True) if pair[0] != pair[1]] == [
        (
            '    ids: {arxiv: "2310.12345", openreview: null, doi: null, acl: null}',
            '    ids: {arxiv: "2310.12345", openreview: null, doi: "10.1234/b.7", acl: null}',
        ),
        (
            "    venue: {name: arXiv, year: 2023, track: null, status: preprint}",
            "    venue: {name: NeurIPS, year: 2024, track: main, status: accepted}",
        ),
    ]
    assert report(sync("--json"))["proposals"] == []


@pytest.mark.parametrize(
    "comment",
    [
        "Submitted to NeurIPS 2024",
        "Under review at ICLR 2025",
        "Accepted to NeurIPS 2024 workshop on turnips",
        "Extended version of our NeurIPS 2024 paper",
        "Withdrawn from NeurIPS 2024",
        "Accepted at NeurIPS",
        "NeurIPS 2019",
        "12 pages, 2024",
    ],
)
def test_what_is_no_acceptance_is_not_proposed(server: ArxivServer, sync: Any, comment: str) -> None:
    server.put(breaker(comment=comment))
    assert report(sync("--json"))["proposals"] == []


def test_a_venue_nobody_listed_is_left_to_a_person(project: Path, server: ArxivServer, sync: Any) -> None:
    before = (project / "papers.yaml").read_bytes()
    server.put(breaker(journal_ref="ICML 2024"))
    result = sync("--json", "--apply")
    assert "add 'ICML'" in report(result)["proposals"][0]["by_hand"]
    assert (result.exit_code, (project / "papers.yaml").read_bytes()) == (0, before)


def test_missing_authors_are_filled_and_curated_titles_kept(
    project: Path, server: ArxivServer, sync: Any, edit: Any
) -> None:
    path = project / "papers.yaml"
    edit("authors: [Zoë Müller, Łukasz Żak]", "authors: []")
    server.put(shield(title="Shield (v1 name)", authors=("Somebody Else",)))
    told = report(sync("--json", "--apply", "--allow-many"))
    assert [(each["paper"], each["field"]) for each in told["applied"]] == [("breaker", "authors")]
    text = path.read_text(encoding="utf-8")
    assert "authors: [Zoë Müller, Łukasz Żak]" in text
    assert "authors: [Ann Bell, Zoë Müller]" in text, "curated authors stay"
    assert 'title: "Shield: Robust Gardening for LLMs"' in text
    assert "# the defense everyone compares with" in text
    assert sync("--apply", "--titles", "--allow-many").exit_code == 0
    assert 'title: "Shield (v1 name)"' in path.read_text(encoding="utf-8")


def test_a_title_that_followed_arxiv_follows_its_revision(project: Path, server: ArxivServer, sync: Any) -> None:
    sync()
    server.put(shield(title="Shield: Robust Gardening for Everyone", version=2))
    assert sync("--apply", "--allow-many").exit_code == 0
    assert 'title: "Shield: Robust Gardening for Everyone"' in (project / "papers.yaml").read_text(encoding="utf-8")


def test_dry_run_writes_nothing(project: Path, sync: Any) -> None:
    state = everything(project)
    result = sync("--dry-run", "--json")
    assert (result.exit_code, report(result)["found"]) == (0, 2)
    assert everything(project) == state


def test_only_the_papers_that_are_named(project: Path, server: ArxivServer, sync: Any) -> None:
    assert report(sync("--ids", f"shield,arXiv:{SHIELD}", "--json"))["asked"] == 1
    assert [asked.ids for asked in server.asked] == [[SHIELD]]
    assert snapshot.load(project).papers.keys() == {SHIELD}
    result = sync("--ids", "2402.09999")
    assert (result.exit_code, len(server.asked)) == (2, 1), "it never grows the catalogue"


@pytest.mark.parametrize("fault", [status(500), cut_off])
def test_a_failure_changes_no_byte(project: Path, server: ArxivServer, sync: Any, fault: Any) -> None:
    sync()
    state = everything(project)
    server.put(breaker(version=2))
    server.always = fault
    result = sync("--json", "--apply", "--allow-many")
    assert result.exit_code == 1
    assert "nothing was changed" in report(result)["stopped"]
    assert everything(project) == state


def test_no_network_is_said_within_seconds(project: Path, hft: Any) -> None:
    with ArxivServer() as gone:
        url = gone.url
    begun = time.monotonic()
    result = hft("sync", "--arxiv-url", url)
    assert (result.exit_code, time.monotonic() - begun < 20) == (1, True)
    assert "cannot be reached" in result.stderr
    assert not (project / snapshot.FILE).exists()


@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_a_full_disk_changes_no_byte(
    project: Path, server: ArxivServer, sync: Any, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    sync()
    state = everything(project)
    server.put(breaker(version=2, abstract="New words.", journal_ref="NeurIPS 2024"))
    calls, true = [0], os.fsync

    def full(handle: int) -> None:
        calls[0] += 1
        if calls[0] >= call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        true(handle)

    monkeypatch.setattr(atomic.os, "fsync", full)
    result = sync("--apply", "--allow-many")
    assert result.exit_code == 1
    assert "No space left" in result.stderr
    assert everything(project) == state


@pytest.mark.parametrize("last", ["papers.yaml", "hft.sqlite"])
def test_a_file_that_cannot_be_replaced_brings_the_others_back(
    project: Path, server: ArxivServer, sync: Any, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    sync()
    state = everything(project)
    server.put(breaker(version=2, journal_ref="NeurIPS 2024"))
    true = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if Path(target).name == last and self.name.startswith("."):
            raise PermissionError(errno.EACCES, "Permission denied", str(target))
        return true(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    assert sync("--apply", "--allow-many").exit_code == 1
    assert {name: data for name, data in everything(project).items() if not name.endswith(".sync")} == state


@pytest.fixture
def many(project: Path) -> Path:
    """The project with 120 entries, so that a sync takes three batches."""
    path = project / "papers.yaml"
    entries = [
        f'\n  - id: paper-{n}\n    title: "{hashlib.sha256(str(n).encode()).hexdigest()}"\n    authors: [Ann Bell]\n'
        f'    date: 2024-03-01\n    ids: {{arxiv: "2403.{n:05d}", openreview: null, doi: null, acl: null}}\n'
        "    venue: {name: arXiv, year: 2024, track: null, status: preprint}\n    type: attack\n"
        "    setting: {access: service, harmful_data: explicit, adapts: full}\n"
        "    curation: {added: 2026-11-20, source: invented, checked: 2026-11-20}\n"
        for n in range(118)
    ]
    path.write_text(path.read_text(encoding="utf-8") + "".join(entries), encoding="utf-8")
    return project


def serve(many: Path, server: ArxivServer) -> None:
    for n in range(118):
        server.put(
            Entry(f"2403.{n:05d}", hashlib.sha256(str(n).encode()).hexdigest(), published="2024-03-01T00:00:00Z")
        )


def program(project: Path, server: ArxivServer) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "catalog", "sync", "--json", "--sources", "", "--delay", "0.01"]
    return subprocess.Popen(
        [*command, "--arxiv-url", server.url],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_in_the_middle_and_run_again(many: Path, server: ArxivServer, sync: Any) -> None:
    serve(many, server)
    assert sync().exit_code == 0
    state = everything(many)
    server.put(replace(server.papers["2403.00117"], version=2, abstract="Late pumpkins."))
    server.asked.clear()
    server.faults += [None, sleep(60)]
    with program(many, server) as running:
        give_up = time.monotonic() + 120
        while len(server.asked) < 2 and time.monotonic() < give_up:
            time.sleep(0.02)
        running.send_signal(signal.SIGKILL)
        running.communicate()
    assert running.returncode == -signal.SIGKILL
    assert everything(many) == state
    first = server.asked[0].ids
    server.asked.clear()
    with program(many, server) as again:
        out, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    told = json.loads(out)
    assert (told["resumed"], told["found"], [change["kind"] for change in told["changes"]]) == (
        50,
        120,
        ["new-version"],
    )
    asked = [name for request in server.asked for name in request.ids]
    assert len(asked) == 70
    assert not set(asked) & set(first)
    assert snapshot.load(many).papers["2403.00117"].version == 2
    assert not (many / "build" / "sync-partial.json").exists()
    assert sorted(path.name for path in (many / "build").iterdir()) == ["abstracts.json", "hft.sqlite"]


def test_edits_of_several_entries_change_their_lines_only(many: Path, server: ArxivServer, sync: Any) -> None:
    serve(many, server)
    accepted = ["2403.00003", "2403.00050", "2403.00117"]
    for name in accepted:
        server.put(replace(server.papers[name], comment="NeurIPS 2024 (oral)"))
    before = (many / "papers.yaml").read_text(encoding="utf-8").splitlines()
    assert len(report(sync("--apply", "--json"))["applied"]) == 3
    after = (many / "papers.yaml").read_text(encoding="utf-8").splitlines()
    changed = [number for number, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    assert [accepted.index(name) for n in changed for name in accepted if name in before[n - 1]] == [0, 1, 2]
    assert {after[n].strip() for n in changed} == {"venue: {name: NeurIPS, year: 2024, track: main, status: accepted}"}


class Elsewhere(BaseHTTPRequestHandler):
    """Crossref, OpenReview and Semantic Scholar at once, answering from a table of path to JSON or status."""

    answers: dict[str, Any] = {}  # noqa: RUF012
    asked: list[tuple[str, dict[str, list[str]]]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        self.asked.append((parts.path, parse_qs(parts.query)))
        answer = self.answers.get(parts.path, 404)
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(answer if isinstance(answer, int) else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing on stderr."""


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The table of answers of the other sources, all at one local server."""
    Elsewhere.answers, Elsewhere.asked = {}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as local:
        local.daemon_threads = True
        thread = threading.Thread(target=local.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        for name in ("CROSSREF", "OPENREVIEW", "SEMANTICSCHOLAR"):
            monkeypatch.setenv(f"HFT_{name}_URL", f"http://127.0.0.1:{local.server_address[1]}")
        yield Elsewhere.answers
        local.shutdown()
        thread.join()


ALL = "semanticscholar,openreview,crossref"
S2 = "/graph/v1/paper/batch"


def test_sources_that_agree_make_an_upgrade(project: Path, elsewhere: dict[str, Any], sync: Any, edit: Any) -> None:
    edit('"2310.12345", openreview: null', '"2310.12345", openreview: "ZyXwVuTs98"')
    elsewhere["/notes"] = {"notes": [{"content": {"venue": {"value": "NeurIPS 2024 poster"}}}]}
    paper = {"venue": "Neural Information Processing Systems", "year": 2023, "externalIds": {"DOI": "10.5000/N.1"}}
    elsewhere[S2] = [paper]
    work = {"DOI": "10.5000/n.1", "type": "proceedings-article", "published": {"date-parts": [[2024]]}}
    elsewhere["/works"] = {"message": {"items": [{**work, "container-title": ["NeurIPS"]}]}}
    told = report(sync("--json", "--apply", "--allow-many", sources=ALL))
    assert told["sources"] == dict.fromkeys(["arxiv", *ALL.split(",")], "ok")
    venue = next(each for each in told["applied"] if each["field"] == "venue")
    assert venue["after"] == {"name": "NeurIPS", "year": 2024, "track": "main", "status": "accepted"}
    assert [line.partition(":")[0] for line in venue["because"]] == ["Semantic Scholar", "OpenReview", "Crossref"]
    assert 'doi: "10.5000/n.1"' in (project / "papers.yaml").read_text(encoding="utf-8")
    assert (S2, {"fields": ["externalIds,venue,year,journal"]}) in Elsewhere.asked


def test_what_sources_say_is_shown_as_one_line_of_text(elsewhere: dict[str, Any], sync: Any) -> None:
    elsewhere[S2] = [{"venue": "Neural\n Information\u202e Processing\x1b Systems", "year": 2023}]
    (proposal,) = report(sync("--json", sources="semanticscholar"))["proposals"]
    assert proposal["because"] == ["Semantic Scholar: Neural Information Processing Systems 2023"]


def test_sources_that_disagree_and_one_alone_change_nothing(
    project: Path, elsewhere: dict[str, Any], sync: Any, server: ArxivServer
) -> None:
    before = (project / "papers.yaml").read_bytes()
    elsewhere[S2] = [{"venue": "Neural Information Processing Systems", "year": 2023}]
    told = report(sync("--json", "--apply", sources="semanticscholar"))
    assert "Semantic Scholar alone" in told["proposals"][0]["by_hand"]
    server.put(breaker(journal_ref="TMLR 2024"))
    told = report(sync("--json", "--apply", "--allow-many", sources="semanticscholar"))
    assert "disagree" in told["proposals"][0]["by_hand"]
    assert (project / "papers.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("title", "family", "found"),
    [
        ("A handful of turnips breaks any gardener.", "Żak", True),
        ("A handful of turnips breaks any gardener.", "Smith", False),
        ("A Handful of Carrots Feeds Any Gardener", "Żak", False),
    ],
)
def test_crossref_by_title_needs_title_and_author(
    elsewhere: dict[str, Any], sync: Any, title: str, family: str, found: bool
) -> None:
    work = {"DOI": "10.5000/t.1", "type": "journal-article", "title": [title], "author": [{"family": family}]}
    work |= {"container-title": ["Transactions on Machine Learning Research"], "published": {"date-parts": [[2024, 5]]}}
    elsewhere["/works"] = {"message": {"items": [work]}}
    fields = {each["field"] for each in report(sync("--json", sources="crossref"))["proposals"]}
    assert fields == ({"venue", "ids.doi"} if found else set())


@pytest.mark.parametrize(
    "answer", [500, 429, 403, b"<html>", b'{"message": ', {"message": 3}, {"message": {"items": [{"title": 7}]}}, []]
)
def test_every_source_fails_soft_and_says_so(elsewhere: dict[str, Any], sync: Any, answer: Any) -> None:
    elsewhere["/works"] = elsewhere[S2] = answer
    result = sync("--json", sources=ALL)
    assert result.exit_code == 0, result.stderr
    told = report(result)
    assert told["found"] == 2
    assert told["sources"]["arxiv"] == told["sources"]["openreview"] == "ok"
    assert told["sources"]["crossref"].startswith("failed: ") or answer == []
    assert told["sources"]["semanticscholar"].startswith("failed: ")


def test_wrong_usage(sync: Any, hft: Any) -> None:
    assert sync(sources="openrevew").exit_code == 2
    result = hft("sync", "--arxiv-url", "https://export.arxiv.org/api/query", "--delay", "1")
    assert (result.exit_code, "between requests" in result.stderr) == (2, True)
