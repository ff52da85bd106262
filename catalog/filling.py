"""What stands in the database: the rows of every table from catalogue, arXiv and run records."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlmodel import SQLModel

from catalog import excluded, schema, snapshot, tables
from catalog.papers import Catalogue
from catalog.taxonomy import BASELINES, Status
from reproduce.record import Record

Row = dict[str, Any]
Layer = tuple[type[SQLModel], Iterable[Row]]
"""A table and rows of it; rows are made as they are asked for."""


def catalogue_rows(catalogue: Catalogue, modules: Iterable[str], records: list[Record]) -> Iterator[Layer]:
    """The papers and all that hangs on them, such that every foreign key points to an earlier row."""
    assert catalogue.head is not None, "a sound catalogue has a head"
    papers = catalogue.papers
    known = set(modules)
    recorded = {entry["spec"]["paper"] for entry in records if entry["status"] == "ok"}
    names = dict.fromkeys(author for paper in papers for author in paper.authors)
    numbers = {name: number for number, name in enumerate(names, 1)}
    together = sorted({entry["spec"]["paper"] for entry in records if "+" in entry["spec"]["paper"]})
    yield tables.Venue, [{"name": name, **venue.model_dump()} for name, venue in catalogue.head.venues.items()]
    yield tables.Tag, [{"name": name, "meaning": meaning} for name, meaning in catalogue.head.tags.items()]
    yield tables.Paper, (_paper(paper, status_of(paper, known, recorded)) for paper in papers)
    yield tables.Author, ({"id": number, "name": name} for name, number in numbers.items())
    yield tables.Authorship, (row for paper in papers for row in _authorships(paper, numbers))
    yield tables.Tagging, ({"paper": paper.id, "tag": tag} for paper in papers for tag in paper.tags)
    yield tables.Link, (row for paper in papers for row in _links(paper))
    yield tables.Claim, (row for paper in papers for row in _claims(paper))
    yield tables.Reported, (row for paper in papers for row in _reported(paper))
    yield tables.Difference, (row for paper in papers for row in _differences(paper))
    yield tables.Subject, ({"slug": paper.id, "paper": paper.id, "meaning": paper.title} for paper in papers)
    yield tables.Subject, [{"slug": slug, "paper": None, "meaning": meaning} for slug, meaning in BASELINES.items()]
    meaning = "defenses deployed together"
    yield tables.Subject, [{"slug": slug, "paper": None, "meaning": meaning} for slug in together]


def excluded_rows(entries: Iterable[excluded.Excluded]) -> Iterator[Layer]:
    """The candidates that were left out."""
    kept = {"title", "decision", "rule", "why", "decided"}
    rows = ({**one.model_dump(include=kept), **one.ids.model_dump(), "date": str(one.date)} for one in entries)
    yield tables.Excluded, rows


def arxiv_rows(
    papers: Iterable[schema.Paper], said: snapshot.Snapshot, abstracts: Mapping[str, str]
) -> Iterator[Layer]:
    """What arXiv says of the papers it was asked for."""
    pairs = ((paper.id, paper.ids.arxiv or "") for paper in papers)
    known = [(slug, arxiv, said.papers[arxiv]) for slug, arxiv in pairs if arxiv in said.papers]
    left = {"authors", "categories"}
    yield (
        tables.Preprint,
        [
            {"paper": slug, "abstract": abstracts.get(arxiv), **facts.model_dump(exclude=left)}
            for slug, arxiv, facts in known
        ],
    )
    yield (
        tables.Category,
        [
            {"paper": slug, "position": position, "name": name}
            for slug, _, facts in known
            for position, name in enumerate(facts.categories, 1)
        ],
    )


def record_rows(records: list[Record]) -> Iterator[Layer]:
    """The runs, what they measured after and before fine-tuning, and what studies found."""
    numbered = list(enumerate(records, 1))
    yield tables.Run, (_run(number, entry) for number, entry in numbered)
    yield tables.Outcome, (row for number, entry in numbered for row in _outcomes(number, entry))
    yield (
        tables.Mechanism,
        (
            {"run": number, "name": name, "value": value}
            for number, entry in numbered
            for name, value in (entry.get("mechanisms") or {}).items()
        ),
    )
    yield (
        tables.Finding,
        (
            {"run": number, "name": name, "value": found["value"], "unit": found["unit"], "says": found.get("says", "")}
            for number, entry in numbered
            for name, found in (entry.get("findings") or {}).items()
        ),
    )


def search_rows(
    papers: Iterable[schema.Paper], said: snapshot.Snapshot, abstracts: Mapping[str, str]
) -> Iterator[dict[str, str]]:
    """What `hft search` looks in, in the order of the columns; `notes` is arXiv's comment, reference, categories."""
    for paper in papers:
        facts, arxiv = said.papers.get(paper.ids.arxiv or ""), paper.ids.arxiv or ""
        notes = [facts.comment, facts.journal_ref, *facts.categories] if facts else []
        yield {
            "id": paper.id,
            "title": paper.title,
            "nickname": paper.nickname or "",
            "authors": ", ".join(paper.authors),
            "tags": ", ".join(paper.tags),
            "claims": " · ".join(claim.says for claim in paper.claims),
            "ids": " ".join([paper.id, *paper.ids.given().values()]),
            "abstract": abstracts.get(arxiv, ""),
            "notes": " · ".join(note for note in notes if note),
        }


