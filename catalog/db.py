"""The SQLite database: built whole from papers.yaml, what arXiv says and the run records, replaced in one step."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.schema import CreateTable
from sqlmodel import Session, SQLModel

from catalog import integrity, lint, papers, schema, snapshot, tables
from catalog.integrity import RESULTS, Record
from catalog.papers import FILE, Catalogue
from catalog.problems import RefusedError
from catalog.taxonomy import BASELINES, Status
from reproduce import find, record

FILE_NAME = Path("build", "hft.sqlite")
SEARCH = """CREATE VIRTUAL TABLE paper_search USING fts5(
  id UNINDEXED, title, nickname, authors, tags, claims, ids, abstract, notes,
  tokenize = 'porter unicode61 remove_diacritics 2', prefix = '2 3')"""
SOURCES = "CREATE TABLE sources (digest TEXT NOT NULL)"


def current(root: Path) -> Engine:
    """The database of a project, built first when absent, of another schema, or older than its sources."""
    path = root / FILE_NAME
    if not _is_current(path, root):
        build(root, path)
    return connect(path)


def connect(path: Path) -> Engine:
    """An engine on a database file, with foreign keys enforced on every connection."""
    engine = create_engine(f"sqlite:///{path}")
    event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA foreign_keys = on"))
    return engine


def build(root: Path, path: Path, pending: Mapping[Path, str] | None = None) -> dict[str, int]:
    """Write the database to `path` and return its row counts by table.

    `pending` holds texts of papers.yaml, snapshot or abstracts that stand for the files until they are written.
    RefusedError, with nothing written, when an entry or record is faulty.
    """
    texts = dict(pending or {})
    catalogue = lint.sound(root / FILE) if root / FILE not in texts else _sound(root / FILE, texts[root / FILE])
    said = snapshot.load(root, texts.get(root / snapshot.FILE))
    abstracts = snapshot.abstracts(root, texts.get(root / snapshot.ABSTRACTS))
    modules, records = integrity.reproduction(root)
    if strangers := list(integrity.records_have_entries(catalogue, records)):
        raise RefusedError(strangers)
    digest = sources_digest(root, texts)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        rows = (
            *_catalogue_rows(catalogue, modules, records),
            *_arxiv_rows(catalogue.papers, said, abstracts),
            *_record_rows(records),
        )
        counts = _fill(Path(name), rows, digest, _search_rows(catalogue.papers, said, abstracts))
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    return counts


def fingerprint() -> int:
    """A number in the range of PRAGMA user_version that changes with the schema of the database."""
    ordered = SQLModel.metadata.sorted_tables
    ddl = "\n".join([*(str(CreateTable(table)) for table in ordered), SEARCH, SOURCES])
    return int.from_bytes(hashlib.sha256(ddl.encode()).digest()[:4]) & 0x7FFFFFFF or 1


def sources_digest(root: Path, pending: Mapping[Path, str] | None = None) -> str:
    """Digest of papers.yaml, snapshot, abstracts, modules' names, and names and sizes of the append-only records."""
    digest = hashlib.sha256()
    for file in (root / FILE, root / snapshot.FILE, root / snapshot.ABSTRACTS):
        text = (pending or {}).get(file)
        content = text.encode() if text is not None else file.read_bytes() if file.is_file() else b""
        digest.update(hashlib.sha256(content).digest())
    digest.update(repr(sorted(find.modules())).encode())
    for file in record.paths(root / RESULTS):
        digest.update(f"{file.relative_to(root)} {file.stat().st_size}\n".encode())
    return digest.hexdigest()


def status_of(paper: schema.Paper, modules: Iterable[str], recorded: Iterable[str]) -> Status:
    """How far a paper is reproduced, given the modules that exist and the slugs with an ok record."""
    if not paper.reproduction or paper.reproduction.module not in modules:
        return "not reproduced yet"
    return "reproduced" if paper.id in recorded else "module"


def _is_current(path: Path, root: Path) -> bool:
    if not path.is_file():
        return False
    engine = connect(path)
    try:
        with engine.connect() as connection:
            if connection.scalar(text("PRAGMA user_version")) != fingerprint():
                return False
            return bool(connection.scalar(text("SELECT digest FROM sources")) == sources_digest(root))
    except DatabaseError:  # no SQLite file at all: as good as absent
        return False
    finally:
        engine.dispose()


def _sound(path: Path, text: str) -> Catalogue:
    catalogue, problems = lint.examine(papers.Document(path, text, papers.parse(text)))
    if errors := [problem for problem in problems if not problem.warning]:
        raise RefusedError(errors)
    return catalogue


def _fill(
    path: Path, rows: Iterable[list[SQLModel]], digest: str, search: Iterable[Mapping[str, str]]
) -> dict[str, int]:
    engine = connect(path)
    SQLModel.metadata.create_all(engine)
    with Session(engine) as session:
        for layer in rows:
            session.add_all(layer)
            session.flush()
        connection = session.connection()
        connection.execute(text(SEARCH))
        for row in search:
            connection.execute(text(f"INSERT INTO paper_search VALUES (:{', :'.join(row)})"), row)
        connection.execute(text(SOURCES))
        connection.execute(text("INSERT INTO sources VALUES (:digest)"), {"digest": digest})
        connection.execute(text(f"PRAGMA user_version = {fingerprint()}"))
        counts = {
            table.name: connection.scalar(text(f'SELECT count(*) FROM "{table.name}"')) or 0
            for table in SQLModel.metadata.sorted_tables
        }
        session.commit()
    engine.dispose()
    return counts


