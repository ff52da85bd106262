"""BibTeX, RIS and CSV files with everything that goes wrong in them, and exactly what is read."""

import datetime
from pathlib import Path

import pytest

from catalog.candidates import Candidate
from catalog.importers import bibtex, files
from catalog.importers.reading import Reading

FIXTURES = Path(__file__).parents[1] / "fixtures" / "imports"
TODAY = datetime.date(2026, 11, 23)
DAY = datetime.date(2024, 7, 1)


def read(name: str) -> tuple[Reading, list[tuple[str, str, bool]]]:
    reading = files.read(FIXTURES / name, None, TODAY)
    assert all(problem.fix for problem in reading.problems)
    return reading, sorted((p.code, p.where, p.warning) for p in reading.problems)


def test_a_bibtex_file_is_read_exactly() -> None:
    reading, problems = read("refs.bib")
    weeds, pots, other = sorted(reading.candidates, key=lambda each: int(each.origin.rpartition(":")[2]))
    assert weeds == Candidate(
        "Weeds & Worms: How LLM Gardens Fall at 50% Rain",
        ("Ann Bell", "Zoë Müller", "Łukasz Żak", "The Garden Team, at Home"),
        ids={"arxiv": "2403.00011"},
        venue="Advances in Neural Information Processing Systems 2024",
        links={"code": "https://github.com/weeds/worms"},
        origin="refs.bib:4",
        type="attack",
        tags=("few-shot",),
    )
    assert pots == Candidate(
        "Terracotta Pots Keep Roots Aligned",
        date=DAY,
        ids={"doi": "10.1234/pots.5"},
        venue="Transactions on Machine Learning Research 2024",
        origin="refs.bib:17",
        type="defense",
        stage="fine-tuning",
    )
    assert (other.title, other.ids, other.origin) == (
        "Another Paper under the Same Key",
        {"arxiv": "2405.00002"},
        "refs.bib:22",
    )
    assert problems == [
        ("authors-cut", "refs.bib:17", True),
        ("bibtex-field", "refs.bib:20", False),
        ("bibtex-key", "refs.bib:22", True),
        ("bibtex-syntax", "refs.bib:24", False),
        ("bibtex-syntax", "refs.bib:28", False),
        ("no-title", "refs.bib:26", False),
    ]


@pytest.mark.parametrize(
    ("latex", "text"),
    [  # from the documentation of LaTeX and of BibTeX's names
        (r"G{\"o}del and Erd\H{o}s", "Gödel and Erdős"),
        (r"\AA ngstr\"om, \O rsted, {\ss}, {\ae}", "Ångström, Ørsted, ß, æ"),
        (r"\'{\i}ndice, \c{c}a, \v{S}koda, \~n, \`a, \^o, \u{g}, \k{a}, \.z", "índice, ça, Škoda, ñ, à, ô, ğ, ą, ż"),
        (r"{LoRA}: $\alpha$--$\beta$ \emph{and} \textbf{more} ``words''", "LoRA: α–β and more “words”"),
        (r"100% safe, 50\% sure, A\&B, \#1, x\_y", "100% safe, 50% sure, A&B, #1, x_y"),
    ],
)
def test_latex_as_text(latex: str, text: str) -> None:
    assert bibtex.decoded(latex) == text


@pytest.mark.parametrize(
    ("author", "names"),
    [
        ("Charles Louis Xavier Joseph de la Vall{\\'e}e Poussin", ["Charles Louis Xavier Joseph de la Vallée Poussin"]),
        ("van Beethoven, Ludwig and Ford, Jr., Henry", ["Ludwig van Beethoven", "Henry Ford Jr."]),
        ("{Barnes and Noble, Inc.} and Brinch Hansen, Per", ["Barnes and Noble, Inc.", "Per Brinch Hansen"]),
        ("Aristotle and\n  Knuth, Donald E.", ["Aristotle", "Donald E. Knuth"]),
    ],
)
def test_names_as_bibtex_takes_them_apart(tmp_path: Path, author: str, names: list[str]) -> None:
    path = tmp_path / "a.bib"
    path.write_text(f"@misc{{a, title={{T}}, author={{{author}}}, year=2024, eprint={{2402.00001}}}}", encoding="utf-8")
    (found,) = files.read(path, None, TODAY).candidates
    assert list(found.authors) == names


def test_a_ris_file_is_read_exactly() -> None:
    reading, problems = read("refs.ris")
    assert reading.candidates == [
        Candidate(
            "Terracotta Pots Keep Roots Aligned & Dry",
            ("José de la Vallée", "Jan van der Berg Jr."),
            DAY,
            {"arxiv": "2407.00001", "doi": "10.1234/pots.5"},
            "Transactions on Machine Learning Research 2024",
            origin="refs.ris:2",
            type="defense",
            stage="fine-tuning",
        ),
        Candidate(
            "Weeds and Worms: a title that is wrapped",
            ("Ann Bell",),
            ids={"arxiv": "2403.00011"},
            venue="Advances in Neural Information Processing Systems 2024",
            origin="refs.ris:15",
        ),
    ]
    assert problems == [
        ("no-title", "refs.ris:25", False),
        ("ris-syntax", "refs.ris:1", False),
        ("ris-syntax", "refs.ris:23", False),
        ("ris-syntax", "refs.ris:28", False),
    ]


def test_a_csv_file_is_read_exactly() -> None:
    reading, problems = read("refs.csv")
    assert reading.candidates == [
        Candidate(
            "Mulch: Covering the Soil",
            ("Ann Bell", "Zoë Müller"),
            datetime.date(2024, 2, 2),
            {"arxiv": "2402.00001"},
            "NeurIPS2024",
            {"code": "https://github.com/a/b"},
            "refs.csv:2",
            "defense",
            "pre-training",
        ),
        Candidate(
            "Two Lines in a Title",
            date=datetime.date(2024, 5, 1),
            ids={"arxiv": "2405.00002"},
            origin="refs.csv:3",
            type="attack",
        ),
        Candidate(
            "An Impossible arXiv Id", date=datetime.date(2024, 5, 1), venue="arXiv", origin="refs.csv:6", type="attack"
        ),
        Candidate("Wrong Word", date=datetime.date(2024, 5, 3), ids={"arxiv": "2405.00004"}, origin="refs.csv:7"),
    ]
    assert problems == [
        ("bad-address", "refs.csv:6", False),
        ("csv-cells", "refs.csv:5", False),
        ("csv-column", "refs.csv:1", True),
        ("csv-word", "refs.csv:7", False),
        ("link-query", "refs.csv:2", True),
    ]


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("a.csv", 'title,date\n"never closed,2024', "csv-syntax"),
        ("a.csv", "paper,date\nx,2024\n", "csv-column"),
        ("a.tsv", "title\tarxiv\nA Title\t2402.00001\textra\n", "csv-cells"),
        ("a.bib", "@article key, title = {zz}\n}", "bibtex-syntax"),
        ("a.ris", "TI  - no beginning\nER  - \n", "ris-syntax"),
    ],
)
def test_broken_files_are_told(tmp_path: Path, name: str, text: str, code: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert code in {p.code for p in files.read(tmp_path / name, None, TODAY).problems if not p.warning}


@pytest.mark.parametrize("name", ["a.csv", "a.bib", "a.ris", "a.md"])
def test_an_empty_file_has_no_papers(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf\r\n\r\n")
    assert files.read(tmp_path / name, None, TODAY).candidates == []
