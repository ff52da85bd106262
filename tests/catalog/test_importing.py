"""`hft import`: what comes into papers.yaml, what stays out, and that nothing is lost or doubled on the way."""

import datetime
import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from catalog import importing, lint, papers
from catalog.importers import files

FIXTURES = Path(__file__).parents[1] / "fixtures"
LIST = FIXTURES / "imports" / "list.md"
TODAY = datetime.date(2026, 11, 23)


def entries(path: Path) -> dict[str, dict[str, Any]]:
    """The entries of papers.yaml by id, as an independent reader sees them."""
    return {entry["id"]: entry for entry in YAML(typ="safe").load(path.read_text(encoding="utf-8"))["papers"]}


@pytest.fixture
def wide(project: Path) -> Path:
    """papers.yaml with the tags and venues that the list needs."""
    path = project / "papers.yaml"
    text = path.read_text(encoding="utf-8").replace("\nvenues:\n", '\n  federated: "Shared gardens"\nvenues:\n')
    path.write_text(text, encoding="utf-8")
    return path


def test_a_list_is_imported_and_the_second_time_adds_nothing(wide: Path, hft: Callable[..., Any]) -> None:
    before = wide.read_text(encoding="utf-8")
    first = json.loads((run := hft("import", str(LIST), "--json")).stdout)
    after = wide.read_text(encoding="utf-8")
    assert run.exit_code == 1  # two lines of the list are wrong
    assert [problem["code"] for problem in first["problems"] if not problem["warning"]] == [
        "not-understood",
        "bad-address",
    ]
    assert {each["title"]: [o.removeprefix("list.md:") for o in each["origins"]] for each in first["added"]} == {
        "Weeds & Worms: How Gardens Fall": ["10"],
        "Poisoned Compost Undoes Pruning": ["11"],
        "Slugs at Night Escape Every Fence": ["11"],
        "Mulch: Covering the Soil before Planting": ["15", "17"],
        "Trellis: Guided Growth under Stress": ["19"],
        "Terracotta Pots Keep Roots Aligned": ["21"],
        "Rain on an Impossible Date in the Greenhouse": ["23"],
        "Grafting Safe Branches onto Grown Trees": ["26"],
        "Watering without a Way to Get There": ["27"],
        "Community Gardens Share their Weeds": ["29"],
    }
    assert first["duplicates"] == [{"id": "breaker", "origins": ["list.md:9"], "why": "same arXiv id"}]
    found = entries(wide)
    assert found["mulch"] == {
        "id": "mulch",
        "title": "Mulch: Covering the Soil before Planting",
        "nickname": "Mulch",
        "authors": [],
        "date": datetime.date(2024, 6, 3),
        "ids": {"arxiv": "2406.00003", "openreview": "MuLcH12345", "doi": None, "acl": None},
        "venue": {"name": "arXiv", "year": 2024, "track": None, "status": "preprint"},
        "type": "defense",
        "stage": "alignment",
        "curation": {"added": datetime.date.today(), "source": "list.md", "checked": datetime.date.today()},
    }
    assert found["trellis"]["date"] == datetime.date(2024, 6, 1)  # the month of the id, as the list's is impossible
    assert found["trellis"]["unsure"] == ["date"]
    assert set(before.splitlines()) <= set(after.splitlines())  # comments and old entries stay
    assert hft("fmt", "--check").exit_code == 0
    assert [p for p in lint.examine(papers.read(wide))[1] if not p.warning] == []

    second = json.loads(hft("import", str(LIST), "--json").stdout)
    assert (second["added"], second["merged"], len(second["duplicates"])) == ([], [], 11)
    assert wide.read_text(encoding="utf-8") == after


def test_a_dry_run_says_the_same_and_writes_nothing(wide: Path, hft: Callable[..., Any]) -> None:
    before = wide.read_bytes()
    dry = json.loads(hft("import", str(LIST), "--dry-run", "--json").stdout)
    assert wide.read_bytes() == before
    assert dry == json.loads(hft("import", str(LIST), "--json").stdout)
    assert wide.read_bytes() != before


