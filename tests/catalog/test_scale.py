"""Large catalogues: what is read quickly is what ruamel reads, and no step grows with the square of the papers."""

import time
from pathlib import Path
from typing import Any

import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import db, lint, papers, plainyaml, query
from catalog.blocks import Blocks
from catalog.papers import Document

GARDEN = (Path(__file__).parents[1] / "fixtures" / "garden.yaml").read_text(encoding="utf-8")


def by_ruamel(text: str) -> Any:
    return papers.plain(papers.parse(text))


@given(st.text(st.sampled_from("abyesnoNULtrue019.:-_~+ eExo'\",[]{}#&*!|>%@\n"), max_size=14))
@settings(max_examples=400, deadline=None)
def test_a_value_is_read_as_ruamel_reads_it_or_left_to_it(value: str) -> None:
    text = f"a: {value}\n"
    try:
        found = plainyaml.load(text)
    except plainyaml.NotPlainError:
        return
    if isinstance(found, dict):
        assert repr(found) == repr(by_ruamel(text))


ODD = ["a: &x 1", "a: *x", "a: !!str 1", "a: 1\na: 2", "<<: {a: 1}", "1: a", "a: 2024-02-30", "a: |#", "a: >-#"]


@pytest.mark.parametrize("text", ODD)
def test_what_is_more_than_plain_data_is_left_to_ruamel(text: str) -> None:
    with pytest.raises(plainyaml.NotPlainError):
        plainyaml.load(text)


def test_words_of_yaml_1_1_stay_words() -> None:
    assert plainyaml.load("[no, on, 1:30, 1_0, 0o10, 010]") == by_ruamel("a: [no, on, 1:30, 1_0, 0o10, 010]")["a"]


def test_the_real_file_is_read_as_ruamel_reads_it() -> None:
    for text in (GARDEN, (Path(__file__).parents[2] / "papers.yaml").read_text(encoding="utf-8")[:60_000]):
        text = text[: text.rindex("\n  - id:")] + "\n" if len(text) > 50_000 else text
        document = Document(Path("papers.yaml"), text)
        assert list(document.plain_entries()) == by_ruamel(text)["papers"]
        whole = Document(Path("papers.yaml"), text, papers.parse(text))
        for index in (0, len(document) - 1):
            for key in ("id", "title", "ids", "curation"):
                assert document.line(("papers", index, key)) == whole.line(("papers", index, key))


@pytest.mark.parametrize(
    "text",
    ["papers: []\n", "papers:\n  - {a: 1}\nschema: 1\n", "a: 1\n", "papers:\n  a: 1\n", "papers:\n  -\n    a: 1\n"],
)
def test_other_forms_have_no_blocks(text: str) -> None:
    assert Blocks.of(text) is None


@pytest.fixture
def invented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def write(count: int) -> Path:
        folder = tmp_path / str(count)
        folder.mkdir()
        synthetic.write(folder / "papers.yaml", count)
        return folder

    return write


def test_a_large_catalogue_is_sound_and_searched(invented: Any) -> None:
    folder = invented(1_500)
    assert db.build(folder, folder / "x.sqlite")["paper"] == 1_500
    engine = db.connect(folder / "x.sqlite")
    hits = query.search(engine, "paper-000777")
    assert [hit["id"] for hit in hits] == ["paper-000777"]
    title = hits[0]["title"]
    assert title in [hit["title"] for hit in query.search(engine, title)]
    engine.dispose()


def test_time_grows_with_the_papers_not_with_their_square(invented: Any) -> None:
    def least(path: Path) -> float:
        """Seconds of the fastest of three: the others had the machine or the garbage collector against them."""
        seconds = []
        for _ in range(3):
            start = time.process_time()
            lint.sound(path)
            seconds.append(time.process_time() - start)
        return min(seconds)

    few, many = (least(invented(count) / "papers.yaml") for count in (500, 2_000))
    assert many < 8 * few, (few, many)  # 4 times the papers; a square would take 16 times


def test_one_faulty_entry_among_many_is_told_with_its_line(invented: Any) -> None:
    path = invented(300) / "papers.yaml"
    text = path.read_text(encoding="utf-8").replace("id: paper-000250\n", "id: paper-000250\n    colour: red\n")
    path.write_text(text, encoding="utf-8")
    (problem,) = lint.examine(papers.read(path))[1]
    line = text[: text.index("    colour")].count("\n") + 1
    assert (problem.where, problem.paper, problem.code) == (f"papers.yaml:{line}", "paper-000250", "unknown-key")
