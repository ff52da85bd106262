"""A local HTTP server that speaks arXiv's Atom API, with its quirks, and faults on demand.

By hand: `python tests/catalog/arxiv_server.py papers.yaml [--port 8765] [--fault 500:2 --fault throttle …]` serves the
arXiv papers of a catalogue and prints the URL for `hft sync --arxiv-url`.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape, quoteattr

PATH = "/api/query"


@dataclass(frozen=True)
class Entry:
    """One version of a paper, as the feed prints it."""

    id: str
    title: str = "A Paper on Turnips"
    authors: tuple[str, ...] = ("Ann Bell",)
    abstract: str = "We study turnips."
    version: int = 1
    published: str = "2024-02-02T17:59:00Z"
    updated: str = "2024-02-02T17:59:00Z"
    categories: tuple[str, ...] = ("cs.LG", "cs.CL")
    comment: str | None = None
    journal_ref: str | None = None
    doi: str | None = None

    def xml(self) -> str:
        extra = {"comment": self.comment, "journal_ref": self.journal_ref, "doi": self.doi}
        return "\n".join(
            [
                "  <entry>",
                f"    <id>http://arxiv.org/abs/{self.id}v{self.version}</id>",
                f"    <updated>{self.updated}</updated>",
                f"    <published>{self.published}</published>",
                f"    <title>{escape(self.title)}</title>",
                f"    <summary>  {escape(self.abstract)}\n</summary>",
                *(f"    <author><name>{escape(name)}</name></author>" for name in self.authors),
                *(f"    <arxiv:{key}>{escape(value)}</arxiv:{key}>" for key, value in extra.items() if value),
                f'    <link title="pdf" href="http://arxiv.org/pdf/{self.id}v{self.version}" rel="related"/>',
                f"    <arxiv:primary_category term={quoteattr(self.categories[0])}/>",
                *(f"    <category term={quoteattr(term)}/>" for term in self.categories),
                "  </entry>",
            ]
        )


@dataclass
class Asked:
    """One request as it came in; `at` is monotonic seconds, `connection` names the client's socket."""

    at: float
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    connection: tuple[str, int]

    @property
    def ids(self) -> list[str]:
        return [each for each in self.query.get("id_list", "").split(",") if each]


Fault = Callable[["Handler", bytes], None]


def status(code: int, body: str = "", **headers: str) -> Fault:
    """Answer with a status and no feed; header names are written with underscores."""

    def act(handler: Handler, _: bytes) -> None:
        handler.reply(body.encode(), code, {name.replace("_", "-"): value for name, value in headers.items()})

    return act


def throttle(seconds: str | int | None = None) -> Fault:
    """HTTP 429, with Retry-After when given."""
    return status(429, "Rate exceeded.", **({} if seconds is None else {"Retry_After": str(seconds)}))


def body(change: Callable[[bytes], bytes], code: int = 200) -> Fault:
    """The true answer, changed."""
    return lambda handler, true: handler.reply(change(true), code)


def empty_page(handler: Handler, true: bytes) -> None:
    """A feed that counts results and lists none."""
    handler.reply(re.sub(rb"(?s)  <entry>.*</entry>\n", b"", true))


