"""What `hft discover` does: ask arXiv for what is new, drop what is known, rank the rest, queue it for a person."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from catalog import atomic, excluded, lint, papers, pending, snapshot
from catalog.dedupe import groups
from catalog.expressions import Expressions
from catalog.papers import Catalogue
from catalog.pending import Decided, Pending, Queue
from catalog.problems import Problem, RefusedError
from catalog.relevance import Evaluation, Judge, Reader, Text, evaluate
from catalog.sources import arxiv
from catalog.sources.arxiv import ArxivPaper, Server
from catalog.sources.http import SourceError, Tell, silent

LIMIT = 2000
"""Papers of one expression above which the search is too wide to be read."""


@dataclass
class Report:
    """What one search found and became of it; `hits` by expression, the rest by arXiv id."""

    since: datetime.date
    version: int
    hits: dict[str, int] = field(default_factory=dict)
    found: int = 0
    known: dict[str, str] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)
    withdrawn: list[str] = field(default_factory=list)
    twins: dict[str, str] = field(default_factory=dict)
    again: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    decided: dict[str, str] = field(default_factory=dict)
    queue: Queue = field(default_factory=Queue)
    evaluation: Evaluation | None = None
    notes: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        listed = [{"arxiv": name, **each.model_dump(mode="json")} for name, each in self.queue.ranked()]
        rest = {name: value for name, value in vars(self).items() if name not in ("queue", "since", "evaluation")}
        told = self.evaluation.as_dict() if self.evaluation else None
        return {"since": self.since.isoformat(), **rest, "pending": listed, "evaluation": told}


def evaluation(root: Path) -> Evaluation:
    """How well the models do on what was decided so far; RefusedError when papers.yaml is faulty."""
    catalogue = lint.sound(root / papers.FILE)
    return evaluate(Reader(catalogue.papers, excluded.read(root), snapshot.abstracts(root)))


def run(
    root: Path,
    since: datetime.date,
    server: Server,
    expressions: Expressions,
    today: datetime.date,
    *,
    dry: bool = False,
    tell: Tell = silent,
) -> Report:
    """One search for papers first submitted on `since` or later.

    The queue and the abstracts are written together once every expression is answered whole; RefusedError otherwise,
    and nothing is written. What is known, decided on or withdrawn is dropped; candidates of earlier runs stay, and
    are ranked anew.
    """
    catalogue, left_out, queue = lint.sound(root / papers.FILE), excluded.read(root), pending.load(root)
    report = Report(since, expressions.version)
    hits = _search(expressions, since, server, report, tell)
    fresh = _sift(hits, Decided(catalogue, left_out), queue, report, today)
    wanted = {*fresh.papers, *report.known, *report.excluded}
    abstracts = snapshot.abstracts(root) | {name: hits[name][0].abstract for name in hits.keys() & wanted}
    lacking = _lacking(catalogue, left_out, fresh, abstracts)
    if lacking:
        answer = arxiv.fetch(lacking, server, tell=tell)
        abstracts |= {name: paper.abstract for name, paper in answer.found.items()}
        if answer.trouble:
            report.notes.append(f"not every abstract of decided papers could be had: {answer.trouble}")
    reader = Reader(catalogue.papers, left_out, abstracts)
    report.queue = _ranked(fresh, Judge(reader), report)
    report.evaluation = evaluate(reader)
    if not dry:
        texts = {snapshot.ABSTRACTS: snapshot.abstracts_text(abstracts), pending.FILE: report.queue.text()}
        report.written = _write(root, texts)
    return report


def _search(
    expressions: Expressions, since: datetime.date, server: Server, report: Report, tell: Tell
) -> dict[str, tuple[ArxivPaper, list[str]]]:
    """Every paper found, with the expressions that found it."""
    hits: dict[str, tuple[ArxivPaper, list[str]]] = {}
    for name, query in expressions.queries():
        try:
            answer = list(arxiv.search(query, since, server, limit=LIMIT + 1, tell=tell))
        except SourceError as error:
            message, fix = f"{name}: {error}", "nothing was written; run it again later"
            raise RefusedError([Problem("arxiv", server.url, "", message, fix)]) from error
        if len(answer) > LIMIT:
            message, fix = f"{name} finds more than {LIMIT} papers since {since}", "give a later --since, or narrow it"
            raise RefusedError([Problem("too-many", "catalog/discovery.yaml", "", message, fix)])
        tell(f"arXiv: {name}: {len(answer)} papers")
        report.hits[name] = len(answer)
        for paper in answer:
            hits.setdefault(paper.id, (paper, []))[1].append(name)
    report.found = len(hits)
    return hits


def _sift(
    hits: dict[str, tuple[ArxivPaper, list[str]]], decided: Decided, queue: Queue, report: Report, today: datetime.date
) -> Queue:
    """The queue without what was decided on meanwhile, with what is new; the report says what became of each hit."""
    kept: dict[str, Pending] = {}
    for name, each in queue.papers.items():
        if said := decided.about(each.candidate(name)):
            report.decided[name] = said[1]
        elif name in hits and hits[name][0].withdrawn:
            report.decided[name] = "withdrawn"
        else:
            kept[name] = each
    for name, (paper, found_by) in sorted(hits.items()):
        candidate = Pending.of(paper, sorted(found_by), today)
        if paper.withdrawn:
            report.withdrawn.append(name)
        elif said := decided.about(candidate.candidate(name)):
            (report.known if said[0] == "known" else report.excluded)[name] = said[1]
        elif before := kept.get(name):
            report.again.append(name)
            kept[name] = candidate.model_copy(
                update={
                    "found": before.found,
                    "found_by": sorted({*before.found_by, *found_by}),
                    **{key: getattr(before, key) for key in ("score", "type", "stage")},
                }
            )
        else:
            report.new.append(name)
            kept[name] = candidate
    return _without_twins(kept, report)


def _without_twins(kept: dict[str, Pending], report: Report) -> Queue:
    """One candidate a paper: of several arXiv ids, one queued before, else the earliest."""
    for group in groups(each.candidate(name) for name, each in kept.items()):
        names = sorted((each.ids["arxiv"] for each in group), key=lambda name: name in report.new)
        for name in names[1:]:
            if name in report.new:
                report.new.remove(name)
                report.twins[name] = names[0]
                del kept[name]
    return Queue(papers=kept)


def _lacking(
    catalogue: Catalogue, left_out: Iterable[excluded.Excluded], queue: Queue, abstracts: dict[str, str]
) -> list[str]:
    """The arXiv ids of papers decided or pending whose abstract is not on this machine."""
    decided = [*(each.ids.arxiv for each in left_out), *(paper.ids.arxiv for paper in catalogue.papers)]
    return [name for name in [*queue.papers, *decided] if name and name not in abstracts]


def _ranked(queue: Queue, judge: Judge, report: Report) -> Queue:
    """The queue with what the models make of each candidate; one they cannot read keeps what was said before."""
    if not judge.ranks:
        report.notes.append("not ranked: too few papers in the catalogue or in excluded.yaml to learn from")
    papers = {}
    for name, each in queue.papers.items():
        opinion = judge.opinion(Text(each.title, name))
        papers[name] = each.model_copy(update=asdict(opinion)) if opinion else each
    return Queue(papers=papers)


def _write(root: Path, texts: dict[Path, str]) -> list[str]:
    """Write the files that change, all or none; an empty queue makes no file."""
    staged: dict[Path, Path] = {}
    empty = {pending.FILE: Queue().text(), snapshot.ABSTRACTS: snapshot.abstracts_text({})}
    try:
        for name, text in texts.items():
            path = root / name
            if (path.read_text(encoding="utf-8") if path.is_file() else empty[name]) != text:
                path.parent.mkdir(parents=True, exist_ok=True)
                staged[path] = atomic.stage(path, text.encode())
        atomic.replace_all(staged)
    finally:
        for temporary in staged.values():
            temporary.unlink(missing_ok=True)
    return [str(path.relative_to(root)) for path in staged]
