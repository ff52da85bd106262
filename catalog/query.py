"""The read side of the database: rows for people and JSON, data frames for analysis and pages."""

import re
from typing import Any, TypedDict

import pandas as pd
from sqlalchemy import Engine, bindparam, text
from sqlmodel import Session, col, select

from catalog import schema
from catalog.tables import Author, Authorship, Category, Paper, Preprint, Run, Tag, Tagging
from catalog.taxonomy import PaperType, Stage, Status

WEIGHTS = "0, 10, 10, 5, 4, 2, 8, 1, 1"
"""What a match counts by column of the index: id (not searched), title, nickname, authors, tags, claims, ids, …"""
RANKED = 1_000
"""Of more matches than these only the newest are ranked, so that a word of every other title answers as fast."""


class PaperRow(TypedDict):
    """One line of `hft list`; `year` is that of the first public version, as in its filter."""

    id: str
    title: str
    nickname: str | None
    authors: list[str]
    date: str
    year: int
    venue: str
    venue_year: int
    type: str
    stage: str | None
    tags: list[str]
    arxiv: str | None
    status: str


class Hit(TypedDict):
    """One line of `hft search`: best first, `snippet` with the matches in square brackets."""

    id: str
    title: str
    score: float
    snippet: str


def papers(
    engine: Engine,
    *,
    kind: PaperType | None = None,
    stage: Stage | None = None,
    year: int | None = None,
    tag: str | None = None,
    status: Status | None = None,
) -> list[PaperRow]:
    """Papers that pass all filters, by date; `year` is that of the first public version."""
    wanted = select(Paper).order_by(col(Paper.date), col(Paper.id))
    for column, value in ((Paper.type, kind), (Paper.stage, stage), (Paper.status, status)):
        if value is not None:
            wanted = wanted.where(column == value)
    if tag is not None:
        wanted = wanted.where(col(Paper.id).in_(select(Tagging.paper).where(Tagging.tag == tag)))
    with Session(engine) as session:
        tagged = _grouped(session.exec(select(Tagging.paper, Tagging.tag)).all())
        wrote = select(Authorship.paper, Author.name).join(Author).order_by(col(Authorship.position))
        authors = _grouped(session.exec(wrote).all())
        found = session.exec(wanted).all()
        return [_row(paper, authors, tagged) for paper in found if year is None or paper.date.year == year]


def tags(engine: Engine) -> dict[str, str]:
    """The controlled list of tags with their meanings, in file order."""
    with Session(engine) as session:
        return {tag.name: tag.meaning for tag in session.exec(select(Tag).order_by(text("rowid"))).all()}


def search(engine: Engine, words: str, limit: int = 20) -> list[Hit]:
    """Papers with all words in any indexed text, arXiv's abstract included, best first; the last may be cut short."""
    tokens = re.findall(r"\w+", words)
    if not tokens:
        return []
    match = " ".join(f'"{token}"' for token in tokens) + "*"
    best = text(
        f"WITH newest AS MATERIALIZED (SELECT rowid AS number, bm25(paper_search, {WEIGHTS}) AS score "
        "FROM paper_search WHERE paper_search MATCH :match ORDER BY rowid DESC LIMIT :ranked) "
        "SELECT number, score FROM newest ORDER BY score, number LIMIT :limit"
    )
    shown = text(
        "SELECT s.rowid AS number, s.id, p.title, snippet(paper_search, -1, '[', ']', '…', 16) AS snippet "
        "FROM paper_search AS s JOIN paper AS p ON p.id = s.id WHERE paper_search MATCH :match "
        "AND s.rowid BETWEEN :first AND :last AND +s.rowid IN :numbers"  # + keeps it from one search for each number
    ).bindparams(bindparam("numbers", expanding=True))
    with engine.connect() as connection:
        scores = connection.execute(best, {"match": match, "limit": limit, "ranked": RANKED}).all()
        numbers = [number for number, _ in scores]
        bounds = {"first": min(numbers, default=0), "last": max(numbers, default=0), "numbers": numbers}
        rows = {row.number: row for row in connection.execute(shown, {"match": match, **bounds})}
    found = [(rows[number], score) for number, score in scores]
    return [Hit(id=row.id, title=row.title, score=round(-score, 4), snippet=row.snippet) for row, score in found]


