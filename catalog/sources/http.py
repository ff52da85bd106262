"""Manners and safety of every request: pace, back-off, deadlines, bounded answers. The one file that imports httpx."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from json import JSONDecodeError
from types import FrameType
from typing import Any, TypeVar

import httpx
import stamina

USER_AGENT = "hft-atlas/0.1 (living review of harmful fine-tuning; one connection, obeys Retry-After)"
CONNECT, READ, TOTAL = 5.0, 30.0, 90.0
"""Seconds to connect, between two pieces of an answer, and for a whole answer."""
MAX_BYTES = 16_000_000
MAX_WAIT = 300.0
"""Longest wait in seconds that a server may ask for before we give up."""
ATTEMPTS = 5

Answer = TypeVar("Answer")
Tell = Callable[[str], None]


def silent(_: str) -> None:
    """Tell nobody."""


class SourceError(Exception):
    """A source gave no usable answer, and asking again now will not help."""


class RefusedRequestError(SourceError):
    """The source answered, and said no (HTTP 4xx)."""


class BadRequestError(RefusedRequestError):
    """The source cannot read the request (HTTP 400)."""


class HostileAnswerError(SourceError):
    """An answer that no honest server sends: a document type definition, or more bytes than MAX_BYTES."""


class UnreachableError(SourceError):
    """No connection: no network, no such host, or nobody listening."""


class BrokenAnswerError(SourceError):
    """Cut off, empty, late or garbled answers and HTTP 5xx, which pass; `wait` is Retry-After in seconds."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class ThrottledError(BrokenAnswerError):
    """The source asks for fewer requests (HTTP 429)."""


def patiently(ask: Callable[[], Answer], delay: float, tell: Tell = silent, attempts: int = ATTEMPTS) -> Answer:
    """Ask, and ask again after what passes: as long as Retry-After says, else twice as long each time.

    The first wait is `delay` seconds, ten times that after HTTP 429. The last error is raised after `attempts`
    tries, or when the server asks for more than MAX_WAIT seconds; an unreachable server is tried twice.
    """
    stamina.instrumentation.set_on_retry_hooks([])
    tries = 0

    def wait(error: Exception) -> bool | float:
        if not isinstance(error, UnreachableError | BrokenAnswerError):
            return False
        asked = getattr(error, "wait", None)
        if isinstance(error, UnreachableError):
            seconds, limit = min(delay, 1.0), 2
        else:
            backing_off = delay * 2 ** (tries - 1) * (10 if isinstance(error, ThrottledError) else 1)
            seconds, limit = backing_off if asked is None else asked, attempts
        if tries >= limit or seconds > MAX_WAIT:
            return False
        tell(f"{error}; next try in {seconds:g} s")
        return float(seconds)

    for attempt in stamina.retry_context(on=wait, attempts=attempts, timeout=None, wait_jitter=0):
        with attempt:
            tries += 1
            return ask()
    raise AssertionError("stamina returns or raises")


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """BrokenAnswerError when the block takes longer, however slowly its bytes drip; main thread of POSIX only."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_: int, __: FrameType | None) -> None:
        raise BrokenAnswerError(f"no whole answer within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def whole(pieces: Iterator[bytes], host: str, limit: int = MAX_BYTES) -> bytes:
    """All of an answer; HostileAnswerError as soon as it is larger than `limit` bytes."""
    body = bytearray()
    for piece in pieces:
        body += piece
        if len(body) > limit:
            raise HostileAnswerError(f"{host} sent more than {limit / 1e6:g} MB")
    return bytes(body)


def check_status(host: str, status: int, retry_after: str | None) -> None:
    """Raise what a status other than 200 means."""
    if status == 200:
        return
    said, wait = f"{host} answered HTTP {status}", seconds_to_wait(retry_after, datetime.now(UTC))
    if status == 429:
        raise ThrottledError(said, wait)
    if status >= 500:
        raise BrokenAnswerError(said, wait)
    raise BadRequestError(said) if status == 400 else RefusedRequestError(said)


def seconds_to_wait(retry_after: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for: a number or a date (RFC 9110, section 10.2.3); None if neither."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - now).total_seconds())
    except (ValueError, TypeError):
        return None


@dataclass
class Web:
    """A JSON service asked over one connection, at most once every `delay` seconds."""

    url: str
    delay: float = 1.0
    tell: Tell = silent
    total: float = TOTAL
    _last: float = field(default=-1e9, init=False)

    def __post_init__(self) -> None:
        self._client = httpx.Client(
            headers={"User-Agent": USER_AGENT, "Accept": "application/json"},
            timeout=httpx.Timeout(READ, connect=CONNECT),
            limits=httpx.Limits(max_connections=1),
            trust_env=not is_local(self.url),
        )

    def get(self, path: str, params: Mapping[str, str]) -> Any:
        """The JSON document at a path below the service's URL; None when there is none (HTTP 404)."""
        return self._ask("GET", path, params=dict(params))

    def post(self, path: str, params: Mapping[str, str], body: Any) -> Any:
        """The JSON answer to a JSON document; None at HTTP 404."""
        return self._ask("POST", path, params=dict(params), json=body)

    def close(self) -> None:
        self._client.close()

    def _ask(self, method: str, path: str, **what: Any) -> Any:
        return patiently(lambda: self._once(method, path, **what), self.delay, self.tell, attempts=3)

    def _once(self, method: str, path: str, **what: Any) -> Any:
        time.sleep(max(0.0, self._last + self.delay - time.monotonic()))
        host = httpx.URL(self.url).netloc.decode()
        try:
            with deadline(self.total), self._client.stream(method, self.url.rstrip("/") + path, **what) as answer:
                if answer.status_code == 404:
                    return None
                check_status(host, answer.status_code, answer.headers.get("Retry-After"))
                body = whole(answer.iter_bytes(), host)
            return httpx.Response(200, content=body).json()
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.UnsupportedProtocol) as error:
            raise UnreachableError(f"{host} cannot be reached ({error})") from error
        except httpx.HTTPError as error:
            raise BrokenAnswerError(f"{host}: {error or type(error).__name__}") from error
        except (JSONDecodeError, UnicodeDecodeError) as error:
            raise BrokenAnswerError(f"{host} sent no JSON document ({error})") from error
        finally:
            self._last = time.monotonic()


def is_local(url: str) -> bool:
    """Whether a URL points at this machine, where no proxy stands in between."""
    return httpx.URL(url).host in ("127.0.0.1", "localhost", "::1")
