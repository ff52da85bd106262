"""arXiv through a real local server: every trap of the `arxiv` package and of arXiv itself, each with its test."""

import datetime
import re
import resource
import time
from collections.abc import Iterator
from itertools import pairwise

import arxiv as package
import pytest
from arxiv_server import (
    ArxivServer,
    Entry,
    body,
    cut_off,
    drip,
    empty_page,
    entity_bomb,
    flood,
    hang_up,
    latin1,
    status,
    throttle,
)

from catalog.sources import arxiv, http
from catalog.sources.arxiv import Server

IDS = [f"2402.{number:05d}" for number in range(173)]
FAST = 0.005


@pytest.fixture
def server() -> Iterator[ArxivServer]:
    with ArxivServer(Entry(each, title=f"Paper {each}") for each in IDS) as running:
        yield running


def quick(server: ArxivServer, delay: float = FAST) -> Server:
    return Server(server.url, delay, total=0.5)


def naive(server: ArxivServer, search: package.Search) -> list[str]:
    """What the package does by itself."""
    client = package.Client(delay_seconds=0, num_retries=0)
    client.query_url_format = server.url + "?{}"
    with client._session:
        return [result.get_short_id() for result in client.results(search)]


def test_no_id_is_lost_beyond_a_hundred(server: ArxivServer) -> None:
    assert len(naive(server, package.Search(id_list=IDS))) == 100, "the trap is still there"
    server.asked.clear()
    assert list(arxiv.fetch(IDS, quick(server)).found) == IDS
    assert [len(asked.ids) for asked in server.asked] == [50, 50, 50, 23]
    assert all(asked.query["max_results"] == "100" for asked in server.asked)


def test_requests_keep_the_pace_and_the_name(server: ArxivServer) -> None:
    server.bad = {IDS[0]}  # refused at once, so that halves follow with nothing to wait for but the pace
    arxiv.fetch(IDS[:8], quick(server, 0.1))
    times = [asked.at for asked in server.asked]
    assert len(times) == 7
    assert min(later - earlier for earlier, later in pairwise(times)) >= 0.095
    assert {asked.headers["User-Agent"] for asked in server.asked} == {http.USER_AGENT}


def test_unknown_ids_are_missing_and_everybody_else_is_found(server: ArxivServer) -> None:
    fetched = arxiv.fetch(["2402.99999", *IDS[:60], "2301.00001"], quick(server))
    assert (len(fetched.found), fetched.missing, fetched.failed) == (60, ["2402.99999", "2301.00001"], {})
    assert fetched.trouble is None


def test_an_id_left_out_once_is_not_missing(server: ArxivServer) -> None:
    one = Entry(IDS[3]).xml().encode().splitlines()[1]
    server.faults.append(
        body(lambda true: b"  <entry>\n".join(part for part in true.split(b"  <entry>\n") if one not in part))
    )
    assert len(arxiv.fetch(IDS[:10], quick(server)).found) == 10


def test_one_bad_id_fails_alone(server: ArxivServer) -> None:
    server.bad = {IDS[7]}
    with pytest.raises(package.HTTPError):
        naive(server, package.Search(id_list=IDS[:50]))
    fetched = arxiv.fetch([*IDS[:100], "not-an-id", "2402.01109v2"], quick(server))
    assert fetched.failed.keys() == {IDS[7], "not-an-id", "2402.01109v2"}
    assert "HTTP 400" in fetched.failed[IDS[7]]
    assert (len(fetched.found), fetched.missing, fetched.trouble) == (99, [], None)
    assert all("not-an-id" not in asked.ids for asked in server.asked)


def test_an_error_feed_with_status_200_is_an_error(server: ArxivServer) -> None:
    feed = server.answer({"id_list": "nonsense"})[1]
    server.always = body(lambda _: feed)
    assert "incorrect id format" in arxiv.fetch(IDS[:1], quick(server)).failed[IDS[0]]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (status(500), "HTTP 500"),
        (status(503), "HTTP 503"),
        (throttle(), "HTTP 429"),
        (status(200, "Rate exceeded."), "rate exceeded"),
        (empty_page, "empty page"),
        (cut_off, "no whole XML"),
        (hang_up, "ChunkedEncodingError"),
        (latin1, "not UTF-8"),
        (body(lambda true: true.replace(b'"UTF-8"', b'"ISO-8859-1"')), "no Atom feed in UTF-8"),
        (body(lambda _: b""), "no whole XML"),
        (body(lambda _: b"<html><body>Maintenance</body></html>"), "no Atom feed"),
        (body(lambda true: re.sub(rb"<published>.*?</published>", b"", true, count=1)), "dates"),
        (drip(), "no whole answer within"),
        (drip(headers=True), "no whole answer within"),
    ],
)  # fmt: skip
def test_what_passes_is_asked_again(server: ArxivServer, fault: object, told: str) -> None:
    server.put(Entry(IDS[0], title="Zoë's turnips"))
    server.faults.append(fault)  # type: ignore[arg-type]
    said: list[str] = []
    fetched = arxiv.fetch(IDS[:30], quick(server), tell=said.append)
    assert len(fetched.found) == 30
    assert fetched.found[IDS[0]].title == "Zoë's turnips"
    assert told in said[0]
    assert len(server.asked) == 2


