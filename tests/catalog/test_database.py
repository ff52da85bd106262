"""The database: whole or not at all, keys enforced, rebuilt when its sources or its schema change."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from catalog import db, filling, papers, query, tables
from catalog.schema import Paper, Reproduction

BREAKER = "p2310_12345_breaker"


@pytest.fixture
def engine(project: Path) -> Any:
    built = db.current(project)
    yield built
    built.dispose()


def test_rows_of_every_table(project: Path) -> None:
    counts = db.build(project, project / "x.sqlite")
    catalogue = {"paper": 2, "author": 3, "authorship": 4, "tagging": 2, "claim": 2, "reported": 1, "link": 5}
    assert counts.items() >= catalogue.items()
    with sqlite3.connect(project / "x.sqlite") as raw:
        order = "SELECT name FROM authorship JOIN author ON author.id = author WHERE paper = ? ORDER BY position"
        assert raw.execute(order, ["shield"]).fetchall() == [("Ann Bell",), ("Zoë Müller",)]
        assert raw.execute("SELECT url FROM link WHERE paper = 'shield' AND kind = 'doi'").fetchall() == [
            ("https://doi.org/10.1234/shield.5",)
        ]
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
    raw.close()


def test_foreign_keys_are_enforced(engine: Any) -> None:
    with Session(engine) as session:
        session.add(tables.Link(paper="nobody", kind="code", url="https://example.org"))
        with pytest.raises(IntegrityError, match="FOREIGN KEY"):
            session.commit()


def test_another_schema_is_rebuilt(project: Path) -> None:
    path = project / db.FILE_NAME
    db.current(project).dispose()
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (db.fingerprint(),)
        raw.execute(f"PRAGMA user_version = {db.fingerprint() ^ 1}")
        raw.execute("CREATE TABLE leftover (x)")
    raw.close()
    db.current(project).dispose()
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA user_version").fetchone() == (db.fingerprint(),)
        assert raw.execute("SELECT name FROM sqlite_master WHERE name = 'leftover'").fetchall() == []
    raw.close()


def test_a_current_database_is_left_alone_and_a_stale_one_rebuilt(project: Path, edit: Any) -> None:
    path = project / db.FILE_NAME
    db.current(project).dispose()
    first = path.stat().st_ino
    db.current(project).dispose()
    assert path.stat().st_ino == first
    edit("A Handful of Turnips", "A Bucket of Turnips")
    engine = db.current(project)
    assert query.papers(engine)[0]["title"] == "A Bucket of Turnips Breaks Any Gardener"
    engine.dispose()


def test_a_file_that_is_no_database_is_replaced(project: Path) -> None:
    path = project / db.FILE_NAME
    path.parent.mkdir()
    path.write_bytes(b"not a database, but longer than the header of one " * 20)
    engine = db.current(project)
    assert len(query.papers(engine)) == 2
    engine.dispose()


def test_a_build_that_fails_leaves_the_old_file(project: Path, edit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project / db.FILE_NAME
    db.build(project, path)
    before = path.read_bytes()
    monkeypatch.setattr(filling, "search_rows", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        db.build(project, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("garden", ["breaker", "shield"]),  # stems: gardener, gardening
        ("muller", ["breaker", "shield"]),  # accents do not matter
        ("few-shot", ["breaker"]),  # tag
        ("drifting embedding", ["shield"]),  # claim, both words
        ("Shield Turnips", []),
        ("turn", ["breaker"]),  # begun word
        ("2402.01010", ["shield"]),
        ('" OR NEAR(', []),
        ("***", []),
    ],
)
def test_search(engine: Any, words: str, found: list[str]) -> None:
    assert sorted(hit["id"] for hit in query.search(engine, words)) == found


def test_a_hit_shows_the_match_in_its_place(engine: Any) -> None:
    (hit,) = query.search(engine, "weeds")
    assert hit["snippet"].startswith("Fewer [weeds] than without it")


def test_a_word_of_the_title_counts_more_than_one_of_a_claim(project: Path, edit: Any) -> None:
    edit("A Handful of Turnips", "A Handful of Embeddings")
    engine = db.current(project)
    assert [hit["id"] for hit in query.search(engine, "embeddings")] == ["breaker", "shield"]
    engine.dispose()


def test_filters(engine: Any) -> None:
    def ids(**filters: Any) -> list[str]:
        return [row["id"] for row in query.papers(engine, **filters)]

    assert ids() == ["breaker", "shield"]
    assert ids(kind="attack") == ["breaker"]
    assert ids(stage="alignment") == ["shield"]
    assert ids(year=2024) == ["shield"]
    assert ids(tag="few-shot") == ["breaker"]
    assert ids(status="not reproduced yet") == ["breaker", "shield"]
    assert ids(kind="attack", year=2024) == []


def test_runs_outcomes_and_findings(project: Path, add_record: Any) -> None:
    add_record("shield")
    add_record("sft", status="diverged", reason="loss is not finite", metrics={}, before={}, mechanisms={})
    add_record(
        "breaker",
        findings={"harm_rise": {"value": 12.5, "unit": "points", "says": "rise over the ratio"}},
        figures={},
    )
    engine = db.current(project)
    runs = query.runs(engine)
    assert sorted(runs["paper"]) == ["breaker", "sft", "shield"]
    assert runs.set_index("paper").loc["sft", "reason"] == "loss is not finite"
    after = query.outcomes(engine, paper="shield").query("phase == 'after'")
    assert after[["metric", "prompts", "k", "share", "outcomes"]].values.tolist() == [["harmful", 4, 1, 0.25, "0100"]]
    assert query.mechanisms(engine, paper="shield")["value"].tolist() == [0.41]
    assert query.findings(engine, testbed="micro")[["name", "value", "unit"]].values.tolist() == [
        ["harm_rise", 12.5, "points"]
    ]
    engine.dispose()


def test_status_follows_module_and_records(project: Path) -> None:
    shield = next(paper for paper in papers_of(project) if paper.id == "shield")
    named = shield.model_copy(update={"reproduction": Reproduction(module="p2402_01010_shield")})
    assert filling.status_of(shield, ["p2402_01010_shield"], ["shield"]) == "not reproduced yet"
    assert filling.status_of(named, [], ["shield"]) == "not reproduced yet"
    assert filling.status_of(named, ["p2402_01010_shield"], []) == "module"
    assert filling.status_of(named, ["p2402_01010_shield"], ["shield"]) == "reproduced"


def papers_of(project: Path) -> list[Paper]:
    return papers.load(project / "papers.yaml")[1]


def test_claims_keep_their_test(engine: Any) -> None:
    claims = query.claims(engine, paper="shield")
    assert json.loads(claims["test"][1]) == {"finding": "drift_ratio", "at_most": 0.8}
    assert query.reported(engine)["value"].tolist() == [48.0]
