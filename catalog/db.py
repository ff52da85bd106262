"""The SQLite database: built whole from papers.yaml, what arXiv says and the run records, replaced in one step."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import islice
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, insert, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.schema import CreateTable
from sqlmodel import SQLModel

from catalog import excluded, filling, integrity, lint, snapshot
from catalog.integrity import RESULTS
from catalog.papers import FILE, Catalogue, Document
from catalog.problems import RefusedError
from reproduce import find, record

FILE_NAME = Path("build", "hft.sqlite")
SEARCH = """CREATE VIRTUAL TABLE paper_search USING fts5(
  id UNINDEXED, title, nickname, authors, tags, claims, ids, abstract, notes,
  tokenize = 'porter unicode61 remove_diacritics 2', prefix = '2 3')"""
BATCH = 5_000
SOURCES = "CREATE TABLE sources (digest TEXT NOT NULL, stamp TEXT NOT NULL)"


def current(root: Path) -> Engine:
    """The database of a project, built first when absent, of another schema, or older than its sources."""
    path = root / FILE_NAME
    if not is_current(path, root):
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
    stamp = "" if texts else _stamp(root)  # taken before the files are read
    catalogue = lint.sound(root / FILE) if root / FILE not in texts else _sound(root / FILE, texts[root / FILE])
    said = snapshot.load(root, texts.get(root / snapshot.FILE))
    abstracts = snapshot.abstracts(root, texts.get(root / snapshot.ABSTRACTS))
    modules, records = integrity.reproduction(root)
    if strangers := list(integrity.records_have_entries(catalogue, records)):
        raise RefusedError(strangers)
    if problems := excluded.check(root, catalogue):
        raise RefusedError(problems)
    digest = sources_digest(root, texts)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        layers = (
            *filling.catalogue_rows(catalogue, modules, records),
            *filling.excluded_rows(excluded.read(root)),
            *filling.arxiv_rows(catalogue.papers, said, abstracts),
            *filling.record_rows(records),
        )
        counts = _fill(Path(name), layers, (digest, stamp), filling.search_rows(catalogue.papers, said, abstracts))
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    return counts


@cache
def fingerprint() -> int:
    """A number in the range of PRAGMA user_version that changes with the schema of the database."""
    ordered = SQLModel.metadata.sorted_tables
    ddl = "\n".join([*(str(CreateTable(table)) for table in ordered), SEARCH, SOURCES])
    return int.from_bytes(hashlib.sha256(ddl.encode()).digest()[:4]) & 0x7FFFFFFF or 1


def sources_digest(root: Path, pending: Mapping[Path, str] | None = None) -> str:
    """Digest of everything the database is made of: file contents, and the names and sizes of append-only records."""
    digest = hashlib.sha256()
    for file in _files(root):
        text = (pending or {}).get(file)
        content = text.encode() if text is not None else file.read_bytes() if file.is_file() else b""
        digest.update(hashlib.sha256(content).digest())
    digest.update(_rest(root))
    return digest.hexdigest()


def _stamp(root: Path) -> str:
    """Digest of the sizes and times of the same files, whose contents need no look while it is what it was."""
    stats = [file.stat() if file.is_file() else None for file in _files(root)]
    seen = repr([(stat.st_size, stat.st_mtime_ns, stat.st_ino) if stat else None for stat in stats])
    return hashlib.sha256(seen.encode() + _rest(root)).hexdigest()


def _files(root: Path) -> tuple[Path, ...]:
    return root / FILE, root / excluded.FILE, root / snapshot.FILE, root / snapshot.ABSTRACTS


def _rest(root: Path) -> bytes:
    """Names of the modules, names and sizes of the records."""
    records = [(str(file.relative_to(root)), file.stat().st_size) for file in record.paths(root / RESULTS)]
    return repr((sorted(find.modules()), records)).encode()


def is_current(path: Path, root: Path) -> bool:
    """Whether a database has the schema and the sources of today."""
    if not path.is_file():
        return False
    engine = connect(path)
    try:
        with engine.connect() as connection:
            if connection.scalar(text("PRAGMA user_version")) != fingerprint():
                return False
            digest, stamp = connection.execute(text("SELECT digest, stamp FROM sources")).one()
            return bool(stamp == _stamp(root) or digest == sources_digest(root))
    except DatabaseError:  # no SQLite file at all: as good as absent
        return False
    finally:
        engine.dispose()


def _sound(path: Path, text: str) -> Catalogue:
    catalogue, problems = lint.examine(Document(path, text))
    if errors := [problem for problem in problems if not problem.warning]:
        raise RefusedError(errors)
    return catalogue


def _fill(
    path: Path, layers: Iterable[filling.Layer], sources: tuple[str, str], search: Iterable[filling.Row]
) -> dict[str, int]:
    engine = connect(path)
    try:
        with engine.begin() as connection:
            SQLModel.metadata.create_all(connection)
            for table, rows in layers:
                for batch in _batches(rows):
                    connection.execute(insert(table), batch)
            _index(connection, search)
            connection.execute(text(SOURCES))
            digest, stamp = sources
            connection.execute(text("INSERT INTO sources VALUES (:digest, :stamp)"), {"digest": digest, "stamp": stamp})
            connection.execute(text(f"PRAGMA user_version = {fingerprint()}"))
            return {
                table.name: connection.scalar(text(f'SELECT count(*) FROM "{table.name}"')) or 0
                for table in SQLModel.metadata.sorted_tables
            }
    finally:
        engine.dispose()


def _index(connection: Connection, rows: Iterable[filling.Row]) -> None:
    connection.execute(text(SEARCH))
    for batch in _batches(rows):
        connection.execute(text(f"INSERT INTO paper_search VALUES (:{', :'.join(batch[0])})"), batch)


def _batches(rows: Iterable[filling.Row]) -> Iterator[list[filling.Row]]:
    """The rows in lists: one statement for each list is many times faster than one for each row."""
    left = iter(rows)
    while batch := list(islice(left, BATCH)):
        yield batch
