"""The whole field in papers.yaml, against counts taken from the bibliographic table it was imported from.

The table has 173 rows: 118 defenses, 35 attacks, 12 mechanisms, 5 benchmarks, 1 survey and 2 under "federated".
Changed on import: the two federated papers are attacks with that tag, `pretraining` is spelled pre-training, the
survey's list is its project and not its code, and one of fourteen missing lists of authors was found elsewhere.
"""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from catalog import excluded, ids, lint, missing, papers
from catalog.papers import Catalogue

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def field() -> Catalogue:
    catalogue, problems = lint.examine(papers.read(ROOT / papers.FILE))
    assert [problem for problem in problems if not problem.warning] == []
    return catalogue


def test_hft_list_counts_as_the_table_does(hft: Any, project: Path) -> None:
    for name in (papers.FILE, excluded.FILE, excluded.SCOPE):
        shutil.copy(ROOT / name, project / name)
    rows = json.loads(hft("list", "--json").stdout)
    assert len(rows) == 173
    assert Counter(row["type"] for row in rows) == {
        "defense": 118,
        "attack": 35 + 2,
        "mechanism": 12,
        "benchmark": 5,
        "survey": 1,
    }
    stages = {"alignment": 27, "fine-tuning": 58, "post-fine-tuning": 32, "pre-training": 1, None: 55}
    assert Counter(row["stage"] for row in rows) == stages
    years = {"2022": 1, "2023": 11, "2024": 52, "2025": 90, "2026": 19}
    assert Counter(row["date"][:4] for row in rows) == Counter(str(row["year"]) for row in rows) == years
    assert sum("federated" in row["tags"] for row in rows) == 2
    assert sum(row["arxiv"] is not None for row in rows) == 158
    assert sum(bool(row["authors"]) for row in rows) == 159 + 1


def test_links_to_code_and_seeds(field: Catalogue) -> None:
    assert sum(paper.links.code is not None for paper in field.papers) == 95 - 1
    assert sum(paper.curation.source == missing.SEED for paper in field.papers) == 25
    anonymous = [paper.id for paper in field.papers if "anonymous" in (paper.links.code or "")]
    assert len(anonymous) == 7


@pytest.mark.parametrize(
    ("names", "slug"),
    [
        (["2412.07097", "https://openreview.net/forum?id=fXJCqdUSVG"], "durable-safeguards-eval"),
        (["2503.17239", "10.18653/v1/2026.findings-acl.1761", "2026.findings-acl.1761"], "safemerge"),
        (["2507.21182", "https://aclanthology.org/2025.acl-long.1412.pdf"], "sdd"),
        (["2502.17424", "https://doi.org/10.1038/s41586-025-09937-5"], "emergent-misalignment"),
        (["2408.09600", "antidote", "Antidote"], "antidote"),
    ],
)
def test_twins_are_one_entry_under_every_name(field: Catalogue, names: list[str], slug: str) -> None:
    assert {ids.resolve(name, field.papers).id for name in names} == {slug}


def test_open_points_of_the_table_are_noted(field: Catalogue) -> None:
    noted = {paper.id for paper in field.papers if paper.curation.note}
    assert {"panacea", "safecomm", "parameter-region-audit", "condition-number-immunization"} <= noted
    assert {"gradshield", "gradient-sample-selection", "guardspace"} <= noted


def test_numbers_of_others_are_marked_and_bounds_are_named(field: Catalogue) -> None:
    reported = {paper.id: paper.reported for paper in field.papers if not paper.reproduction}
    slower = [row for row in reported["bds"] if row.method == "bds" and row.setting.ratio == 1.0]
    assert [(row.metric, row.value) for row in slower] == [("harmful_score", 3.6)]
    assert "third paper" in (slower[0].setting.note or "")
    assert any("prints more than this" in (row.setting.note or "") for row in reported["three-pronged-jailbreak"])


def test_left_out_papers_are_real_and_decided_by_a_rule(field: Catalogue) -> None:
    entries = excluded.read(ROOT)
    assert len(entries) >= 40
    assert excluded.check(ROOT, field) == []
    assert {entry.rule for entry in entries} == set(excluded.rules(ROOT))
    by_id = {entry.ids.arxiv: entry for entry in entries}
    assert by_id["2307.02483"].title == "Jailbroken: How Does LLM Safety Training Fail?"
    assert by_id["2307.02483"].rule == "prompt-only"


def test_information_names_what_is_missing(field: Catalogue) -> None:
    found = {(fact.code, fact.paper) for fact in missing.information(ROOT)}
    assert {("no-authors", "pharmacist"), ("no-authors", "dualguard"), ("no-id", "dualguard")} <= found
    assert {("no-venue", "trojanpraise"), ("no-code", "badllama"), ("short-names", "auditing-agents")} <= found
    assert ("seed-without-module", "shadow-alignment") in found or "shadow-alignment" in {
        paper.id for paper in field.papers if paper.reproduction
    }
    assert not {("no-authors", "vaccine"), ("no-code", "vaccine"), ("no-venue", "vaccine")} & found