def test_a_known_paper_only_gains_what_it_lacks(project: Path, hft: Callable[..., Any]) -> None:
    (project / "new.md").write_text(
        "### Attacks\n"
        "- [2023/10/1] **A Handful of Turnips Breaks Any Gardener** *NeurIPS2024* [[p](https://arxiv.org/abs/2310.12345)]"
        " [[review](https://openreview.net/forum?id=TurNip1234)] [[code](https://github.com/turnips/handful)]\n"
        "- [2024/2/29] **Shield: Robust Gardening for LLMs** [[code](https://github.com/someone/else)]\n",
        encoding="utf-8",
    )
    before = (project / "papers.yaml").read_text(encoding="utf-8").splitlines()
    report = json.loads((run := hft("import", "new.md", "--json")).stdout)
    assert report["merged"] == [
        {
            "id": "breaker",
            "origins": ["new.md:2"],
            "why": "same arXiv id",
            "filled": {"ids.openreview": "TurNip1234", "links.code": "https://github.com/turnips/handful"},
        }
    ]
    assert [each["id"] for each in report["duplicates"]] == ["shield"]
    told = [(p["code"], p["where"], p["message"].split(" differs")[0]) for p in report["problems"]]
    assert told == [
        ("differs", "new.md:2", "date 2023-10-01"),
        ("differs", "new.md:2", "venue NeurIPS 2024"),
        ("differs", "new.md:3", "type attack"),
        ("differs", "new.md:3", "code link https://github.com/someone/else"),
    ]
    assert run.exit_code == 0
    after = (project / "papers.yaml").read_text(encoding="utf-8").splitlines()
    assert [line.strip() for line in after if line not in before] == [
        'ids: {arxiv: "2310.12345", openreview: "TurNip1234", doi: null, acl: null}',
        "links: {code: https://github.com/turnips/handful}",
    ]


CONFLICTS = {
    "another arXiv id": (
        "**Shield: Robust Gardening for LLMs** [[p](https://arxiv.org/abs/2402.09999)]",
        "id-conflict",
    ),
    "another title": (
        "**A Pond for Every Frog** [[p](https://arxiv.org/abs/2402.01010)] [[o](https://openreview.net/forum?id=PoNd1234)]",
        "title-conflict",
    ),
    "ids of two entries": (
        "**Shield: Robust Gardening for LLMs** [[p](https://arxiv.org/abs/2310.12345)] [[d](https://doi.org/10.1234/shield.5)]",
        "two-entries",
    ),
    "no date": ("**Frogs and Toads of a Pond** *NeurIPS* [[d](https://doi.org/10.1234/frog.5)]", "no-date"),
    "unknown venue": (
        "[2024/2/2] **Frogs and Toads of a Pond** *Pondology Letters* [[p](https://frogs.org/1)]",
        "unknown-venue",
    ),
    "venue that the head lacks": (
        "[2024/2/2] **Frogs and Toads of a Pond** *ICLR2024* [[p](https://arxiv.org/abs/2402.00001)]",
        "unknown-venue",
    ),
    "venue before its paper": (
        "[2024/2/2] **Frogs and Toads of a Pond** *NeurIPS2021* [[p](https://arxiv.org/abs/2402.00001)]",
        "venue-year",
    ),
    "future": (
        "[2031/2/2] **Frogs and Toads of a Pond** [[p](https://openreview.net/forum?id=PoNd123456)]",
        "date-in-future",
    ),
}


@pytest.mark.parametrize(("item", "code"), CONFLICTS.values(), ids=CONFLICTS)
def test_a_conflict_is_told_with_its_line_and_changes_nothing(
    project: Path, hft: Callable[..., Any], item: str, code: str
) -> None:
    (project / "new.md").write_text(f"### Attacks\n\n- {item}\n", encoding="utf-8")
    before = (project / "papers.yaml").read_bytes()
    run = hft("import", "new.md", "--json")
    report = json.loads(run.stdout)
    assert (report["added"], report["merged"], run.exit_code) == ([], [], 1)
    errors = [problem for problem in report["problems"] if not problem["warning"]]
    assert code in {problem["code"] for problem in errors}
    assert all(problem["where"] == "new.md:3" and problem["fix"] for problem in errors)
    assert (project / "papers.yaml").read_bytes() == before


