"""Refresh what is known of the catalogue's papers: ask, compare, propose, and write all of it or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy.exc import DatabaseError

from catalog import atomic, changes, db, editing, enrich, lint, papers, proposals, snapshot
from catalog.changes import Change
from catalog.problems import Problem, RefusedError
from catalog.proposals import Evidence, Proposal
from catalog.schema import Paper
from catalog.snapshot import Facts, Snapshot
from catalog.sources import arxiv
from catalog.sources.arxiv import ArxivPaper, Fetched, Server
from catalog.sources.http import Tell, silent

PARTIAL = Path("build", "sync-partial.json")
STALE = timedelta(hours=24)
GATE = 0.1
"""Share of the entries that a sync may change without being told to."""


@dataclass(frozen=True)
class Options:
    """What to ask and what to do with the answers; `only` holds slugs, None for all papers."""

    server: Server
    places: enrich.Places = field(default_factory=enrich.Places)
    sources: tuple[str, ...] = enrich.SOURCES
    only: frozenset[str] | None = None
    apply: bool = False
    titles: bool = False
    dry_run: bool = False
    allow_many: bool = False


@dataclass
class Report:
    """What a sync found and did; `stopped` says why it wrote nothing, when that is a fault."""

    entries: int
    asked: int = 0
    found: int = 0
    resumed: int = 0
    first_seen: int = 0
    changes: list[Change] = field(default_factory=list)
    proposals: list[Proposal] = field(default_factory=list)
    applied: list[Proposal] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    changed_entries: int = 0
    stopped: str | None = None
    written: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def run(root: Path, options: Options, tell: Tell = silent) -> Report:
    """One sync of a project.

    Snapshot, abstracts, papers.yaml and database change together at the end, or not at all; answers got before a
    failure are kept for a day, and the next run asks only for the rest. RefusedError when papers.yaml is faulty.
    """
    catalogue = lint.sound(root / papers.FILE)
    assert catalogue.head is not None, "a sound catalogue has a head"
    report = Report(len(catalogue.papers))
    known = snapshot.load(root)
    chosen = [paper for paper in catalogue.papers if options.only is None or paper.id in options.only]
    fetched = _fetch(root, [paper.ids.arxiv for paper in chosen if paper.ids.arxiv], options.server, report, tell)
    report.sources["arxiv"] = f"failed: {fetched.trouble}" if fetched.trouble else "ok"
    if fetched.trouble:
        kept = f"; {len(fetched.found)} answers are kept, so run it again" if fetched.found else ""
        report.stopped = f"{fetched.trouble}; nothing was changed{kept}"
        return report
    now = {each: Facts.of(paper) for each, paper in fetched.found.items()}
    report.changes, new = _compared(chosen, known, now, fetched, report)
    evidence = {paper.id: _evidence(paper, known, new, now) for paper in chosen}
    asking = enrich.Asking(evidence, options.places, tell, report.sources)
    asking.ask(chosen, options.sources)
    dois = {paper.ids.doi: paper.id for paper in catalogue.papers if paper.ids.doi}
    for paper in chosen:
        report.proposals += proposals.propose(paper, evidence[paper.id], catalogue.head, dois)
    arxiv_ids = {paper.id: paper.ids.arxiv for paper in chosen}
    report.changes += [
        Change("published", each.paper, arxiv_ids.get(each.paper) or "", each.before, each.after)
        for each in report.proposals
        if each.field == "venue"
    ]
    text = catalogue.document.text
    applied: list[Proposal] = []
    if options.apply:
        text, applied = proposals.apply(catalogue.document, report.proposals, titles=options.titles)
    touched = {change.paper for change in report.changes if change.kind != "published"}
    report.changed_entries = len(touched | {each.paper for each in applied})
    if report.changed_entries > GATE * report.entries and not options.allow_many:
        report.stopped = (
            f"{report.changed_entries} of {report.entries} entries would change, more than {GATE:.0%} in one sync; "
            "nothing was changed; look at the changes, then accept them with --allow-many"
        )
    elif not options.dry_run:
        abstracts = snapshot.abstracts(root) | {each: paper.abstract for each, paper in fetched.found.items()}
        report.applied = applied
        report.written = _commit(root, new, abstracts, text, catalogue.document.text)
    (root / PARTIAL).unlink(missing_ok=True)
    return report


def _compared(
    chosen: Iterable[Paper], known: Snapshot, now: Mapping[str, Facts], fetched: Fetched, report: Report
) -> tuple[list[Change], Snapshot]:
    """Changes since the last sync, and the snapshot that follows it: no paper is ever dropped from it."""
    found: list[Change] = []
    facts, missing = dict(known.papers), set(known.missing)
    for paper in chosen:
        name = paper.ids.arxiv or ""
        before = known.papers.get(name)
        if name in now and before and now[name].version < before.version:
            report.failed[name] = f"arXiv gives version {now[name].version} after version {before.version}; kept that"
        elif name in now:
            report.first_seen += before is None
            found += changes.compare(paper, before, now[name])
            facts[name] = now[name]
            if name in missing:
                missing.remove(name)
                found.append(Change("returned", paper.id, name, None, now[name].version))
        elif name in fetched.missing and name not in missing:
            missing.add(name)
            found.append(Change("missing", paper.id, name, before.version if before else None, None))
    return found, Snapshot(papers=facts, missing=sorted(missing))


def _evidence(paper: Paper, known: Snapshot, new: Snapshot, now: Mapping[str, Facts]) -> Evidence:
    name = paper.ids.arxiv or ""
    return Evidence(known.papers.get(name), new.papers[name] if name in now else None)


def _fetch(root: Path, ids: list[str], server: Server, report: Report, tell: Tell) -> Fetched:
    """All answers: those a run broken off kept, and the rest from arXiv, kept after every batch."""
    kept = _kept(root, server)
    kept = {each: kept[each] for each in ids if each in kept}
    report.asked, report.resumed = len(ids), len(kept)
    if kept:
        tell(f"arXiv: {len(kept)} of {len(ids)} papers are known from the run that was broken off")

    def keep(so_far: Fetched) -> None:
        document = {"url": server.url, "at": datetime.now(UTC), "found": kept | so_far.found}
        (root / PARTIAL).parent.mkdir(exist_ok=True)
        atomic.write(root / PARTIAL, TypeAdapter(dict[str, Any]).dump_json(document))

    fetched = arxiv.fetch([each for each in ids if each not in kept], server, tell=tell, on_batch=keep)
    fetched.found = kept | fetched.found
    report.found, report.failed = len(fetched.found), dict(fetched.failed)
    return fetched


def _kept(root: Path, server: Server) -> dict[str, ArxivPaper]:
    """Answers of a run that was broken off within the last day at the same server; a damaged file holds none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, ValidationError):
        document = json.loads((root / PARTIAL).read_bytes())
        if document["url"] == server.url and datetime.now(UTC) - datetime.fromisoformat(document["at"]) < STALE:
            return TypeAdapter(dict[str, ArxivPaper]).validate_python(document["found"])
    return {}


def _commit(root: Path, new: Snapshot, abstracts: Mapping[str, str], text: str, before: str) -> list[str]:
    """Write what differs, the database built from it among it, in one step; returns the files' names."""
    wanted = {
        root / snapshot.ABSTRACTS: snapshot.abstracts_text(abstracts),
        **({root / papers.FILE: text} if text != before else {}),
        root / snapshot.FILE: new.text(),
    }
    database = root / db.FILE_NAME
    pending = {path: content for path, content in wanted.items() if _old(path) != content}
    staged: dict[Path, Path] = {}
    try:
        for path, content in pending.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            staged[path] = atomic.stage(path, editing.encoded(path, content))
        if pending or not db.is_current(database, root):
            staged[database] = database.with_name(f".{database.name}.sync")
            db.build(root, staged[database], pending)
        atomic.replace_all(staged)
    except DatabaseError as error:
        fix = "make room on the disk and run it again; nothing was changed"
        raise RefusedError([Problem("database", str(db.FILE_NAME), "", str(error.orig), fix)]) from error
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)
    return [str(path.relative_to(root)) for path in staged]


def _old(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