def cut_off(handler: Handler, true: bytes) -> None:
    """Half a document whose length is announced as its own."""
    handler.reply(true[: len(true) * 2 // 3])


def hang_up(handler: Handler, true: bytes) -> None:
    """The announced length is that of the whole, and the connection closes half way."""
    handler.head(200, {"Content-Length": str(len(true))})
    handler.wfile.write(true[: len(true) // 2])
    handler.close_connection = True


def latin1(handler: Handler, true: bytes) -> None:
    """Declared UTF-8, sent as Latin-1."""
    handler.reply(true.decode().encode("latin-1", "replace"))


def drip(seconds: float = 0.05, headers: bool = False) -> Fault:
    """One byte at a time, for ever slower than any sensible deadline; with `headers` from the first header on."""

    def act(handler: Handler, true: bytes) -> None:
        start = f"HTTP/1.1 200 OK\r\nContent-Length: {len(true)}\r\n".encode()
        try:
            if not headers:
                handler.wfile.write(start + b"\r\n")
            for byte in b"X-Slow: " + b"z" * 60000 if headers else true:
                handler.wfile.write(start + bytes([byte]) if headers else bytes([byte]))
                start = b""
                handler.wfile.flush()
                time.sleep(seconds)
        except OSError:
            pass
        handler.close_connection = True

    return act


def sleep(seconds: float) -> Fault:
    """The true answer, late."""

    def act(handler: Handler, true: bytes) -> None:
        time.sleep(seconds)
        handler.reply(true)

    return act


def entity_bomb(handler: Handler, _: bytes) -> None:
    """Ten levels of ten entities each: 10 GB once expanded."""
    levels = [f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10)]
    feed = f'<?xml version="1.0"?><!DOCTYPE feed [<!ENTITY e0 "0123456789">{"".join(levels)}]>'
    handler.reply(f'{feed}<feed xmlns="http://www.w3.org/2005/Atom"><title>&e9;</title></feed>'.encode())


def flood(handler: Handler, _: bytes) -> None:
    """White space without end."""
    handler.head(200, {"Transfer-Encoding": "chunked"})
    try:
        while True:
            handler.wfile.write(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
    except OSError:
        handler.close_connection = True


class ArxivServer:
    """The server: `put` papers, queue `faults` (one a request) or set `always`, read `asked`."""

    def __init__(self, entries: Iterable[Entry] = (), port: int = 0) -> None:
        self.papers: dict[str, Entry] = {entry.id: entry for entry in entries}
        self.bad: set[str] = set()
        self.faults: deque[Fault | None] = deque()
        self.always: Fault | None = None
        self.asked: list[Asked] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._http.daemon_threads = True
        self._http.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
        self._http.arxiv = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}{PATH}"

    def put(self, entry: Entry) -> None:
        """Add a paper, or replace it by a later version."""
        self.papers[entry.id] = entry

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, query: dict[str, str]) -> tuple[int, bytes]:
        """Status and feed for a query, as arXiv gives them: one bad id fails all, unknown ids only count."""
        ids = [each for each in query.get("id_list", "").split(",") if each]
        for each in ids:
            if each in self.bad or not re.fullmatch(r"(\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7})(v\d+)?", each):
                return 400, _feed([_error(f"incorrect id format for {each}")], 1, 0)
        named = [
            self.papers[bare] for each in ids if (bare := re.sub(r"v\d+$|\.[A-Z]{2}(?=/)", "", each)) in self.papers
        ]
        expression = query.get("search_query", "")
        if ids:
            hits, total = named, len(ids)
        else:
            hits = [entry for entry in self.papers.values() if matches(expression, entry)]
            hits.sort(key=lambda entry: entry.published, reverse=query.get("sortOrder") != "ascending")
            total = len(hits)
        start, size = int(query.get("start", 0)), int(query.get("max_results", 10))
        return 200, _feed([entry.xml() for entry in hits[start : start + size]], total, start)


class Handler(BaseHTTPRequestHandler):
    """One connection: notes the request, then answers or acts out the next fault."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server: ArxivServer = self.server.arxiv  # type: ignore[attr-defined]
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        address = (str(self.client_address[0]), int(self.client_address[1]))
        server.asked.append(Asked(time.monotonic(), parts.path, query, dict(self.headers), address))
        fault = server.faults.popleft() if server.faults else server.always
        code, feed = server.answer(query)
        if parts.path != PATH:
            self.reply(b"no such page", 404)
        elif fault:
            fault(self, feed)
        else:
            self.reply(feed, code)

    def head(self, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def reply(self, content: bytes, code: int = 200, headers: dict[str, str] | None = None) -> None:
        kind = {"Content-Type": "application/atom+xml; charset=utf-8", "Content-Length": str(len(content))}
        try:
            self.head(code, kind | (headers or {}))
            self.wfile.write(content)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Say nothing on stderr."""


def _feed(entries: list[str], total: int, start: int) -> bytes:
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            '<feed xmlns="http://www.w3.org/2005/Atom" xmlns:arxiv="http://arxiv.org/schemas/atom"',
            '      xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/">',
            "  <title>ArXiv Query</title>",
            "  <id>http://arxiv.org/api/local</id>",
            "  <updated>2026-11-23T00:00:00-05:00</updated>",
            f"  <opensearch:totalResults>{total}</opensearch:totalResults>",
            f"  <opensearch:startIndex>{start}</opensearch:startIndex>",
            *entries,
            "</feed>\n",
        ]
    ).encode()


