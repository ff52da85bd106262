"""Markdown lists with everything that goes wrong in them, and exactly what is read."""

import datetime
from pathlib import Path

import pytest

from catalog.candidates import Candidate
from catalog.importers import files
from catalog.importers.reading import Reading

LIST = Path(__file__).parents[1] / "fixtures" / "imports" / "list.md"
TODAY = datetime.date(2026, 11, 23)


def read(path: Path, text: str | bytes) -> Reading:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return files.read(path, None, TODAY)


def day(text: str) -> datetime.date:
    return datetime.date.fromisoformat(text)


def at(line: int) -> str:
    return f"list.md:{line}"


EXPECTED = [
    Candidate(
        "A Handful of Turnips Breaks Any Gardener",
        date=day("2023-10-05"),
        ids={"arxiv": "2310.12345"},
        origin=at(9),
        type="attack",
    ),
    Candidate(
        "Weeds & Worms: How Gardens Fall",
        date=day("2024-03-01"),
        ids={"arxiv": "2403.00011"},
        venue="Neurips'24",
        links={"code": "https://github.com/weeds/worms"},
        origin=at(10),
        type="attack",
    ),
    Candidate(
        "Poisoned Compost Undoes Pruning",
        date=day("2024-05-02"),
        ids={"arxiv": "2405.00002"},
        origin=at(11),
        type="attack",
    ),
    Candidate(
        "Slugs at Night Escape Every Fence",
        date=day("2024-05-09"),
        ids={"arxiv": "2405.00009"},
        origin=at(11),
        type="attack",
    ),
    Candidate(
        "Mulch: Covering the Soil before Planting",
        date=day("2024-06-03"),
        ids={"arxiv": "2406.00003"},
        origin=at(15),
        type="defense",
        stage="alignment",
    ),
    Candidate(
        "Mulch: Covering the Soil Before Planting",
        date=day("2024-10-08"),
        ids={"openreview": "MuLcH12345"},
        origin=at(17),
        type="defense",
        stage="alignment",
    ),
    Candidate(
        "Trellis: Guided Growth under Stress",
        ids={"arxiv": "2406.00004"},
        origin=at(19),
        type="defense",
        stage="fine-tuning",
    ),
    Candidate(
        "Terracotta Pots Keep Roots Aligned",
        date=day("2024-07-01"),
        ids={"openreview": "TeRRa54321"},
        venue="TMLR",
        links={"code": "https://anonymous.4open.science/r/pots-1"},
        origin=at(21),
        type="defense",
        stage="fine-tuning",
    ),
    Candidate(
        "Rain on an Impossible Date in the Greenhouse",
        ids={"arxiv": "2407.00005"},
        origin=at(23),
        type="defense",
        stage="fine-tuning",
    ),
    Candidate(
        "Grafting Safe Branches onto Grown Trees",
        authors=("Ann Bell", "Zoë Müller", "Łukasz Żak"),
        ids={"arxiv": "2408.00006"},
        venue="NeurIPS 2025",
        links={"code": "https://github.com/graft/graft"},
        origin=at(26),
        type="defense",
        stage="post-fine-tuning",
    ),
    Candidate(
        "Watering without a Way to Get There",
        date=day("2024-08-09"),
        venue="NeurIPS2024",
        origin=at(27),
        type="defense",
        stage="post-fine-tuning",
    ),
    Candidate(
        "Community Gardens Share their Weeds",
        date=day("2024-09-01"),
        ids={"arxiv": "2409.00007"},
        origin=at(29),
        tags=("federated",),
    ),
]
PROBLEMS = [
    ("link-query", at(10), True),
    ("merged-lines", at(11), True),
    ("date-arxiv", at(19), True),
    ("link-token", at(21), True),
    ("bad-date", at(23), True),
    ("not-understood", at(24), False),
    ("bad-address", at(27), False),
]


def test_a_list_is_read_exactly() -> None:
    reading = files.read(LIST, None, TODAY)
    assert reading.candidates == EXPECTED
    assert sorted((p.code, p.where, p.warning) for p in reading.problems) == sorted(PROBLEMS)
    assert all(problem.fix for problem in reading.problems)
    assert "s3cr3t" not in "".join(map(str, reading.problems))


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: text.encode("utf-16"),
    ],
    ids=["BOM", "CRLF", "CR", "UTF-16"],
)
def test_the_same_list_in_other_bytes(tmp_path: Path, encode) -> None:
    reading = read(tmp_path / "list.md", encode(LIST.read_text(encoding="utf-8")))
    assert reading.candidates == EXPECTED
    assert sorted((p.code, p.where, p.warning) for p in reading.problems) == sorted(PROBLEMS)


def test_bytes_of_another_encoding_are_mended_and_told(tmp_path: Path) -> None:
    line = "* [2024/2/2] **Gärten für Zoë – and Others** [[paper](https://arxiv.org/abs/2402.00001)]"
    broken = line.encode().decode("cp1252").encode()  # UTF-8 that was read as Windows-1252
    reading = read(tmp_path / "list.md", b"### Attacks\n" + line.encode("cp1252") + b"\n\n" + broken + b"\n")
    assert [each.title for each in reading.candidates] == ["Gärten für Zoë – and Others"] * 2
    assert [(p.code, p.where) for p in reading.problems] == [("encoding", at(2)), ("mojibake", at(4))]