def status_of(paper: schema.Paper, modules: Iterable[str], recorded: Iterable[str]) -> Status:
    """How far a paper is reproduced, given the modules that exist and the slugs with an ok record."""
    if not paper.reproduction or paper.reproduction.module not in modules:
        return "not reproduced yet"
    return "reproduced" if paper.id in recorded else "module"


def _paper(paper: schema.Paper, status: Status) -> Row:
    return {
        **paper.model_dump(include={"id", "title", "nickname", "date", "type", "stage"}),
        **paper.ids.model_dump(),
        **(paper.setting or schema.Setting.model_construct()).model_dump(),
        **paper.curation.model_dump(),
        "venue": paper.venue.name,
        "venue_year": paper.venue.year,
        "track": paper.venue.track,
        "publication": paper.venue.status,
        "module": paper.reproduction.module if paper.reproduction else None,
        "status": status,
    }


def _authorships(paper: schema.Paper, numbers: Mapping[str, int]) -> Iterator[Row]:
    for position, name in enumerate(paper.authors, 1):
        yield {"paper": paper.id, "position": position, "author": numbers[name]}


def _links(paper: schema.Paper) -> Iterator[Row]:
    for kind, url in paper.addresses().items():
        yield {"paper": paper.id, "kind": kind, "url": url}


def _claims(paper: schema.Paper) -> Iterator[Row]:
    for claim in paper.claims:
        number = claim.reported
        yield {
            "paper": paper.id,
            **claim.model_dump(include={"id", "says", "kind", "source"}),
            "setting": claim.setting.model_dump(exclude_none=True),
            "metric": number.metric if number else None,
            "baseline": number.baseline if number else None,
            "method": number.method if number else None,
            "unit": number.unit if number else None,
            "test": claim.test.model_dump(exclude_none=True) if claim.test else None,
        }


def _reported(paper: schema.Paper) -> Iterator[Row]:
    for row in paper.reported:
        values = row.model_dump(exclude={"setting"})
        yield {"paper": paper.id, "setting": row.setting.model_dump(exclude_none=True), **values}


def _differences(paper: schema.Paper) -> Iterator[Row]:
    for position, line in enumerate(paper.reproduction.differs if paper.reproduction else (), 1):
        values = {"what": line.what, "theirs": line.paper, "ours": line.ours, "matters": line.matters}
        yield {"paper": paper.id, "position": position, **values}


def _run(number: int, entry: Record) -> Row:
    spec = entry["spec"]
    attack = spec.get("attack") or {}
    names = "protocol testbed paper arm version ratio n task mode model data seed".split()
    return {
        "id": number,
        "key": entry["key"],
        "kind": spec.get("kind", "run"),
        **{name: spec.get(name) for name in names},
        "method": (spec.get("method") or {}).get("paper"),
        "attack": attack.get("paper"),
        "strength": attack.get("strength"),
        "spec": spec,
        "status": entry["status"],
        "reason": entry.get("reason"),
        "seconds": (entry.get("cost") or {}).get("seconds"),
        "made": entry["made"],
    }


def _outcomes(run: int, entry: Record) -> Iterator[Row]:
    for phase, part in (("before", "before"), ("after", "metrics")):
        for metric, count in (entry.get(part) or {}).items():
            counts = {"n": count["n"], "k": count["k"], "outcomes": count.get("outcomes")}
            yield {"run": run, "phase": phase, "metric": metric, **counts}