def _error(message: str) -> str:
    name = re.sub(r"\W+", "_", message)
    return (
        f"  <entry>\n    <id>http://arxiv.org/api/errors#{name}</id>\n    <title>Error</title>\n"
        f"    <summary>{escape(message)}</summary>\n    <updated>2026-11-23T00:00:00-05:00</updated>\n  </entry>"
    )


def matches(expression: str, entry: Entry) -> bool:
    """Whether a paper fits an expression: ti, abs, au, cat, all, submittedDate ranges, AND, OR, ANDNOT, parentheses."""
    tokens = re.findall(r"\(|\)|\b(?:AND|OR|ANDNOT)\b|\w+:\[[^\]]*\]|(?:\w+:)?\"[^\"]*\"|[^\s()]+", expression)
    words: deque[str] = deque(tokens)

    def either() -> bool:
        value = both()
        while words and words[0] == "OR":
            words.popleft()
            value = both() or value
        return value

    def both() -> bool:
        value = one()
        while words and words[0] in ("AND", "ANDNOT"):
            negated = words.popleft() == "ANDNOT"
            value = (one() != negated) and value
        return value

    def one() -> bool:
        word = words.popleft()
        if word == "(":
            value = either()
            words.popleft()
            return value
        return _has(word, entry)

    return either()


def _has(term: str, entry: Entry) -> bool:
    key, _, text = term.partition(":") if re.match(r"\w+:", term) else ("all", "", term)
    if key == "submittedDate":
        first, last = re.findall(r"\d{12}", text)
        return bool(first <= re.sub(r"\D", "", entry.published)[:12] <= last)
    fields = {"ti": [entry.title], "abs": [entry.abstract], "au": list(entry.authors), "cat": list(entry.categories)}
    chosen = fields.get(key) or [value for values in fields.values() for value in values]
    words = re.sub(r"\W+", " ", text.casefold()).strip()
    if key == "cat":
        return text in entry.categories
    return any(f" {words} " in f" {re.sub(r'[^a-z0-9]+', ' ', value.casefold())} " for value in chosen)


@dataclass
class Demonstration:
    """What the program serves: the arXiv papers of a papers.yaml, and faults by name (`500:2` is twice HTTP 500)."""

    catalogue: Path
    faults: list[str] = field(default_factory=list)

    def server(self, port: int) -> ArxivServer:
        from ruamel.yaml import YAML

        known = YAML(typ="safe").load(self.catalogue.read_text(encoding="utf-8"))["papers"]
        made = ArxivServer((_of_catalogue(paper) for paper in known if paper["ids"].get("arxiv")), port)
        named: dict[str, Fault] = {
            "500": status(500),
            "throttle": throttle(2),
            "empty": empty_page,
            "cut": cut_off,
            "hangup": hang_up,
            "latin1": latin1,
            "drip": drip(),
            "bomb": entity_bomb,
        }
        for text in self.faults:
            name, _, times = text.partition(":")
            made.faults += [named[name]] * int(times or 1)
        return made


def _of_catalogue(paper: dict[str, Any]) -> Entry:
    day = f"{paper['date']}T12:00:00Z"
    authors = tuple(paper.get("authors") or ["Ann Bell"])
    return Entry(paper["ids"]["arxiv"], paper["title"], authors, published=day, updated=day)


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description="Serve a catalogue's papers as arXiv would.")
    parser.add_argument("catalogue", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fault", action="append", default=[], help="name or name:times; in order, one a request")
    given = parser.parse_args()
    with Demonstration(given.catalogue, given.fault).server(given.port) as server:
        print(server.url, flush=True)  # noqa: T201
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            sys.exit(0)
