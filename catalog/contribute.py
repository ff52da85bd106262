"""What `hft add` does: one entry more in papers.yaml, unless the paper is there already."""

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from catalog import dedupe, editing, entries, excluded, ids, lint, schema, snapshot
from catalog.candidates import Candidate
from catalog.papers import FILE, Catalogue, Document, read, validate
from catalog.problems import Problem, RefusedError
from catalog.sources.arxiv import Fetched, Server, fetch
from catalog.venues import normalise

GUESSED_TITLE = "title"


@dataclass(frozen=True)
class Outcome:
    """What became of a paper: `where` is file:line, `known` says why it was there already, None for a new entry.

    `unsure` are the keys that are guesses, `notes` what a user should know, `text` the lines of the entry.
    """

    id: str
    where: str
    known: str | None
    unsure: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    text: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "added": None if self.known else self.id,
            "known": self.id if self.known else None,
            "why": self.known,
            "where": self.where,
            "unsure": list(self.unsure),
            "notes": list(self.notes),
        }


def identify(text: str) -> ids.PaperId:
    """The outside id that an id, address or DOI stands for; ValueError when it is none."""
    found = ids.PaperId.parse(text)
    if found.kind == "slug":
        raise ValueError(f"'{text}' is no arXiv id, DOI, OpenReview id, ACL id, or address of one")
    return found


def add(path: Path, paper: Candidate, server: Server | None, today: datetime.date) -> Outcome:
    """Put a paper into the catalogue and ask arXiv, unless `server` is None, for what is not given.

    What is given goes before what arXiv says. An entry whose title was not known yet is completed. RefusedError
    when too little is known, when arXiv does not know the id, or when the file has problems already.
    """
    document = read(path)
    catalogue, problems = validate(document)
    if problems or catalogue.head is None:
        raise RefusedError(problems)
    known = dedupe.Known.of(catalogue.papers)
    match = dedupe.find(paper, known) if paper.ids else None
    waiting = match is not None and _is_waiting(catalogue, match.id)
    if match and match.by_id and not waiting:
        return _there(catalogue, match, paper)
    paper, notes = _asked(paper, server, path.parent)
    match = dedupe.find(paper, known)
    if match and not (waiting and paper.title):
        return _there(catalogue, match, paper, notes)
    refuse_excluded(excluded.read(path.parent), paper)
    if match:
        document = editing.without(document, match.id)
    taken = {each.id for each in catalogue.papers} - {match.id if match else ""}
    drafted = entries.draft(paper, taken, today)
    new = editing.insert(document, [drafted.entry])
    refuse_unsound(catalogue.head, drafted.entry)
    editing.save(path, new)
    text = editing.text(drafted.entry)
    line = new.splitlines().index(text.partition("\n")[0]) + 1
    return Outcome(drafted.entry["id"], f"{FILE}:{line}", None, drafted.unsure, notes, text)


def refuse_excluded(left_out: Sequence[excluded.Excluded], paper: Candidate) -> None:
    """RefusedError when the paper was looked at and left out before: a decision is a precedent."""
    known = {str(n): replace(each.candidate, date=None) for n, each in enumerate(left_out)}
    if match := dedupe.find(paper, dedupe.Known(known)):
        entry = left_out[int(match.id)]
        message = f"'{entry.title}' was left out on {entry.decided} by the rule {entry.rule} of {excluded.SCOPE}"
        fix = f"if that no longer holds, say why and remove it from {excluded.FILE} in the same change"
        raise RefusedError([Problem("excluded", excluded.FILE, "", message, fix)])


def refuse_unsound(head: schema.Head, entry: dict[str, Any]) -> None:
    """RefusedError with every problem `hft check` would have with an entry, those with other entries aside."""
    text = f"papers:\n{editing.text(entry)}\n"
    alone, problems = validate(Document(Path(FILE), text))
    with_head = Catalogue(alone.document, head, alone.papers, alone.places)
    found = [problem for rule in lint.RULES for problem in rule(with_head)]
    wrong = [each for each in [*problems, *found] if each.paper and not each.warning]
    if wrong:
        raise RefusedError([replace(problem, where=FILE) for problem in wrong])


def _is_waiting(catalogue: Catalogue, slug: str) -> bool:
    """Whether an entry still has a placeholder for its title."""
    entry = next(paper for paper in catalogue.papers if paper.id == slug)
    return GUESSED_TITLE in entry.unsure


def _there(catalogue: Catalogue, match: dedupe.Match, paper: Candidate, notes: Iterable[str] = ()) -> Outcome:
    """The entry a paper has, and the ids it does not say yet."""
    index, entry = next((n, each) for n, each in catalogue.numbered() if each.id == match.id)
    absent = {kind: value for kind, value in paper.ids.items() if kind not in entry.ids.given()}
    more = [f'its entry has no {kind} id yet; add {kind}: "{value}" to its ids' for kind, value in absent.items()]
    where = f"{FILE}:{catalogue.document.line(('papers', index, 'id'))}"
    return Outcome(match.id, where, match.why, tuple(entry.unsure), (*notes, *more))


def _asked(paper: Candidate, server: Server | None, root: Path) -> tuple[Candidate, tuple[str, ...]]:
    """The paper with what arXiv says of it, or said when the snapshot was made, and what a user should know."""
    arxiv = paper.ids.get("arxiv")
    if arxiv is None:
        return paper, ()
    answer = fetch([arxiv], server) if server else Fetched()
    if arxiv in answer.missing:
        message = f"arXiv does not know {arxiv}"
        raise RefusedError([Problem("unknown-id", FILE, "", message, "look the id up, or add --offline to insist")])
    silence = answer.trouble or answer.failed.get(arxiv)
    notes = (f"arXiv gave no answer ({silence})",) if silence else ()
    facts = answer.found.get(arxiv) or snapshot.load(root).papers.get(arxiv)
    if facts is None:
        return paper, notes
    doi: dict[ids.Kind, str] = {"doi": facts.doi.lower()} if facts.doi and "doi" not in paper.ids else {}
    told = replace(
        paper,
        title=paper.title or facts.title,
        authors=paper.authors or tuple(facts.authors),
        date=paper.date or facts.published,
        ids={**paper.ids, **doi},
        venue=paper.venue or published(facts.journal_ref, facts.comment, facts.published),
    )
    return told, (*notes, "arXiv says it is withdrawn") if facts.withdrawn else notes


def published(journal: str | None, comment: str | None, date: datetime.date) -> str | None:
    """The text that names a venue, of the two places where arXiv's authors name one."""
    return next((text for text in (journal, comment) if text and normalise(text, date)), None)
