"""Whether two descriptions are one paper: brute force, order, and pairs of the field that must stay apart."""

import datetime
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz import fuzz

from catalog import dedupe, merging
from catalog.candidates import Candidate

DAY = datetime.date(2024, 2, 2)
SHIELD = Candidate(
    "Shield: Robust Gardening for Large Greenhouses under Attack",
    ("Ann Bell", "Zoë Müller", "Philip H.S. Torr"),
    DAY,
    {"arxiv": "2402.01010", "doi": "10.18653/v1/2024.acl-long.7"},
)
KNOWN = dedupe.Known({"shield": SHIELD, "other": Candidate("Something Else Entirely About Ponds", date=DAY)})


@pytest.mark.parametrize(
    ("candidate", "why"),
    [
        (Candidate("Retitled since then", ids={"arxiv": "2402.01010"}), "same arXiv id"),
        (Candidate("Retitled since then", ids={"doi": "10.18653/V1/2024.acl-long.7"}), "same DOI"),
        (Candidate("Retitled since then", ids={"acl": "2024.acl-long.7"}), "same ACL id"),
        (
            Candidate("Shield — robust gardening for large greenhouses under attacks", date=datetime.date(2024, 12, 1)),
            "near-equal title within a year",
        ),
        (
            Candidate("Shield: Robust Gardening of a Greenhouse under Attack", ("Müller, Zoe", "P. Torr"), DAY),
            "title and authors",
        ),
        (Candidate("Shield: Robust Gardening of a Greenhouse under Attack", ("Bo Li",), DAY), None),
        (Candidate("Shield: Robust Gardening of a Greenhouse under Attack", (), DAY), None),
        (Candidate(SHIELD.title, date=datetime.date(2025, 6, 1)), None),
        (Candidate("Shield", date=DAY), None),
    ],
)
def test_what_decides(candidate: Candidate, why: str | None) -> None:
    found = dedupe.find(candidate, KNOWN)
    assert found == (dedupe.Match("shield", why) if why else None)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "Lazy safety alignment for large language models against harmful fine-tuning",
            "Antidote: Post-fine-tuning safety alignment for large language models against harmful fine-tuning",
        ),
        (
            "Vaccine: Perturbation-aware alignment for large language model against harmful fine-tuning",
            "Lazy safety alignment for large language models against harmful fine-tuning",
        ),
        (
            "BadLlama: cheaply removing safety fine-tuning from Llama 2-Chat 13B",
            "Badllama 3: removing safety finetuning from Llama 3 in minutes",
        ),
    ],
)
def test_other_papers_of_the_same_authors_stay_apart(one: str, other: str) -> None:
    authors = ("Tiansheng Huang", "Sihao Hu", "Ling Liu")
    candidates = [Candidate(title, authors, DAY) for title in (one, other)]
    assert len(dedupe.groups(candidates)) == 2


def titles(count: int, words: int) -> list[str]:
    chance = random.Random(7)
    pool = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 11))) for _ in range(words)]
    return [" ".join(chance.choices(pool, k=chance.randint(5, 14))) for _ in range(count)]


def misprinted(title: str, chance: random.Random) -> str:
    """One or two letters added, dropped or changed, and perhaps a space lost."""
    letters = list(title)
    for _ in range(chance.randint(1, 2)):
        place = chance.choice([n for n, letter in enumerate(letters) if letter.isalpha()])
        letters[place] = chance.choice(["", "x", letters[place] * 2])
    if chance.random() < 0.3:
        letters[letters.index(" ")] = ""
    return "".join(letters)


@pytest.mark.parametrize(("words", "crowd"), [(60, dedupe.CROWD), (3000, dedupe.CROWD), (12, 10)])
def test_the_index_finds_what_comparing_all_with_all_finds(
    words: int, crowd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedupe, "CROWD", crowd)
    chance = random.Random(1)
    base = titles(400, words)
    known = dedupe.Known({str(n): Candidate(title, date=DAY) for n, title in enumerate(base)})
    asked = [misprinted(title, chance) for title in base]
    normal = [dedupe.normal(title) for title in base]
    wanted = [{str(n) for n, t in enumerate(normal) if fuzz.ratio(dedupe.normal(a), t) >= 95.0} for a in asked]
    found = [{match.id for match in known.matches(Candidate(a, date=DAY))} for a in asked]
    assert sum(map(len, wanted)) > 300
    assert found == wanted