def test_correct_accents_are_left_alone(tmp_path: Path) -> None:
    title = "L’été à Łódź: Ñandú, Ærø, Čapek and 漢字 “quoted” – naïve Ångström"
    reading = read(tmp_path / "list.md", f"* [2024/2/2] **{title}** [[paper](https://arxiv.org/abs/2402.00001)]")
    assert [each.title for each in reading.candidates] == [title]
    assert reading.problems == []


@pytest.mark.parametrize(
    ("heading", "kind", "stage"),
    [
        ("### Attacks", "attack", None),
        ("## 🔥 Red-Teaming", "attack", None),
        ("### Alignment-stage defenses", "defense", "alignment"),
        ("### Defences\n#### Fine-tuning Stage", "defense", "fine-tuning"),
        ("### Defenses\n#### Post-Fine-tuning Stage Defenses", "defense", "post-fine-tuning"),
        ("### Defenses\n#### Pretraining Stage Defenses", "defense", "pre-training"),
        ("### Mechanical Study", "mechanism", None),
        ("### Interpretability study", "mechanism", None),
        ("### Benchmark", "benchmark", None),
        ("### Surveys", "survey", None),
        ("### Defenses\n#### Alignment Stage Defenses\n### Attacks", "attack", None),
        ("### Attacks/Defenses for Federated Fine-tuning", None, None),
        ("### Papers on fine-tuning", None, None),
    ],
)
def test_headings_give_type_and_stage(tmp_path: Path, heading: str, kind: str | None, stage: str | None) -> None:
    item = "- [2024/2/2] **Some Title of a Paper** [[paper](https://arxiv.org/abs/2402.00001)]"
    (found,) = read(tmp_path / "list.md", f"{heading}\n{item}\n").candidates
    assert (found.type, found.stage) == (kind, stage)


@pytest.mark.parametrize(
    "item",
    [
        "1. **Some Title of a Paper**, arXiv 2024. [paper](https://arxiv.org/abs/2402.00001)",
        "* [Some Title of a Paper](https://arxiv.org/abs/2402.00001) (2024/2/2)",
        "* Some Title of a Paper [[paper](https://arxiv.org/pdf/2402.00001)]",
        "* **Some Title of a Paper**\n  * [paper](https://arxiv.org/abs/2402.00001)\n  * [2024](#year)",
        "* **Some Title of a Paper** https://arxiv.org/abs/2402.00001",
        "* __Some *Title* of a `Paper`__ <https://arxiv.org/abs/2402.00001>",
        "[2024/2/2] **Some Title of a Paper** [[paper](https://arxiv.org/abs/2402.00001)]",
        "* **New!** **Some Title of a Paper** [[alphaxiv](https://www.alphaxiv.org/abs/2402.00001v2)]",
        "| Title | Date | Links |\n|--|--|--|\n|Some Title of a Paper|2024/2/2|[x](https://arxiv.org/pdf/2402.00001)|",
    ],
)
def test_other_shapes_of_an_item(tmp_path: Path, item: str) -> None:
    reading = read(tmp_path / "list.md", f"### Attacks\n\n{item}\n")
    assert [(each.title, each.ids, each.type) for each in reading.candidates] == [
        ("Some Title of a Paper", {"arxiv": "2402.00001"}, "attack")
    ]
    assert [p for p in reading.problems if not p.warning] == []


def test_two_papers_in_one_item_without_dates(tmp_path: Path) -> None:
    one = "**Some Title of a Paper** [[paper](https://arxiv.org/abs/2402.00001)] [[code](https://github.com/a/b)]"
    two = "**Another Title of Another Paper** [[paper](https://arxiv.org/abs/2402.00002)]"
    reading = read(tmp_path / "list.md", f"- {one}\n{two}\n")
    assert [(each.title[:7], each.ids["arxiv"], dict(each.links)) for each in reading.candidates] == [
        ("Some Ti", "2402.00001", {"code": "https://github.com/a/b"}),
        ("Another", "2402.00002", {}),
    ]
    assert [p.code for p in reading.problems] == ["merged-lines"]


def test_two_arxiv_ids_of_one_paper_are_an_error(tmp_path: Path) -> None:
    item = "- **Some Title of a Paper** [[a](https://arxiv.org/abs/2402.00001)] [[b](https://arxiv.org/abs/2402.00002)]"
    reading = read(tmp_path / "list.md", item)
    assert [(p.code, p.where, p.warning) for p in reading.problems] == [("two-addresses", at(1), False)]


def test_a_title_is_wanted_with_an_address(tmp_path: Path) -> None:
    reading = read(tmp_path / "list.md", "### Attacks\n- [2024/2/2] [[paper](https://arxiv.org/abs/2402.00001)]\n")
    assert reading.candidates == []
    assert [(p.code, p.where, p.warning) for p in reading.problems] == [("no-title", at(2), False)]
