"""BibTeX that an independent parser reads back as the same paper."""

from pathlib import Path
from typing import Any

import pytest
from bibtexparser.library import Library
from bibtexparser.splitter import Splitter
from hypothesis import given
from hypothesis import strategies as st
from pylatexenc.latex2text import LatexNodes2Text

from catalog import exporters, papers
from catalog.schema import Paper

GARDEN = Path(__file__).parents[1] / "fixtures" / "garden.yaml"
HEAD, PAPERS = papers.load(GARDEN)
SHIELD = next(paper for paper in PAPERS if paper.id == "shield")


def parsed(text: str) -> list[dict[str, str]]:
    library: Library = Splitter(bibstr=text).split()
    assert library.failed_blocks == []
    return [{"kind": e.entry_type, "key": e.key, **{f.key: f.value for f in e.fields}} for e in library.entries]


def decoded(value: str) -> str:
    return str(LatexNodes2Text(keep_comments=True).latex_to_text(value))


def test_an_accepted_paper() -> None:
    (entry,) = parsed(exporters.bibtex(SHIELD, HEAD.venues))
    assert entry == {
        "kind": "inproceedings",
        "key": "shield",
        "title": "{{Shield}: Robust Gardening for {LLMs}}",
        "author": r"{Ann Bell and Zo{\"e} M{\"u}ller}",
        "booktitle": "{Conference on Neural Information Processing Systems}",
        "year": "{2024}",
        "doi": "{10.1234/shield.5}",
        "eprint": "{2402.01010}",
        "archiveprefix": "{arXiv}",
        "url": "{https://arxiv.org/abs/2402.01010}",
    }


def test_a_preprint_and_a_journal() -> None:
    breaker = next(paper for paper in PAPERS if paper.id == "breaker")
    (preprint,) = parsed(exporters.bibtex(breaker))
    assert (preprint["kind"], preprint["month"], preprint["year"]) == ("misc", "oct", "{2023}")
    venue = {"name": "TMLR", "year": 2024, "track": "journal", "status": "accepted"}
    (article,) = parsed(exporters.bibtex(changed(venue=venue), HEAD.venues))
    assert (article["kind"], article["journal"]) == ("article", "{Transactions on Machine Learning Research}")


@pytest.mark.parametrize(
    ("title", "latex"),
    [
        ("Costs 100% & more_of #1 $x", r"Costs 100{\%} {\&} more{\_}of {\#}1 {\$}x"),
        ("LoRA for GPT-4 and a BadLlama", "{LoRA} for {GPT}-4 and a {BadLlama}"),
        ("Safety first", "Safety first"),
    ],
)
def test_titles_are_escaped_and_names_protected(title: str, latex: str) -> None:
    (entry,) = parsed(exporters.bibtex(changed(title=title, nickname=None)))
    assert entry["title"] == f"{{{latex}}}"


def test_a_group_author_stays_whole() -> None:
    (entry,) = parsed(exporters.bibtex(changed(authors=["Llama Team, AI at Meta", "Ann Bell"])))
    assert entry["author"] == "{{Llama Team, AI at Meta} and Ann Bell}"


LETTERS = st.characters(min_codepoint=0xC0, max_codepoint=0xFF, categories=("L",))
ASCII = st.sampled_from("abzABZ0189 .,:;!?()[]/&%$#_{}\\=+*@")
PRINTABLE = st.text(LETTERS | ASCII, min_size=1, max_size=40).map(lambda text: " ".join(text.split()))


@given(PRINTABLE.filter(bool), PRINTABLE.filter(bool))
def test_any_title_and_name_comes_back(title: str, author: str) -> None:
    (entry,) = parsed(exporters.bibtex(changed(title=title, nickname=None, authors=[author])))
    assert "".join(decoded(entry["title"]).split()) == "".join(title.split())
    assert "".join(decoded(entry["author"]).split()) == "".join(author.split())


def test_the_real_catalogue_exports_every_entry_once() -> None:
    head, entries = papers.load(Path(__file__).parents[2] / "papers.yaml")
    found = parsed(exporters.bibliography(entries, head.venues))
    assert [entry["key"] for entry in found] == [paper.id for paper in entries]


def changed(**fields: Any) -> Paper:
    """Shield with other facts, valid by the schema or not."""
    data = SHIELD.model_dump() | fields
    return Paper.model_validate(data)