def test_trap_a_cut_off_feed_is_short_without_a_word(server: ArxivServer) -> None:
    server.always = cut_off
    assert 0 < len(naive(server, package.Search(id_list=IDS[:50], max_results=10))) <= 50, "the trap is still there"
    fetched = arxiv.fetch(IDS[:50], quick(server))
    assert (fetched.found, fetched.missing) == ({}, [])
    assert "no whole XML" in str(fetched.trouble)


def test_retry_after_is_obeyed_and_back_off_doubles(server: ArxivServer) -> None:
    server.faults += [throttle(1), status(500), status(500), status(500)]
    assert len(arxiv.fetch(IDS[:3], quick(server, 0.1)).found) == 3
    waits = [later.at - earlier.at for earlier, later in pairwise(server.asked)]
    assert waits[0] >= 1.0, "Retry-After: 1, though the pace is 0.1 s"
    assert [wait >= least for wait, least in zip(waits[1:], (0.2, 0.4, 0.8), strict=True)] == [True] * 3


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("120", 120.0), ("Mon, 23 Nov 2026 10:00:30 GMT", 30.0), ("Mon, 23 Nov 2026 09:00:00 GMT", 0.0)]
    + [(text, None) for text in (None, "", "soon", "-5", "1.5", "²")],
)
def test_retry_after_is_a_number_or_a_date(header: str | None, seconds: float | None) -> None:
    now = datetime.datetime(2026, 11, 23, 10, 0, tzinfo=datetime.UTC)
    assert http.seconds_to_wait(header, now) == seconds


def test_a_wait_of_an_hour_is_not_waited_for(server: ArxivServer) -> None:
    server.always = throttle(3600)
    begun = time.monotonic()
    assert "HTTP 429" in str(arxiv.fetch(IDS[:3], quick(server)).trouble)
    assert time.monotonic() - begun < 5
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("fault", "told"), [(status(500), "HTTP 500"), (status(403), "HTTP 403"), (status(404), "404")]
)
def test_a_server_that_never_recovers_ends_it_with_what_was_found(
    server: ArxivServer, fault: object, told: str
) -> None:
    server.faults.append(None)
    server.always = fault  # type: ignore[assignment]
    fetched = arxiv.fetch(IDS, quick(server))
    assert list(fetched.found) == IDS[:50]
    assert told in str(fetched.trouble)
    assert fetched.missing == []
    assert len(server.asked) <= 1 + http.ATTEMPTS


@pytest.mark.parametrize(("fault", "told"), [(entity_bomb, "document type definition"), (flood, "")])
def test_bombs_are_refused_quickly_in_little_memory(server: ArxivServer, fault: object, told: str) -> None:
    server.always = fault  # type: ignore[assignment]
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    fetched = arxiv.fetch(IDS[:3], quick(server))
    assert told in str(fetched.trouble)
    assert fetched.found == {}
    assert time.monotonic() - begun < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kilobytes"


def test_entity_bomb_in_another_encoding_is_refused_too(server: ArxivServer) -> None:
    bomb = '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE feed [<!ENTITY a "aaaa">]><feed>&a;</feed>'
    for form in ("utf-16", "utf-16-le"):
        server.always = body(lambda _, form=form: bomb.encode(form))
        assert arxiv.fetch(IDS[:1], quick(server)).trouble


def test_no_network_is_said_within_seconds() -> None:
    with ArxivServer() as gone:
        nowhere = Server(gone.url, 3.0)
    begun = time.monotonic()
    fetched = arxiv.fetch(IDS, nowhere)
    assert "cannot be reached" in str(fetched.trouble)
    assert time.monotonic() - begun < 10


