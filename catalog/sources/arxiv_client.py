"""The `arxiv` package's client with deadlines, back-off and strict reading put under it."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import arxiv
import requests
from lxml import etree
from requests.adapters import HTTPAdapter

from catalog import ids, invisible
from catalog.sources import http
from catalog.sources.arxiv import CONFIRMED, WITHDRAWN, ArxivPaper, Server
from catalog.sources.http import BadRequestError, BrokenAnswerError, HostileAnswerError, UnreachableError

ATOM = "{http://www.w3.org/2005/Atom}"
PAGE = 100
ERROR = "/api/errors"


class Client(arxiv.Client):
    """One connection to one server; its pace is arxiv.Client's own, its patience ours."""

    def __init__(self, server: Server, tell: http.Tell) -> None:
        super().__init__(page_size=PAGE, delay_seconds=server.delay, num_retries=0)
        self.query_url_format = server.url.replace("{", "{{").replace("}", "}}") + "?{}"
        self._server, self._tell = server, tell
        self._session.trust_env = not http.is_local(server.url)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, Transport(server.total))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._session.close()

    def named(self, batch: list[str]) -> list[ArxivPaper]:
        """The papers of at most PAGE ids that arXiv knows, from one request, in any order.

        Only one, because the total that arXiv gives counts unknown ids, and later pages repeat papers or are empty.
        """
        assert len(batch) <= PAGE, "a batch is one page"
        url = self._format_url(arxiv.Search(id_list=batch), 0, PAGE)
        feed = self._patiently(url, True, lambda _: len(batch) > CONFIRMED)
        return [paper(result) for result in feed.results]

    def matching(self, expression: str) -> Iterator[ArxivPaper]:
        """All papers that match an expression, newest first, page by page."""
        newest = arxiv.SortCriterion.SubmittedDate
        return map(paper, self.results(arxiv.Search(expression, max_results=None, sort_by=newest)))

    def _parse_feed(self, url: str, first_page: bool = True, _try_index: int = 0) -> Any:
        return self._patiently(url, first_page, lambda feed: feed.header.total_results > 0)

    def _patiently(self, url: str, first_page: bool, is_wanting: Callable[[Any], bool]) -> Any:
        """One page; an empty one is asked for again where results are wanting."""

        def once() -> Any:
            try:
                feed = super(Client, self)._parse_feed(url, first_page)
            except arxiv.UnexpectedEmptyPageError as error:
                raise BrokenAnswerError("arXiv sent an empty page") from error
            finally:
                self._last_request_dt = datetime.datetime.now()
            if not feed.results and is_wanting(feed):
                raise BrokenAnswerError("arXiv sent an empty page")
            return feed

        return http.patiently(once, self._server.delay, self._tell)


class Transport(HTTPAdapter):
    """Requests with timeouts, an answer read whole within a deadline, and only sound feeds let through."""

    def __init__(self, total: float) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1)
        self._total = total

    def send(self, request: requests.PreparedRequest, *_: Any, **settings: Any) -> requests.Response:
        """The answer, read whole; SourceError by what went wrong instead of requests' own exceptions."""
        host = str(request.url).split("/")[2]
        request.headers["User-Agent"] = http.USER_AGENT
        settings |= {"stream": True, "timeout": (http.CONNECT, http.READ)}
        try:
            with http.deadline(self._total), super().send(request, **settings) as answer:
                answer._content = http.whole(answer.iter_content(65536), host)
        except requests.ConnectTimeout as error:
            raise UnreachableError(f"{host} cannot be reached (no answer in {http.CONNECT:g} s)") from error
        except requests.ConnectionError as error:
            raise _disconnected(host, error) from error
        except requests.RequestException as error:
            raise BrokenAnswerError(f"{host}: {type(error).__name__}") from error
        if not answer.is_redirect:
            http.check_status(host, answer.status_code, answer.headers.get("Retry-After"))
            check_feed(host, answer.content)
        return answer


def check_feed(host: str, body: bytes) -> None:
    """Refuse what arxiv's forgiving parser would read as a shorter or mangled feed, and arXiv's error feeds."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BrokenAnswerError(f"{host} sent bytes that are not UTF-8") from error
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise HostileAnswerError(f"{host} sent a document type definition, which no Atom feed has")
    if text.lstrip().startswith("Rate exceeded"):
        raise http.ThrottledError(f"{host} says: rate exceeded")
    try:
        feed = etree.fromstring(body, etree.XMLParser(resolve_entities=False, no_network=True))
    except etree.XMLSyntaxError as error:
        raise BrokenAnswerError(f"{host} sent no whole XML document ({error.msg})") from error
    if feed.tag != f"{ATOM}feed" or (feed.getroottree().docinfo.encoding or "UTF-8").upper() != "UTF-8":
        raise BrokenAnswerError(f"{host} sent no Atom feed in UTF-8")
    for entry in feed.iterfind(f"{ATOM}entry"):
        name, title = entry.findtext(f"{ATOM}id") or "", entry.findtext(f"{ATOM}title") or ""
        if ERROR in name:
            raise BadRequestError(f"{host} says: {(entry.findtext(f'{ATOM}summary') or 'error').strip()}")
        try:
            ids.PaperId.parse(name.strip())
            for key in ("updated", "published"):
                datetime.datetime.fromisoformat((entry.findtext(f"{ATOM}{key}") or "").strip())
        except ValueError as error:
            raise BrokenAnswerError(f"{host} sent an entry without id or dates ({name} {title[:40]})") from error


def paper(result: arxiv.Result) -> ArxivPaper:
    """An entry of the feed, white space mended and what nobody sees taken out; ids keep no version, DOIs no prefix."""
    name, _, version = _line(result.entry_id).rpartition("v")
    if not version.isdigit():
        name, version = _line(result.entry_id), "1"
    abstract, comment = _line(result.summary), _line(result.comment)
    withdrawn = WITHDRAWN.search(comment) or WITHDRAWN.match(abstract)
    return ArxivPaper(
        id=ids.PaperId.parse(name).value,
        version=int(version),
        title=_line(result.title),
        authors=tuple(name for author in result.authors if (name := _line(author.name))),
        abstract=abstract,
        published=result.published.date(),
        updated=result.updated.date(),
        categories=tuple(dict.fromkeys([result.primary_category, *result.categories])),
        comment=comment or None,
        journal_ref=_line(result.journal_ref) or None,
        doi=_doi(result.doi),
        withdrawn=bool(withdrawn),
    )


def _doi(text: str | None) -> str | None:
    """The first DOI in arXiv's field, which authors fill by hand; None when there is none."""
    for word in (text or "").split():
        try:
            found = ids.PaperId.parse(word.rstrip(",;."))
        except ValueError:
            continue
        if found.kind == "doi":
            return found.value
    return None


def _line(text: str | None) -> str:
    return re.sub(r"\s+", " ", invisible.without(text or "")).strip()


def _disconnected(host: str, error: requests.ConnectionError) -> Exception:
    """Whether nobody was there, or somebody hung up."""
    never_there = ("NewConnectionError", "NameResolutionError", "ProxyError", "SSLError", "ConnectTimeoutError")
    reason = getattr(error.args[0] if error.args else None, "reason", error)
    if type(reason).__name__ in never_there:
        return UnreachableError(f"{host} cannot be reached ({type(reason).__name__}); is there a network?")
    return BrokenAnswerError(f"{host} hung up ({type(reason).__name__})")
