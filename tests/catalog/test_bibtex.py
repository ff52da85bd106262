"""BibTeX that an independent parser reads back as the same paper."""

import datetime
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pybtex.database
import pytest
from bibtexparser.library import Library
from bibtexparser.splitter import Splitter
from hypothesis import given
from hypothesis import strategies as st
from pylatexenc.latex2text import LatexNodes2Text

from catalog import papers
from catalog.exports import keys
from catalog.exports.bibtex import bibliography
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
    (entry,) = parsed(bibliography([SHIELD], HEAD.venues))
    assert entry == {
        "kind": "inproceedings",
        "key": "bell2024shield",
        "title": "{{Shield}: Robust Gardening for {LLMs}}",
        "author": r"{Ann Bell and Zo{\"e} M{\"u}ller}",
        "booktitle": "{Conference on Neural Information Processing Systems}",
        "shorttitle": "{Shield}",
        "year": "{2024}",
        "origdate": "{2024-02-29}",
        "doi": "{10.1234/shield.5}",
        "eprint": "{2402.01010}",
        "archiveprefix": "{arXiv}",
        "url": "{https://arxiv.org/abs/2402.01010}",
        "openreview": "{AbCdEfGh12}",
        "code": "{https://github.com/gardeners/shield}",
        "keywords": "{defense, alignment, perturbation}",
    }


def test_a_preprint_and_a_journal() -> None:
    breaker = next(paper for paper in PAPERS if paper.id == "breaker")
    (preprint,) = parsed(bibliography([breaker], classes={"2310.12345": "cs.CL"}))
    assert (preprint["kind"], preprint["month"], preprint["year"]) == ("misc", "oct", "{2023}")
    assert (preprint["archiveprefix"], preprint["primaryclass"]) == ("{arXiv}", "{cs.CL}")
    venue = {"name": "TMLR", "year": 2024, "track": "journal", "status": "accepted"}
    (article,) = parsed(bibliography([changed(venue=venue)], HEAD.venues))
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
    (entry,) = parsed(bibliography([changed(title=title, nickname=None)]))
    assert entry["title"] == f"{{{latex}}}"


def test_a_group_author_stays_whole() -> None:
    (entry,) = parsed(bibliography([changed(authors=["Llama Team, AI at Meta", "Ann Bell"])]))
    assert entry["author"] == "{{Llama Team, AI at Meta} and Ann Bell}"


LETTERS = st.characters(min_codepoint=0xC0, max_codepoint=0xFF, categories=("L",))
ASCII = st.sampled_from("abzABZ0189 .,:;!?()[]/&%$#_{}\\=+*@")
PRINTABLE = st.text(LETTERS | ASCII, min_size=1, max_size=40).map(lambda text: " ".join(text.split()))


@given(PRINTABLE.filter(bool), PRINTABLE.filter(bool))
def test_any_title_and_name_comes_back(title: str, author: str) -> None:
    (entry,) = parsed(bibliography([changed(title=title, nickname=None, authors=[author])]))
    assert "".join(decoded(entry["title"]).split()) == "".join(title.split())
    assert "".join(decoded(entry["author"]).split()) == "".join(author.split())


def test_the_real_catalogue_exports_every_entry_once() -> None:
    head, entries = papers.load(Path(__file__).parents[2] / "papers.yaml")
    found = parsed(bibliography(entries, head.venues))
    assert [decoded(entry["title"]).replace(" ", "") for entry in found] == [
        re.sub(r'"([^"]*)"', r"“\1”", paper.title).replace(" ", "") for paper in entries
    ]
    names = [entry["key"].casefold() for entry in found]
    assert len(set(names)) == len(entries)
    assert "huang2024vaccine" in names


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"authors": ["Zoë Müller"], "title": "The Attack"}, "muller2024attack"),
        ({"authors": ["Łukasz Żak"], "title": "On LoRA’s Limits"}, "zak2024loras"),
        ({"authors": ["Llama Team, AI at Meta"], "title": "A"}, "llamateam2024untitled"),
        ({"authors": [], "title": "Shield: x"}, "shield2024x"),
        ({"authors": ["王 伟"], "title": "Safe"}, "shield2024safe"),
    ],
)
def test_a_key_is_family_year_word(fields: dict[str, Any], key: str) -> None:
    assert keys.of([changed(**fields)]) == {"shield": key}


def test_a_key_once_given_out_stays() -> None:
    day = datetime.date(2026, 11, 21)
    curation = SHIELD.curation.model_dump()
    later = [
        changed(id=f"later-{n}", date=datetime.date(2024, 1, 1), curation=curation | {"added": day}) for n in range(15)
    ]
    known = keys.of([SHIELD])
    every = keys.of([*later, SHIELD])
    assert every["shield"] == known["shield"] == "bell2024shield"
    assert every["later-0"] == "bell2024shieldrobust"
    assert len(set(every.values())) == 16
    assert keys.of(reversed([*later, SHIELD])) == every


PROGRAM = pytest.mark.skipif(shutil.which("bibtex") is None or shutil.which("biber") is None, reason="no bibtex, biber")


@PROGRAM
def test_bibtex_and_biber_accept_the_whole_catalogue(tmp_path: Path) -> None:
    head, entries = papers.load(Path(__file__).parents[2] / "papers.yaml")
    (tmp_path / "all.bib").write_text(bibliography(entries, head.venues), encoding="utf-8")
    cited = "\\citation{*}\n\\bibstyle{plain}\n\\bibdata{all}\n"
    (tmp_path / "x.aux").write_text(cited, encoding="utf-8")
    (tmp_path / "plain.bst").write_text(STYLE, encoding="utf-8")
    told = subprocess.run(["bibtex", "x"], cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    assert "error" not in told.casefold(), told
    assert (tmp_path / "x.bbl").read_text(encoding="latin-1").count("ENTRY ") == len(entries)
    command = ["biber", "--tool", "--validate-datamodel", "--nolog", "--output-file=out.bib", "all.bib"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    assert "ERROR" not in told, told
    assert len(re.findall(r"(?m)^\s+TITLE = ", (tmp_path / "out.bib").read_text(encoding="utf-8"))) == len(entries)


STYLE = """ENTRY { author title year } {} {}
FUNCTION {any} { "ENTRY " cite$ * write$ newline$ author empty$ 'skip$ { author num.names$ pop$ } if$
  title "t" change.case$ write$ newline$ }
FUNCTION {article} { any } FUNCTION {inproceedings} { any } FUNCTION {misc} { any } FUNCTION {default.type} { any }
READ ITERATE {call.type$}
"""


def test_pybtex_reads_the_same_authors() -> None:
    head, entries = papers.load(Path(__file__).parents[2] / "papers.yaml")
    found = pybtex.database.parse_string(bibliography(entries, head.venues), "bibtex")
    assert len(found.entries) == len(entries)
    counts = [len(entry.persons.get("author", [])) for entry in found.entries.values()]
    assert counts == [len(paper.authors) for paper in entries]


def changed(**fields: Any) -> Paper:
    """Shield with other facts, valid by the schema or not."""
    data = SHIELD.model_dump() | fields
    return Paper.model_validate(data)