TITLES = ["Mulch covers the soil before planting", "Mulch covers the soil before plantings", "Trellis guides growth"]
CANDIDATES = st.builds(
    Candidate,
    title=st.sampled_from(TITLES),
    authors=st.sampled_from([(), ("Ann Bell",), ("Bo Li", "Ann Bell")]),
    date=st.sampled_from([None, DAY, datetime.date(2024, 9, 1), datetime.date(2026, 1, 1)]),
    ids=st.dictionaries(st.sampled_from(["arxiv", "openreview"]), st.sampled_from(["2402.00001", "2402.00002"])),
    links=st.sampled_from([{}, {"code": "https://github.com/a/b"}]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(CANDIDATES, max_size=7), st.randoms(use_true_random=False))
def test_groups_do_not_depend_on_order_and_are_stable(candidates: list[Candidate], chance: random.Random) -> None:
    groups = dedupe.groups(candidates)
    shuffled = chance.sample(candidates, len(candidates))
    assert dedupe.groups(shuffled) == groups
    assert dedupe.groups([each for group in groups for each in group]) == groups
    assert [merging.merged(group) for group in dedupe.groups(shuffled)] == [merging.merged(g) for g in groups]
    assert all(dedupe.groups(group) == [group] for group in groups)


@settings(max_examples=40, deadline=None)
@given(st.lists(CANDIDATES, min_size=1, max_size=6))
def test_two_stand_apart_only_if_nothing_joins_them(candidates: list[Candidate]) -> None:
    groups = dedupe.groups(candidates)
    for one in range(len(groups)):
        for other in range(one):
            shared = {
                (kind, value)
                for kind, value in [pair for each in groups[one] for pair in each.ids.items()]
                if any(each.ids.get(kind) == value for each in groups[other])
            }
            assert not shared


def test_merging_fills_and_tells() -> None:
    list_entry = Candidate(
        "Mulch: Covering the Soil", date=DAY, ids={"arxiv": "2402.00001"}, origin="l:1", type="attack"
    )
    twin = Candidate(
        "Mulch: covering the soil",
        ("Ann Bell",),
        datetime.date(2024, 10, 8),
        {"openreview": "MuLcH12345"},
        "NeurIPS2024",
        {"code": "https://github.com/a/b"},
        "l:2",
        type="defense",
        stage="alignment",
    )
    paper, problems = merging.merged([list_entry, twin])
    assert (paper.ids, paper.authors, paper.date, paper.venue, paper.type, paper.stage) == (
        {"openreview": "MuLcH12345", "arxiv": "2402.00001"},
        ("Ann Bell",),
        DAY,
        "NeurIPS2024",
        "attack",
        None,
    )
    assert [(p.code, p.where, p.warning) for p in problems] == [("differs", "l:2", True)] * 2


def test_another_title_under_the_same_id_is_an_error_and_not_merged() -> None:
    one = Candidate("Mulch: Covering the Soil", date=DAY, ids={"arxiv": "2402.00001"}, origin="l:1")
    wrong = Candidate(
        "A Pond for Every Frog", date=DAY, ids={"arxiv": "2402.00001", "openreview": "x" * 10}, origin="l:2"
    )
    paper, problems = merging.merged([one, wrong])
    assert paper == one
    assert [(p.code, p.where, p.warning) for p in problems] == [("title-conflict", "l:2", False)]


def test_conflicts_are_told_the_same_whatever_the_order_of_ids() -> None:
    held = Candidate(TITLES[2], ids={"arxiv": "2402.00001", "openreview": "abc"})
    other = replace(held, title=TITLES[0])
    turned = replace(other, ids={"openreview": "abc", "arxiv": "2402.00001"})
    (told,), (same,) = (list(merging.contradictions(one, held, "a list")) for one in (other, turned))
    assert told == same
    assert "(arxiv 2402.00001, openreview abc)" in told.message