def show(engine: Engine, paper: schema.Paper) -> dict[str, Any]:
    """Everything known of one paper, ready for JSON: entry, addresses, status, runs by state, what arXiv says."""
    with Session(engine) as session:
        row = session.get_one(Paper, paper.id)
        preprint = session.get(Preprint, paper.id)
        in_order = select(Category.name).where(Category.paper == paper.id).order_by(col(Category.position))
        categories = list(session.exec(in_order).all())
        states = session.exec(select(Run.testbed, Run.status).where(Run.paper == paper.id)).all()
    runs: dict[str, dict[str, int]] = {}
    for testbed, status in states:
        counts = runs.setdefault(testbed, {})
        counts[status] = counts.get(status, 0) + 1
    entry = paper.model_dump(mode="json", exclude_none=True)
    said = {**preprint.model_dump(mode="json", exclude={"paper"}), "categories": categories} if preprint else None
    return {**entry, "links": paper.addresses(), "status": row.status, "runs": runs, "arxiv": said}


def runs(engine: Engine, paper: str | None = None, testbed: str | None = None) -> pd.DataFrame:
    """All runs with their specification, in record order; `paper` is the slug they are filed under."""
    return _frame(engine, "SELECT * FROM run", paper=paper, testbed=testbed)


def outcomes(engine: Engine, paper: str | None = None, testbed: str | None = None) -> pd.DataFrame:
    """One row a run, phase (before, after) and metric: the columns of `runs`, prompts, k, share, outcomes."""
    query = (
        "SELECT run.*, o.phase, o.metric, o.n AS prompts, o.k, 1.0 * o.k / nullif(o.n, 0) AS share, "
        "o.outcomes FROM run JOIN outcome AS o ON o.run = run.id"
    )
    return _frame(engine, query, paper=paper, testbed=testbed)


def mechanisms(engine: Engine, paper: str | None = None, testbed: str | None = None) -> pd.DataFrame:
    """One row a run and mechanism (loss or drift): the columns of `runs`, name and value."""
    query = "SELECT run.*, m.name, m.value FROM run JOIN mechanism AS m ON m.run = run.id"
    return _frame(engine, query, paper=paper, testbed=testbed)


def findings(engine: Engine, paper: str | None = None, testbed: str | None = None) -> pd.DataFrame:
    """One row a study run and finding: the columns of `runs`, name, value, unit and says."""
    query = "SELECT run.*, f.name, f.value, f.unit, f.says FROM run JOIN finding AS f ON f.run = run.id"
    return _frame(engine, query, paper=paper, testbed=testbed)


def claims(engine: Engine, paper: str | None = None) -> pd.DataFrame:
    """All claims in file order; setting and test are JSON text."""
    return _frame(engine, "SELECT * FROM claim AS run", paper=paper)


def reported(engine: Engine, paper: str | None = None) -> pd.DataFrame:
    """All numbers printed by papers in file order; setting is JSON text."""
    return _frame(engine, "SELECT * FROM reported AS run", paper=paper)


def _frame(engine: Engine, query: str, **filters: str | None) -> pd.DataFrame:
    given = {name: value for name, value in filters.items() if value is not None}
    where = " AND ".join(f"run.{name} = :{name}" for name in given)
    ordered = f"{query} {'WHERE ' + where if where else ''} ORDER BY run.rowid"
    with engine.connect() as connection:
        return pd.read_sql(text(ordered), connection, params=given)


def _grouped(pairs: Any) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def _row(paper: Paper, authors: dict[str, list[str]], tags: dict[str, list[str]]) -> PaperRow:
    return PaperRow(
        id=paper.id,
        title=paper.title,
        nickname=paper.nickname,
        authors=authors.get(paper.id, []),
        date=paper.date.isoformat(),
        year=paper.date.year,
        venue=paper.venue,
        venue_year=paper.venue_year,
        type=paper.type,
        stage=paper.stage,
        tags=tags.get(paper.id, []),
        arxiv=paper.arxiv,
        status=paper.status,
    )
