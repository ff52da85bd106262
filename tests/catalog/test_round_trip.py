"""`hft export`, then `hft import`: what a format carries comes back, and no known paper is doubled or changed."""

import datetime
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from catalog import importing, papers, schema
from catalog.exports import bibtex, ris, rows
from catalog.importers import files

HOME = Path(__file__).parents[2]
GARDEN = Path(__file__).parents[1] / "fixtures" / "garden.yaml"
TODAY = datetime.date(2026, 11, 23)
NAMES = {"bibtex": "all.bib", "csv": "all.csv", "json": "all.json", "ris": "all.ris"}
ALWAYS = ("title", "authors", "date", "ids", "venue", "type", "stage", "tags")


def facts(entry: dict[str, Any], form: str) -> dict[str, Any]:
    """What a format carries of an entry: all of it, but RIS and BibTeX have no slug and no page beside the ids."""
    if form in ("csv", "json"):
        return schema.Paper.model_validate(entry).model_dump()
    links = {kind: link for kind, link in (entry.get("links") or {}).items() if kind != "paper"}
    return {"links": links, **{key: entry.get(key) for key in ALWAYS}}


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The entries by title, as an independent reader sees them."""
    listed = YAML(typ="safe").load(path.read_text(encoding="utf-8"))["papers"]
    return {entry["title"]: entry for entry in listed}


@pytest.fixture
def atlas(project: Path) -> Path:
    """The real catalogue, with what it leaves out, in the project."""
    for name in ("papers.yaml", "excluded.yaml", "SCOPE.md"):
        shutil.copy(HOME / name, project / name)
    return project / "papers.yaml"


def without(path: Path, titles: set[str]) -> None:
    """Cut entries out of a file, as text: each stands between blank lines."""
    head, mark, body = path.read_text(encoding="utf-8").partition("\npapers:\n")
    blocks = body.rstrip("\n").split("\n\n")
    kept = [
        block for block in blocks if not any(f"title: {json.dumps(t, ensure_ascii=False)}" in block for t in titles)
    ]
    assert len(kept) == len(blocks) - len(titles)
    path.write_text(head + mark + "\n\n".join(kept) + "\n", encoding="utf-8")


@pytest.mark.parametrize("form", NAMES)
def test_papers_cut_out_come_back_and_known_ones_stay(atlas: Path, hft: Callable[..., Any], form: str) -> None:
    assert hft("export", form, "-o", NAMES[form]).exit_code == 0
    before, bytes_before = read(atlas), atlas.read_bytes()
    whole = json.loads((run := hft("import", NAMES[form], "--json")).stdout)
    assert (whole["added"], whole["merged"], run.exit_code) == ([], [], 0)
    assert len(whole["duplicates"]) == len(before)
    assert [problem for problem in whole["problems"] if problem["code"] in ("differs", "date-inexact")] == []
    assert atlas.read_bytes() == bytes_before

    gone = set(random.Random(form).sample(sorted(before), 20))
    without(atlas, gone)
    lines = set(atlas.read_text(encoding="utf-8").splitlines())
    part = json.loads((run := hft("import", NAMES[form], "--json")).stdout)
    assert (len(part["added"]), part["merged"], run.exit_code) == (20, [], 0)
    after = read(atlas)
    assert after.keys() == before.keys()
    assert lines <= set(atlas.read_text(encoding="utf-8").splitlines())
    for title in gone:
        was = facts(before[title], form)
        assert {key: facts(after[title], form).get(key) for key in was} == was
    assert {title: after[title] for title in after.keys() - gone} == {t: before[t] for t in before.keys() - gone}


def test_an_empty_catalogue_takes_them_all(atlas: Path, hft: Callable[..., Any]) -> None:
    hft("export", "json", "-o", "all.json")
    before = read(atlas)
    atlas.write_text(atlas.read_text(encoding="utf-8").partition("\npapers:\n")[0] + "\npapers: []\n", encoding="utf-8")
    assert hft("fmt", "--check").exit_code == 0
    assert len(json.loads(hft("import", "all.json", "--json").stdout)["added"]) == len(before)
    after = read(atlas)
    assert {title: facts(entry, "json") for title, entry in after.items()} == {
        title: facts(entry, "json") for title, entry in before.items()
    }
    assert hft("fmt", "--check").exit_code == 0


WORDS = st.from_regex(r"[A-Za-zäßéłøñ][a-zäßéłøñ]{2,9}", fullmatch=True)
SIGNS = st.sampled_from(
    ["", ":", ",", "?", " &", " 50%", " $5", ' "so"', " x_1", " #2", "'s", " {a}", "; or", " and", " ~"]
)
TITLES = st.lists(st.builds(str.__add__, WORDS, SIGNS), min_size=1, max_size=5).map(" ".join)
APART = ("Why meadow toads outlive quicksand", "Counting pond frogs by moonlight", "Garden newts: a brief history")
PEOPLE = st.builds("{} {}".format, WORDS.map(str.title), WORDS.map(str.title))
LINKS = st.fixed_dictionaries(
    {},
    optional={
        "code": st.just("https://github.com/gardeners/toads"),
        "data": st.just("https://github.com/gardeners/toads-data"),
        "project": st.just("https://toads.example.org/a-page"),
    },
)


@st.composite
def entries(draw: st.DrawFn, number: int) -> schema.Paper:
    """An entry that no other of these is, with marks that formats have to guard."""
    is_posted, kind = draw(st.booleans()), draw(st.sampled_from(["attack", "defense"]))
    publication = {"name": "NeurIPS", "year": 2024, "track": "main", "status": "accepted"}
    preprint = {"name": "arXiv", "year": 2024, "track": None, "status": "preprint"}
    return schema.Paper.model_validate(
        {
            "id": f"toad-{number}",
            "title": f"{APART[number]} {draw(TITLES)}",
            "nickname": draw(st.none() | st.just(f"Toad{number}")),
            "authors": draw(st.lists(PEOPLE, max_size=4, unique=True)),
            "date": datetime.date(2024, 5, draw(st.integers(1, 31))),
            "ids": {
                "arxiv": f"2405.{number:05}" if is_posted else None,
                "openreview": f"ToAd{number:06}" if not is_posted or draw(st.booleans()) else None,
                "doi": draw(st.none() | st.just(f"10.1234/toad.{number}")),
            },
            "venue": preprint if is_posted and draw(st.booleans()) else publication,
            "type": kind,
            "stage": "alignment" if kind == "defense" else None,
            "tags": draw(st.lists(st.sampled_from(["few-shot", "perturbation"]), unique=True)),
            "links": draw(LINKS),
            "curation": {"added": TODAY, "source": "invented", "checked": TODAY},
        }
    )


LISTS = st.integers(1, 3).flatmap(lambda count: st.tuples(*(entries(number) for number in range(count))))


@pytest.mark.parametrize("form", NAMES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(listed=LISTS)
def test_invented_papers_come_back(tmp_path: Path, form: str, listed: tuple[schema.Paper, ...]) -> None:
    head, known = papers.load(GARDEN)
    texts = {
        "bibtex": lambda: bibtex.bibliography(listed, head.venues),
        "csv": lambda: rows.to_csv(listed),
        "json": lambda: rows.to_json(head, listed),
        "ris": lambda: ris.references(listed, head.venues),
    }
    file, home = tmp_path / NAMES[form], tmp_path / "papers.yaml"
    file.write_text(texts[form](), encoding="utf-8", newline="")
    shutil.copy(GARDEN, home)
    importing.run(home, files.read(file, None, TODAY), "toads", TODAY)
    found = {paper.title: paper.model_dump() for paper in papers.load(home)[1]}
    assert len(found) == len(known) + len({paper.title for paper in listed})
    for paper in listed:
        was = facts(paper.model_dump(), form)
        if form in ("bibtex", "ris"):
            was["links"] = {kind: link for kind, link in paper.links.model_dump().items() if kind != "paper"}
        assert {key: facts(found[paper.title], form).get(key) for key in was} == was
    again = importing.run(home, files.read(file, None, TODAY), "toads", TODAY)
    assert (again.added, again.merged) == ([], [])


WRONG = {
    "no JSON": ('{"papers": [\n{]}', "json-syntax", 2),
    "another list": ('{"items": []}', "json-syntax", 1),
    "no object": ('{"schema": 1,\n"papers": [\n7]}', "json-entry", 3),
    "no title": ('{"papers": [\n\n{"ids": {"arxiv": "2405.00001"}}]}', "no-title", 3),
}


@pytest.mark.parametrize(("text", "code", "line"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_document_is_told_with_its_line(tmp_path: Path, text: str, code: str, line: int) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    (problem,) = files.read(tmp_path / "a.json", None, TODAY).problems
    assert (problem.code, problem.where, problem.warning) == (code, f"a.json:{line}", False)