def _search_rows(
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


def _arxiv_rows(
    papers: Iterable[schema.Paper], said: snapshot.Snapshot, abstracts: Mapping[str, str]
) -> Iterator[list[SQLModel]]:
    known = [
        (paper.id, paper.ids.arxiv, said.papers[paper.ids.arxiv]) for paper in papers if paper.ids.arxiv in said.papers
    ]
    yield [
        tables.Preprint(
            paper=slug, abstract=abstracts.get(arxiv or ""), **facts.model_dump(exclude={"authors", "categories"})
        )
        for slug, arxiv, facts in known
    ]
    yield [
        tables.Category(paper=slug, position=position, name=name)
        for slug, _, facts in known
        for position, name in enumerate(facts.categories, 1)
    ]


def _catalogue_rows(catalogue: Catalogue, modules: Iterable[str], records: list[Record]) -> Iterator[list[SQLModel]]:
    """Rows in layers such that every foreign key points to an earlier layer."""
    assert catalogue.head is not None, "a sound catalogue has a head"
    recorded = {entry["spec"]["paper"] for entry in records if entry["status"] == "ok"}
    yield [tables.Venue(name=name, **venue.model_dump()) for name, venue in catalogue.head.venues.items()]
    yield [tables.Tag(name=name, meaning=meaning) for name, meaning in catalogue.head.tags.items()]
    yield [_paper_row(paper, status_of(paper, modules, recorded)) for paper in catalogue.papers]
    names = dict.fromkeys(author for paper in catalogue.papers for author in paper.authors)
    numbers = {name: number for number, name in enumerate(names, 1)}
    yield [tables.Author(id=number, name=name) for name, number in numbers.items()]
    yield [row for paper in catalogue.papers for row in _detail_rows(paper, numbers)]
    yield [tables.Subject(slug=paper.id, paper=paper.id, meaning=paper.title) for paper in catalogue.papers]
    yield [tables.Subject(slug=slug, paper=None, meaning=meaning) for slug, meaning in BASELINES.items()]
    together = sorted({entry["spec"]["paper"] for entry in records if "+" in entry["spec"]["paper"]})
    yield [tables.Subject(slug=slug, paper=None, meaning="defenses deployed together") for slug in together]


def _paper_row(paper: schema.Paper, status: Status) -> tables.Paper:
    return tables.Paper(
        **paper.model_dump(include={"id", "title", "nickname", "date", "type", "stage"}),
        **paper.ids.model_dump(),
        **(paper.setting or schema.Setting.model_construct()).model_dump(),
        **paper.curation.model_dump(),
        venue=paper.venue.name,
        venue_year=paper.venue.year,
        track=paper.venue.track,
        publication=paper.venue.status,
        module=paper.reproduction.module if paper.reproduction else None,
        status=status,
    )


def _detail_rows(paper: schema.Paper, authors: dict[str, int]) -> Iterator[SQLModel]:
    for position, name in enumerate(paper.authors, 1):
        yield tables.Authorship(paper=paper.id, position=position, author=authors[name])
    for tag in paper.tags:
        yield tables.Tagging(paper=paper.id, tag=tag)
    for kind, url in paper.addresses().items():
        yield tables.Link(paper=paper.id, kind=kind, url=url)
    for claim in paper.claims:
        number = claim.reported
        yield tables.Claim(
            paper=paper.id,
            **claim.model_dump(include={"id", "says", "kind", "source"}),
            setting=claim.setting.model_dump(exclude_none=True),
            metric=number.metric if number else None,
            baseline=number.baseline if number else None,
            method=number.method if number else None,
            unit=number.unit if number else None,
            test=claim.test.model_dump(exclude_none=True) if claim.test else None,
        )
    for row in paper.reported:
        values = row.model_dump(exclude={"setting"})
        yield tables.Reported(paper=paper.id, setting=row.setting.model_dump(exclude_none=True), **values)
    for position, line in enumerate(paper.reproduction.differs if paper.reproduction else (), 1):
        values = {"what": line.what, "theirs": line.paper, "ours": line.ours, "matters": line.matters}
        yield tables.Difference(paper=paper.id, position=position, **values)


def _record_rows(records: list[Record]) -> Iterator[list[SQLModel]]:
    yield [_run_row(number, entry) for number, entry in enumerate(records, 1)]
    yield [row for number, entry in enumerate(records, 1) for row in _measurement_rows(number, entry)]


def _run_row(number: int, entry: Record) -> tables.Run:
    spec = entry["spec"]
    same = (
        "protocol",
        "testbed",
        "paper",
        "arm",
        "version",
        "ratio",
        "n",
        "task",
        "mode",
        "model",
        "data",
        "seed",
    )
    return tables.Run(
        id=number,
        key=entry["key"],
        kind=spec.get("kind", "run"),
        **{name: spec.get(name) for name in same},
        method=(spec.get("method") or {}).get("paper"),
        attack=(spec.get("attack") or {}).get("paper"),
        strength=(spec.get("attack") or {}).get("strength"),
        spec=spec,
        status=entry["status"],
        reason=entry.get("reason"),
        seconds=(entry.get("cost") or {}).get("seconds"),
        made=entry["made"],
    )


def _measurement_rows(run: int, entry: Record) -> Iterator[SQLModel]:
    for phase, part in (("before", "before"), ("after", "metrics")):
        for metric, count in (entry.get(part) or {}).items():
            outcomes = count.get("outcomes")
            yield tables.Outcome(run=run, phase=phase, metric=metric, n=count["n"], k=count["k"], outcomes=outcomes)
    for name, value in (entry.get("mechanisms") or {}).items():
        yield tables.Mechanism(run=run, name=name, value=value)
    for name, found in (entry.get("findings") or {}).items():
        yield tables.Finding(run=run, name=name, value=found["value"], unit=found["unit"], says=found.get("says", ""))
