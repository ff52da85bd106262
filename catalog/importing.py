"""What `hft import` does: the papers of a file into papers.yaml, each once, nothing curated overwritten."""

import datetime
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from catalog import contribute, dedupe, editing, entries, excluded, lint, merging, schema
from catalog.candidates import Candidate
from catalog.importers.reading import Reading
from catalog.papers import FILE, Catalogue, Document, Place
from catalog.problems import Problem, RefusedError, did_you_mean

IDS = ("arxiv", "openreview", "doi", "acl")


@dataclass
class Report:
    """What became of every paper of a file; `origins` are its lines, `filled` what an entry gained."""

    added: list[dict[str, Any]] = field(default_factory=list)
    merged: list[dict[str, Any]] = field(default_factory=list)
    duplicates: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report as a JSON object; a warning says of itself that it is one."""
        problems = [{**problem.as_dict(), "warning": problem.warning} for problem in self.problems]
        return {"added": self.added, "merged": self.merged, "duplicates": self.duplicates, "problems": problems}


@dataclass(frozen=True)
class Proposal:
    """An entry that is new (`fills` empty) or gains something, as it would stand in the catalogue."""

    candidate: Candidate
    origins: list[str]
    entry: dict[str, Any]
    paper: schema.Paper
    why: str = ""
    fills: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Proposed(Document):
    """A document in which some entries are proposals: their problems lie where they come from."""

    origins: dict[int, tuple[str, str]] = field(default_factory=dict)

    def problem(self, code: str, place: Place, message: str, fix: str, *, warning: bool = False) -> Problem:
        """A problem at a place of the file, or of the file that was imported."""
        if len(place) > 1 and isinstance(place[1], int) and place[1] in self.origins:
            where, slug = self.origins[place[1]]
            return Problem(code, where, slug, message, fix, warning)
        return Problem(code, FILE, "", message, fix, warning)


def run(path: Path, reading: Reading, source: str, today: datetime.date, *, dry: bool = False) -> Report:
    """Bring what was read into papers.yaml, in one step and only where it fits; with `dry` only report.

    `source` stands in the curation of new entries. RefusedError when papers.yaml has problems already.
    """
    catalogue = lint.sound(path)
    report = Report(problems=list(reading.problems))
    proposals = list(_proposals(catalogue, reading.candidates, source, today, report))
    proposals = _sound(catalogue, proposals, report)
    new = [each for each in proposals if not each.fills]
    gains = [each for each in proposals if each.fills]
    report.added = [_line(each) | {"title": each.paper.title, "unsure": each.paper.unsure} for each in new]
    report.merged = [_line(each) | {"why": each.why, "filled": each.fills} for each in gains]
    report.problems.sort(key=_place)
    if proposals and not dry:
        changes = {each.paper.id: _change(each.fills) for each in gains}
        editing.save(path, editing.revise(catalogue.document, [each.entry for each in new], changes))
    return report


def _line(proposal: Proposal) -> dict[str, Any]:
    return {"id": proposal.paper.id, "origins": proposal.origins}


def _place(problem: Problem) -> tuple[str, int, str]:
    name, _, line = problem.where.rpartition(":")
    return (name, int(line), problem.code) if line.isdigit() else (problem.where, 0, problem.code)


def _proposals(
    catalogue: Catalogue, found: list[Candidate], source: str, today: datetime.date, report: Report
) -> Iterator[Proposal]:
    """New and gaining entries; duplicates and problems go to the report."""
    known = dedupe.Known.of(catalogue.papers)
    papers = {paper.id: paper for paper in catalogue.papers}
    left_out = excluded.read(catalogue.document.path.parent)
    taken = set(papers)
    nicknames = {paper.nickname.casefold() for paper in catalogue.papers if paper.nickname}
    for group in dedupe.groups(found):
        candidate, problems = merging.merged(group)
        report.problems += problems
        candidate = _known_tags(candidate, catalogue, report)
        origins = sorted((each.origin for each in group), key=lambda each: int(each.rpartition(":")[2]))
        matches = known.matches(candidate)
        if matches:
            proposal = _gain(candidate, origins, matches, known, papers, report)
        else:
            proposal = _new(catalogue, left_out, candidate, origins, taken, nicknames, source, today, report)
        if proposal:
            taken.add(proposal.paper.id)
            nicknames |= {proposal.paper.nickname.casefold()} if proposal.paper.nickname else set()
            yield proposal


def _known_tags(candidate: Candidate, catalogue: Catalogue, report: Report) -> Candidate:
    known = catalogue.head.tags if catalogue.head else {}
    for tag in candidate.tags:
        if tag not in known:
            message, fix = f"unknown tag '{tag}'; left out", did_you_mean(tag, known)
            report.problems.append(Problem("unknown-tag", candidate.origin, "", message, fix, warning=True))
    return replace(candidate, tags=tuple(tag for tag in candidate.tags if tag in known))


def _new(
    catalogue: Catalogue,
    left_out: list[excluded.Excluded],
    candidate: Candidate,
    origins: list[str],
    taken: set[str],
    nicknames: set[str],
    source: str,
    today: datetime.date,
    report: Report,
) -> Proposal | None:
    try:
        contribute.refuse_excluded(left_out, candidate)
    except RefusedError as refused:
        report.problems += [replace(problem, where=candidate.origin, warning=True) for problem in refused.problems]
        return None
    if missing := _missing(candidate, catalogue.head.venues if catalogue.head else ()):
        report.problems.append(missing)
        return None
    try:
        entry = _whole(candidate) or entries.draft(replace(candidate, origin=source), taken, today).entry
    except RefusedError as refused:
        report.problems += [replace(problem, where=candidate.origin) for problem in refused.problems]
        return None
    if entry.get("nickname", "").casefold() in nicknames:
        del entry["nickname"]
    if unsure := [*entry.get("unsure", ()), *(key for key in candidate.unsure if key not in entry.get("unsure", ()))]:
        entry["unsure"] = unsure
    guessed = [key for key in unsure if key in ("type", "stage")]
    if guessed:
        told = ", ".join(f"{key} {entry[key]}" for key in guessed)
        fix = "correct it in papers.yaml, or import with --type and --stage"
        report.problems.append(Problem("guessed", candidate.origin, entry["id"], f"{told} is a guess", fix, True))
    try:
        return Proposal(candidate, origins, entry, schema.Paper.model_validate(entry))
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            where = ".".join(map(str, detail["loc"]))
            message, fix = f"{where}: {detail['msg']}, found {detail['input']!r}", "correct the line"
            report.problems.append(Problem("schema", candidate.origin, entry["id"], message, fix))
    return None


def _whole(candidate: Candidate) -> dict[str, Any] | None:
    """The entry as an export of a catalogue has it, without tags that are not known here."""
    if candidate.entry is None:
        return None
    paper = candidate.entry
    told = paper.model_dump(exclude_defaults=True)
    told |= {"authors": paper.authors, "ids": paper.ids.model_dump(), "venue": paper.venue.model_dump()}
    tags = [tag for tag in paper.tags if tag in candidate.tags]
    return {key: value for key, value in {**told, "tags": tags}.items() if value or key == "authors"}


def _missing(candidate: Candidate, known: Collection[str]) -> Problem | None:
    """What an entry cannot do without and the file does not say; `known` are the names of venues."""
    if candidate.first_public is None:
        fix = "give the day of the first public version, or the arXiv id"
        return Problem("no-date", candidate.origin, "", f"no date for '{candidate.title}'", fix)
    if candidate.venue and entries.publication(candidate, candidate.first_public) is None:
        fix = f"{did_you_mean(candidate.venue, known)} A new one goes to `venues` and catalog/venues.py."
        return Problem("unknown-venue", candidate.origin, "", f"unknown venue '{candidate.venue}'", fix)
    if not candidate.venue and not candidate.ids:
        fix = "add the address of the paper, or its venue"
        return Problem("no-venue", candidate.origin, "", f"neither id nor venue for '{candidate.title}'", fix)
    return None


def _gain(
    candidate: Candidate,
    origins: list[str],
    matches: list[dedupe.Match],
    known: dedupe.Known,
    papers: dict[str, schema.Paper],
    report: Report,
) -> Proposal | None:
    """What the entry of a known paper gains; None, and a line of the report, when that is nothing."""
    named = [match.id for match in matches if match.by_id]
    if len(named) > 1:
        message = f"'{candidate.title}' has ids of two entries: {' and '.join(named)}"
        fix = "correct the ids, or merge the two entries if they are one paper"
        report.problems.append(Problem("two-entries", candidate.origin, "", message, fix))
        return None
    match = matches[0]
    paper, held = papers[match.id], known.papers[match.id]
    if wrong := list(merging.contradictions(candidate, held, f"entry '{match.id}'")):
        report.problems += [replace(problem, paper=match.id) for problem in wrong]
        return None
    differ = merging.differences(candidate, held, f"entry '{match.id}'")
    fills = {} if merging.retitled(candidate, held) else _fills(candidate, paper)
    report.problems += [each for each in differ if each.message.split()[0] not in fills]
    if not fills:
        report.duplicates.append({"id": match.id, "origins": origins, "why": match.why})
        return None
    entry = paper.model_dump()
    for place, value in fills.items():
        _set(entry, place, value)
    entry["unsure"] = [key for key in paper.unsure if key not in fills]
    return Proposal(candidate, origins, entry, schema.Paper.model_validate(entry), match.why, fills)


def _fills(candidate: Candidate, paper: schema.Paper) -> dict[str, Any]:
    """What a candidate knows and the entry does not, or only guesses, by dotted key."""
    given = {f"ids.{kind}": value for kind, value in candidate.ids.items() if kind not in paper.ids.given()}
    links = paper.links.model_dump(exclude_none=True)
    given |= {f"links.{kind}": link for kind, link in candidate.links.items() if kind not in links and kind != "paper"}
    if candidate.authors and not paper.authors:
        given["authors"] = list(candidate.authors)  # type: ignore[assignment]
    if candidate.type and "type" in paper.unsure and "type" not in candidate.unsure:
        given["type"] = candidate.type
        if candidate.type == "defense" and candidate.stage:
            given["stage"] = candidate.stage
    return given


def _set(entry: dict[str, Any], place: str, value: Any) -> None:
    *above, key = place.split(".")
    for step in above:
        if entry.get(step) is None:
            entry[step] = type(entry)()  # in the file a mapping of ruamel, which stands on one line
        entry = entry[step]
    entry[key] = value


def _change(fills: dict[str, Any]) -> Callable[[CommentedMap], None]:
    """The change of an entry in the file that fills in these keys."""

    def change(entry: CommentedMap) -> None:
        for place, value in fills.items():
            written = DoubleQuotedScalarString(value) if place.startswith("ids.") else value
            _set(entry, place, CommentedSeq(value) if isinstance(value, list) else written)
        if unsure := [key for key in entry.get("unsure", ()) if key in fills]:
            for key in unsure:
                entry["unsure"].remove(key)
            if not entry["unsure"]:
                del entry["unsure"]
        if entry.get("type") != "defense":
            entry.pop("stage", None)

    return change


def _sound(catalogue: Catalogue, proposals: list[Proposal], report: Report) -> list[Proposal]:
    """The proposals with which the whole catalogue has no problem; those of the others go to the report."""
    while True:
        problems = list(_problems(catalogue, proposals))
        bad = {problem.where for problem in problems if not problem.warning}
        if not bad:
            report.problems += problems
            return proposals
        report.problems += [problem for problem in problems if problem.where in bad and not problem.warning]
        proposals = [each for each in proposals if each.candidate.origin not in bad]


def _problems(catalogue: Catalogue, proposals: list[Proposal]) -> Iterator[Problem]:
    """What `hft check` says of the proposed entries."""
    papers, places = list(catalogue.papers), list(catalogue.places)
    rows = {paper.id: row for row, paper in enumerate(papers)}
    origins: dict[int, tuple[str, str]] = {}
    for number, proposal in enumerate(proposals, 1 + max(places, default=-1)):
        if proposal.fills:
            row = rows[proposal.paper.id]
            papers[row] = proposal.paper
        else:
            row = len(papers)
            papers.append(proposal.paper)
            places.append(number)
        origins[places[row]] = (proposal.candidate.origin, proposal.paper.id)
    document = _Proposed(catalogue.document.path, catalogue.document.text, origins=origins)
    proposed = Catalogue(document, catalogue.head, papers, places)
    found = (problem for rule in lint.RULES for problem in rule(proposed))
    yield from (problem for problem in found if problem.where != FILE and problem.code != "unsure")