def test_fields_are_read_as_the_feed_has_them(server: ArxivServer) -> None:
    server.put(
        Entry(
            "2402.01109",
            title="Vaccine:\n  Robust &lt; Turnips & “Quotes”",
            authors=("Zoë  Müller", "Łukasz\n Żak"),
            abstract="Line one\nline two.",
            version=12,
            published="2024-02-02T23:30:00-05:00",
            comment="Accepted to\n NeurIPS 2024",
            journal_ref="NeurIPS 2024",
            doi="10.1234/ABC.5",
            categories=("cs.LG", "cs.AI"),
        )
    )
    server.put(Entry("math/0309136", title="Old"))
    found = arxiv.fetch(["2402.01109", "math.GT/0309136"], quick(server)).found
    paper = found["2402.01109"]
    assert (paper.version, paper.authors) == (12, ("Zoë Müller", "Łukasz Żak"))
    assert paper.title == "Vaccine: Robust &lt; Turnips & “Quotes”"
    assert paper.abstract == "Line one line two."
    assert paper.published == datetime.date(2024, 2, 3), "in UTC"
    assert (paper.comment, paper.doi, paper.categories) == (
        "Accepted to NeurIPS 2024",
        "10.1234/abc.5",
        ("cs.LG", "cs.AI"),
    )
    assert found["math.GT/0309136"].title == "Old", "arXiv leaves the subject class out"


def test_characters_that_nobody_sees_stay_outside(server: ArxivServer) -> None:
    title = "\u202eTurnips\u202c and\u200b \u2067fields\u2069\u2028of \ufeffkale\u00ad \x85 now"
    server.put(Entry("2402.01109", title=title, authors=("\u200eZoë\u061c", "علی\u200cرضا")))
    paper = arxiv.fetch(["2402.01109"], quick(server)).found["2402.01109"]
    assert paper.title == "Turnips and fields of kale now"
    assert paper.authors == ("Zoë", "علی\u200cرضا"), "a joiner is spelling"


@pytest.mark.parametrize(
    ("comment", "abstract", "withdrawn"),
    [
        ("This paper has been withdrawn by the author due to an error", "", True),
        ("This submission has been withdrawn by arXiv administrators", "", True),
        ("Withdrawn.", "", True),
        (None, "This article has been withdrawn because of an error in section 3.", True),
        ("Withdrawn from ICLR 2025; 12 pages", "", False),
        ("This paper was withdrawn from ICLR 2025", "", False),
        ("Version 2: removed a figure", "We study how access is withdrawn by users.", False),
    ],
)
def test_withdrawn(server: ArxivServer, comment: str | None, abstract: str, withdrawn: bool) -> None:
    server.put(Entry(IDS[0], comment=comment, abstract=abstract))
    assert arxiv.fetch(IDS[:1], quick(server)).found[IDS[0]].withdrawn is withdrawn


def test_search_pages_to_the_end_newest_first(server: ArxivServer) -> None:
    for number in range(130):
        day = datetime.date(2024, 1, 1) + datetime.timedelta(days=number)
        server.put(Entry(f"2401.{number:05d}", title="Harmful fine-tuning", published=f"{day}T10:00:00Z"))
    server.faults += [None, empty_page]
    hits = list(arxiv.search('ti:"harmful fine-tuning" AND cat:cs.LG', datetime.date(2024, 1, 11), quick(server)))
    assert len(hits) == 120
    assert hits[0].id == "2401.00129"
    assert min(hit.published for hit in hits) == datetime.date(2024, 1, 11)
    assert len(list(arxiv.search("all:turnips", None, quick(server), limit=7))) == 7
    assert list(arxiv.search("ti:nothing", None, quick(server))) == []


def test_a_search_whose_first_page_is_empty_is_no_empty_search(server: ArxivServer) -> None:
    server.faults.append(empty_page)
    assert len(list(arxiv.search("all:turnips", None, quick(server)))) == len(IDS)
    server.always = status(500)
    with pytest.raises(http.SourceError, match="HTTP 500"):
        list(arxiv.search("all:turnips", None, quick(server)))


def test_arxiv_itself_is_never_asked_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    for fast in (0.0, 2.9, -1.0):
        with pytest.raises(ValueError, match="between requests"):
            Server.given("https://export.arxiv.org/api/query", fast)
    assert Server.given("http://127.0.0.1:9/api/query", 0.1).delay == 0.1
    assert Server.given("http://127.0.0.1:9/api/query").delay == 3.0
    monkeypatch.setenv("HFT_ARXIV_URL", "http://127.0.0.1:9/q")
    assert Server.given().url == "http://127.0.0.1:9/q"
    assert Server.given("http://127.0.0.1:8/q").url == "http://127.0.0.1:8/q"
    for wrong in ("ftp://arxiv.org", "arxiv", "http://"):
        with pytest.raises(ValueError, match="no http address"):
            Server.given(wrong)
