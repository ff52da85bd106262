"""CSV, JSON, RIS and run records: other parsers read them, and nothing of an entry or record is lost on the way."""

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import rispy
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import papers, schema
from catalog.exports import dictionary, records, ris, rows
from reproduce import record

HOME = Path(__file__).parents[2]
HEAD, PAPERS = papers.load(HOME / "papers.yaml")
SHIELD = next(p for p in papers.load(HOME / "tests/fixtures/garden.yaml")[1] if p.id == "shield")
WORD = st.text(st.characters(blacklist_categories=("Cc", "Cs", "Z")), min_size=1, max_size=9)
TEXT = st.lists(WORD, min_size=1, max_size=4).map(" ".join)


@st.composite
def entries(draw: st.DrawFn) -> schema.Paper:
    """Shield with any title, authors, note, tags and parts left out."""
    data = SHIELD.model_dump()
    data |= {"title": draw(TEXT), "authors": draw(st.lists(TEXT, max_size=4)), "nickname": draw(st.none() | TEXT)}
    data["tags"] = draw(st.lists(st.from_regex(r"[a-z0-9]{1,5}", fullmatch=True), max_size=3, unique=True))
    data["curation"]["note"] = draw(st.none() | TEXT)
    for name in draw(st.sets(st.sampled_from(["stage", "setting", "links", "claims", "reported", "reproduction"]))):
        data.pop(name)
    return schema.Paper.model_validate(data)


@given(st.lists(entries(), max_size=3))
@settings(deadline=None)
def test_csv_and_json_carry_everything(listed: list[schema.Paper]) -> None:
    assert rows.from_csv(rows.to_csv(listed)) == listed
    assert rows.from_json(rows.to_json(HEAD, listed))[1] == listed


def test_the_real_catalogue_comes_back_whole() -> None:
    assert rows.from_csv(rows.to_csv(PAPERS)) == PAPERS
    head, listed = rows.from_json(rows.to_json(HEAD, PAPERS))
    assert (listed, head.tags, head.venues) == (PAPERS, HEAD.tags, HEAD.venues)


def test_pandas_reads_the_csv() -> None:
    frame = pd.read_csv(io.StringIO(rows.to_csv(PAPERS)), dtype={"ids.arxiv": str})
    assert list(frame["id"]) == [paper.id for paper in PAPERS]
    vaccine = frame.set_index("id").loc["vaccine"]
    assert (vaccine["ids.arxiv"], vaccine["venue.name"], vaccine["venue.year"]) == ("2402.01109", "NeurIPS", 2024)
    assert vaccine["authors"].split("; ") == ["Tiansheng Huang", "Sihao Hu", "Ling Liu"]


def test_a_lost_column_shows() -> None:
    lines = list(csv.reader(io.StringIO(rows.to_csv(PAPERS))))
    place = lines[0].index("claims")
    out = io.StringIO()
    csv.writer(out).writerows([line[:place] + line[place + 1 :] for line in lines])
    assert rows.from_csv(out.getvalue()) != PAPERS


def test_ris_is_read_by_an_own_little_parser() -> None:
    blocks = ris.references(PAPERS, HEAD.venues).split("ER  - ")[:-1]
    assert len(blocks) == len(PAPERS)
    for block, paper in zip(blocks, PAPERS, strict=True):
        lines = [line.split("  - ", 1) for line in block.strip().splitlines()]
        assert lines[0][0] == "TY"
        authors = [" ".join(reversed(value.split(", "))) for tag, value in lines if tag == "AU" and "," in value]
        assert authors == [name for name in paper.authors if " " in name]
        found = dict(lines)
        assert (found["ID"], found["TI"], found["PY"]) == (paper.id, paper.title, str(paper.venue.year))
        assert found["DA"] == f"{paper.date:%Y/%m/%d}"
    assert [one["id"] for one in rispy.loads("ER  - \n".join([*blocks, ""]))] == [paper.id for paper in PAPERS]


def test_records_come_back_with_their_key_and_seal() -> None:
    made = list(record.read(HOME / "reproduce/results"))[:40]
    lines = records.to_lines(made).splitlines()
    assert records.from_lines("\n".join(lines)) == made
    for line in lines:
        row = json.loads(line)
        spec = {name.removeprefix("spec."): value for name, value in row.items() if name.startswith("spec.")}
        text = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert row["key"] == hashlib.sha256(text.encode()).hexdigest()[:16]
        for name in [name for name in row if name.endswith(".outcomes")]:
            stem = name.removesuffix("outcomes")
            assert (row[f"{stem}n"], row[f"{stem}k"]) == (len(row[name]), row[name].count("1"))


@pytest.mark.parametrize(
    "part", [{"findings": {}}, {"findings": {"rise": {"value": 1.5, "unit": "points"}}}, {"metrics": {}}]
)
def test_empty_and_nested_parts_of_a_record_stay(part: dict[str, Any]) -> None:
    one = {"key": "k", "spec": {"paper": "x", "method": {"rho": 2.0}}, "reason": None, **part}
    assert records.record(records.row(one)) == one


def test_the_dictionary_has_every_column_of_the_tables() -> None:
    told = {line.column: line for line in dictionary.dictionary() if line.table == "papers"}
    header = next(csv.reader(io.StringIO(rows.to_csv([]))))
    assert list(told) == header
    assert set(dictionary.PAPERS) == set(header)
    assert told["type"].values == ("attack", "defense", "mechanism", "benchmark", "survey")
    assert (told["date"].type, told["venue.year"].type, told["tags"].type) == ("date", "integer", "list")
    assert (told["title"].required, told["nickname"].required) == (True, False)
    schema_keys = json.loads(schema.json_schema())["$defs"]["Paper"]["properties"].keys()
    assert {name.partition(".")[0] for name in header} == set(schema_keys)


def test_the_dictionary_has_every_column_of_the_records() -> None:
    columns = {name for made in record.read(HOME / "reproduce/results") for name in records.row(made)}
    assert [name for name in sorted(columns) if dictionary.meaning_of(name) is None] == []
    assert dictionary.meaning_of("invented") is None
    assert dictionary.meaning_of("metrics.harmful.k") != dictionary.meaning_of("before.harmful.k")
