"""Ids in every spelling people paste mean the same paper."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import ids, papers
from catalog.ids import PaperId, UnknownPaperError

NEW = st.builds("{:02d}{:02d}.{:05d}".format, st.integers(15, 29), st.integers(1, 12), st.integers(0, 99999))
OLD = st.builds(
    "{}/{:02d}{:02d}{:03d}".format,
    st.sampled_from(["hep-th", "cs", "math.GT", "cond-mat"]),
    st.integers(0, 7),
    st.integers(1, 12),
    st.integers(0, 999),
)
SPELLINGS = st.sampled_from(
    [
        "{}",
        " {} ",
        "{}v3",
        "arXiv:{}",
        "arxiv:{}v12",
        "https://arxiv.org/abs/{}",
        "http://www.arxiv.org/abs/{}v1",
        "https://arxiv.org/pdf/{}",
        "https://arxiv.org/pdf/{}v2.pdf",
        "arxiv.org/abs/{}",
        "https://arxiv.org/abs/{}?context=cs.LG#top",
        "https://doi.org/10.48550/arXiv.{}",
        "doi:10.48550/ARXIV.{}",
    ]
)


@given(NEW | OLD.filter(lambda text: text.islower()), SPELLINGS)
def test_every_spelling_of_an_arxiv_id_is_that_id(arxiv: str, spelling: str) -> None:
    assert PaperId.parse(spelling.format(arxiv)) == PaperId("arxiv", arxiv)


@given(NEW | OLD)
def test_an_id_survives_its_own_address(arxiv: str) -> None:
    found = PaperId.parse(arxiv)
    assert found.url is not None
    assert PaperId.parse(found.url) == found
    assert PaperId.parse(str(found)) == found


@given(st.from_regex(ids.SLUG, fullmatch=True))
def test_slugs_are_slugs(slug: str) -> None:
    assert PaperId.parse(slug) == PaperId("slug", slug)
    assert PaperId.parse(slug).url is None


@given(st.text(max_size=40))
def test_any_text_is_an_id_or_a_value_error(text: str) -> None:
    try:
        found = PaperId.parse(text)
    except ValueError:
        return
    assert PaperId.parse(str(found)) == found


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("10.1145/3817114", "doi", "10.1145/3817114"),
        ("https://doi.org/10.18653/v1/2024.Findings-ACL.549", "doi", "10.18653/v1/2024.findings-acl.549"),
        ("https://openreview.net/forum?id=tTPHgb0EtV&noteId=x", "openreview", "tTPHgb0EtV"),
        ("https://openreview.net/pdf?id=6Mxhg9PtDE", "openreview", "6Mxhg9PtDE"),
        ("6Mxhg9PtDE", "openreview", "6Mxhg9PtDE"),
        ("https://aclanthology.org/2024.findings-acl.549.pdf", "acl", "2024.findings-acl.549"),
        ("https://aclanthology.org/P18-1001/", "acl", "P18-1001"),
        ("https://huggingface.co/papers/2402.01109", "arxiv", "2402.01109"),
        ("https://arxiv.org/html/2402.01109v2", "arxiv", "2402.01109"),
        ("math.GT/0309136", "arxiv", "math.GT/0309136"),
    ],
)
def test_other_ids_and_addresses(text: str, kind: str, value: str) -> None:
    assert PaperId.parse(text) == PaperId(kind, value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "", "https://example.org/x", "2402.1", "https://arxiv.org/abs/", "2413.01109 or so",
        "2412.7097", "https://arxiv.org/abs/2412.7097", "1412.07097", "0613.0001",
    ],
)  # fmt: skip
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no "):
        PaperId.parse(text)


@pytest.mark.parametrize(
    ("arxiv", "month"),
    [("2402.01109", (2024, 2)), ("hep-th/9901001", (1999, 1)), ("0704.0001", (2007, 4)), ("1412.9999", (2014, 12))],
)
def test_month_of_an_arxiv_id(arxiv: str, month: tuple[int, int]) -> None:
    assert ids.arxiv_month(arxiv) == month


@pytest.mark.parametrize(
    "text",
    [
        "shield",
        "Shield",
        "2402.01010",
        "https://arxiv.org/pdf/2402.01010v4",
        "AbCdEfGh12",
        "10.1234/SHIELD.5",
    ],
)
def test_resolve_finds_an_entry_by_any_name(project, text: str) -> None:
    entries = papers.load(project / "papers.yaml")[1]
    assert ids.resolve(text, entries).id == "shield"


@pytest.mark.parametrize(("text", "near"), [("sheild", "shield"), ("2402.0101", "shield (arxiv:2402.01010)")])
def test_resolve_suggests_the_nearest(project, text: str, near: str) -> None:
    entries = papers.load(project / "papers.yaml")[1]
    with pytest.raises(UnknownPaperError) as caught:
        ids.resolve(text, entries)
    assert caught.value.near[0] == near
    assert text in str(caught.value)