def test_type_and_stage_of_the_command_fill_in_where_the_file_is_silent(project: Path, hft: Callable[..., Any]) -> None:
    (project / "a.bib").write_text(
        "@misc{a, title={Frogs of a Pond}, date={2024-02-02}, eprint={2402.00001}}\n"
        "@misc{b, title={Toads of Many Meadows}, date={2024-02-03}, eprint={2402.00002}, keywords={attack}}\n",
        encoding="utf-8",
    )
    assert hft("import", "a.bib", "--type", "attack", "--stage", "alignment").exit_code == 2
    assert hft("import", "a.bib", "--stage", "alignment", "--source", "a shelf").exit_code == 0
    found = entries(project / "papers.yaml")
    assert (found["frogs-pond"]["type"], found["frogs-pond"]["stage"]) == ("defense", "alignment")
    assert found["toads-many-meadows"]["type"] == "attack"
    assert found["frogs-pond"]["curation"]["source"] == "a shelf"


def test_wrong_use_and_unreadable_files(project: Path, hft: Callable[..., Any]) -> None:
    assert hft("import").exit_code == 2
    assert "--format" in (run := hft("import", "papers.yaml")).stderr
    assert run.exit_code == 1
    assert "nowhere.md: No such file" in hft("import", "nowhere.md").stderr
    (project / "picture.md").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    assert "binary" in hft("import", "picture.md").stderr


def test_a_catalogue_with_problems_is_not_touched(project: Path, hft: Callable[..., Any], edit: Any) -> None:
    edit("type: attack", "type: atack")
    before = (project / "papers.yaml").read_bytes()
    assert "atack" in (run := hft("import", str(LIST))).stderr
    assert run.exit_code == 1
    assert (project / "papers.yaml").read_bytes() == before


ITEMS = [line for line in LIST.read_text(encoding="utf-8").splitlines() if line.startswith("* [2")] + [
    "* [2024/6/30] **Mulch: covering the soil before planting!** *NeurIPS2024* [[doi](https://doi.org/10.1234/mulch)]",
    "* [2024/6/5] **A Different Title Altogether** *arXiv* [[paper](https://arxiv.org/abs/2406.00003)]",
    "* [2024/6/3] **Mulch: Covering the Soil before Planting** *arXiv* [[paper](https://arxiv.org/abs/2406.00077)]",
    "* [2024/6/9] **Mulch of the Forest Floor in Autumn** *arXiv* [[paper](https://arxiv.org/abs/2406.00055)]",
]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chance=st.randoms(use_true_random=False), lines=st.lists(st.sampled_from(ITEMS), min_size=2, max_size=9))
def test_the_order_of_lines_decides_nothing(tmp_path: Path, chance: random.Random, lines: list[str]) -> None:
    results = []
    for number, order in enumerate([lines, chance.sample(lines, len(lines))]):
        path, home = tmp_path / "list.md", tmp_path / f"{number}.yaml"
        path.write_text("### Attacks\n" + "\n\n".join(order), encoding="utf-8")
        shutil.copy(FIXTURES / "garden.yaml", home)
        importing.run(home, files.read(path, None, TODAY), "a list", TODAY)
        results.append(home.read_bytes())
        again = importing.run(home, files.read(path, None, TODAY), "a list", TODAY)
        assert (again.added, again.merged, home.read_bytes()) == ([], [], results[-1])
    assert results[0] == results[1]


def test_two_thousand_papers_take_seconds(tmp_path: Path) -> None:
    chance = random.Random(3)
    words = ["".join(chance.choices("abcdefghiklmnoprstuvw", k=chance.randint(3, 10))) for _ in range(900)]
    rows = [
        f'"{" ".join(chance.choices(words, k=9))}",2024-{n % 9 + 1:02}-03,24{n % 9 + 1:02}.{n:05},attack'
        for n in range(2000)
    ]
    path, home = tmp_path / "many.csv", tmp_path / "papers.yaml"
    path.write_text("title,date,arxiv,type\n" + "\n".join(rows + rows[:100]), encoding="utf-8")
    shutil.copy(FIXTURES / "garden.yaml", home)
    start = time.process_time()
    report = importing.run(home, files.read(path, None, TODAY), "many", TODAY, dry=True)
    assert time.process_time() - start < 10
    assert (len(report.added), [p for p in report.problems if not p.warning]) == (2000, [])
