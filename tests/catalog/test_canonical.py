"""The canonical form is stable to the byte, keeps facts and comments, and refuses what it could spoil."""

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from catalog.canonical import SCHEMA_LINE, canonical
from catalog.papers import Document
from catalog.problems import RefusedError

GARDEN = (Path(__file__).parents[1] / "fixtures" / "garden.yaml").read_text(encoding="utf-8")
HEAD, ENTRIES = GARDEN.split("papers:\n")


def document(text: str) -> Document:
    return Document(Path("papers.yaml"), text)


def facts(text: str) -> Any:
    """The data as an independent parser sees it."""
    return YAML(typ="safe", pure=True).load(text)


LINES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")) | st.just(" "), min_size=1, max_size=30)
TEXTS = st.sampled_from(["yes", "null", "2024-02-02", "1e3", "# no comment", "a: b", "[x", "'", '"', "a #b"]) | (
    LINES.map(str.strip).filter(bool)
)
ENTRY = st.fixed_dictionaries(
    {
        "id": st.from_regex(r"[a-z]{1,8}(-[a-z0-9]{1,5})?", fullmatch=True),
        "title": TEXTS,
        "authors": st.lists(TEXTS, min_size=1, max_size=3),
        "date": st.dates(),
        "ids": st.from_regex(r"2[0-4]0[1-9]\.[0-9]{5}", fullmatch=True).map(
            lambda arxiv: {"arxiv": DoubleQuotedScalarString(arxiv), "doi": None}
        ),
        "claims": st.lists(
            st.fixed_dictionaries(
                {"source": TEXTS, "id": st.just("C1"), "setting": st.builds(dict, n=st.just(5), task=TEXTS)}
            ),
            max_size=2,
        ),
    }
)


@settings(max_examples=40, deadline=None)
@given(st.lists(ENTRY, min_size=1, max_size=3, unique_by=lambda entry: entry["id"]), st.randoms())
def test_any_style_becomes_one_form_with_the_same_facts(entries: list[dict[str, Any]], chance: Any) -> None:
    loose = YAML()
    loose.width = chance.choice([20, 80, 4096])
    loose.default_flow_style = chance.choice([False, None])
    body = io.StringIO()
    loose.dump([dict(chance.sample(list(entry.items()), len(entry))) for entry in entries], body)
    indent = chance.choice(["", "  ", "    "])
    lines = "\n".join(f"{indent}{line}" for line in body.getvalue().splitlines())
    text = f"schema: 1\npapers:\n{lines}\n"

    once = canonical(document(text))

    assert canonical(document(once)) == once
    assert once.startswith(SCHEMA_LINE)
    by_date = sorted(facts(text)["papers"], key=lambda entry: (str(entry["date"]), entry["id"]))
    assert facts(once)["papers"] == by_date


@pytest.mark.parametrize("word", ["?0", "?ab", "a?", "what?!"])
def test_a_question_mark_in_front_is_quoted_where_one_line_needs_it(word: str) -> None:
    text = f"schema: 1\npapers:\n  - id: a\n    title: b\n    authors:\n      - {word}\n    date: 2024-01-01\n"
    once = canonical(document(text))
    assert facts(once)["papers"][0]["authors"] == [word]
    assert canonical(document(once)) == once


def test_the_fixture_and_the_real_catalogue_are_stable_to_the_byte() -> None:
    assert canonical(document(GARDEN)) == GARDEN
    real = (Path(__file__).parents[2] / "papers.yaml").read_text(encoding="utf-8")
    assert canonical(document(real)) == real


def test_comments_travel_with_their_entries() -> None:
    breaker, shield = ENTRIES.split("\n\n")
    swapped = f"{HEAD}papers:\n{shield.rstrip()}\n\n\n{breaker}\n"
    assert canonical(document(swapped)) == GARDEN
    last = f"{GARDEN}# the end\n"
    assert canonical(document(last)) == f"{GARDEN}\n# the end\n"


def test_keys_find_their_order_and_rows_their_line() -> None:
    mixed = GARDEN.replace("    type: attack\n", "").replace(
        "    authors: [Zoë Müller, Łukasz Żak]\n",
        "    type: attack\n    authors:\n      - Zoë Müller\n      - Łukasz Żak\n",
    )
    assert mixed != GARDEN
    assert canonical(document(mixed)) == GARDEN


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (GARDEN.replace('arxiv: "2310.12345"', "arxiv: 2310.12340"), "unquoted-id"),
        (GARDEN.replace('openreview: "AbCdEfGh12"', "openreview: AbCdEfGh12"), "unquoted-id"),
        ("papers:\n  [{id: a}, {id: b}]\n", "format"),
        ("papers:\n  - id: a\nschema: 1\n", "format"),
        ("papers: # all of them\n  - id: a\n", "format"),
        ("papers:\n  - vaccine\n", "format"),
        ("papers:\n  -\n    id: a\n", "format"),
        ("papers:\n  - id: &x a\n  - id: *x\n", "format"),
    ],
)
def test_what_formatting_could_spoil_is_refused(text: str, code: str) -> None:
    with pytest.raises(RefusedError) as caught:
        canonical(document(text))
    assert [problem.code for problem in caught.value.problems] == [code]


@pytest.mark.parametrize("end", ["papers: []", "papers:   []\n\n", "papers: []\n  # soon"])
def test_a_catalogue_without_entries_has_a_form(end: str) -> None:
    head = GARDEN.partition("papers:\n")[0]
    wanted = head + "papers: []\n" + ("# soon\n" if "soon" in end else "")
    assert canonical(document(head + end)) == wanted
    assert canonical(document(wanted)) == wanted


def test_every_key_knows_its_line() -> None:
    lines = GARDEN.splitlines()
    parsed = document(GARDEN)
    assert lines[parsed.line(("papers", 1, "stage")) - 1] == "    stage: alignment"
    assert lines[parsed.line(("papers", 1, "claims", 1, "test", "at_most")) - 1].lstrip().startswith("test:")
    assert lines[parsed.line(("papers", 0, "nickname")) - 1] == "  - id: breaker"
