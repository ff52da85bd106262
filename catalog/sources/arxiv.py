"""arXiv's metadata through the `arxiv` package, whose traps end in this file.

What it would do by itself: lose ids beyond 100 without a word, wait for ever, retry at the same pace whatever
Retry-After says, take unknown ids and cut-off XML for complete answers, and fail a whole batch for one bad id.
Measured with arxiv 4.0.2; arXiv's side is in its API manual (https://info.arxiv.org/help/api/user-manual.html).
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from catalog import ids
from catalog.sources.http import TOTAL, BadRequestError, SourceError, Tell, silent

if TYPE_CHECKING:
    from catalog.sources.arxiv_client import Client

URL = "https://export.arxiv.org/api/query"
VARIABLE = "HFT_ARXIV_URL"
DELAY = 3.0
"""Seconds between requests that arXiv asks for (https://info.arxiv.org/help/api/tou.html)."""
BATCH = 50
CONFIRMED = 20
MAX_BAD = 10

WITHDRAWN = re.compile(
    r"(?i)\b(this|the) (\w+ )?(paper|article|manuscript|submission|preprint|work|version) "
    r"(has been|have been|was|is) (temporarily )?(withdrawn|removed|retracted)(?! from)"
    r"|\b(withdrawn|removed) by (the )?(authors?|arxiv|submitter)|^withdrawn\W*$"
)


@dataclass(frozen=True)
class Server:
    """Which arXiv to ask, and how often at most; `total` is the longest an answer may take in seconds."""

    url: str = URL
    delay: float = DELAY
    total: float = TOTAL

    @classmethod
    def given(cls, url: str | None = None, delay: float | None = None) -> Server:
        """The server of `--arxiv-url`, else of HFT_ARXIV_URL, else arXiv itself.

        ValueError for a URL that is no http address, and for a pace faster than arXiv's own at arXiv.
        """
        url = url or os.environ.get(VARIABLE) or URL
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"'{url}' is no http address; write for example {URL}")
        at_arxiv = parts.hostname == "arxiv.org" or parts.hostname.endswith(".arxiv.org")
        if delay is not None and (delay < 0 or (at_arxiv and delay < DELAY)):
            raise ValueError(f"arXiv asks for {DELAY:g} s between requests; a shorter delay is for other servers only")
        return cls(url.rstrip("?"), DELAY if delay is None else delay)


@dataclass(frozen=True)
class ArxivPaper:
    """The latest version of a paper as arXiv knows it; `id` carries no version, dates are UTC."""

    id: str
    version: int
    title: str
    authors: tuple[str, ...]
    abstract: str
    published: datetime.date
    updated: datetime.date
    categories: tuple[str, ...]
    comment: str | None
    journal_ref: str | None
    doi: str | None
    withdrawn: bool


@dataclass
class Fetched:
    """What arXiv said: papers by the id asked for, ids it does not know, and ids with the reason they failed.

    `trouble` says why not every id has an answer; ids in none of the three were never asked.
    """

    found: dict[str, ArxivPaper] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    trouble: str | None = None


def fetch(
    asked: Iterable[str],
    server: Server | None = None,
    *,
    tell: Tell = silent,
    on_batch: Callable[[Fetched], None] = lambda _: None,
) -> Fetched:
    """Metadata of the latest version of each id, in batches over one connection.

    Never raises for what arXiv does: malformed ids and ids that arXiv calls bad are `failed`; an id left out of an
    answer is asked once more by itself before it counts as missing; when arXiv stops answering, `trouble` says why
    and what was found so far stays. `on_batch` sees the state after every batch.
    """
    from catalog.sources.arxiv_client import Client

    result = Fetched()
    wanted = []
    for each in dict.fromkeys(asked):
        if re.fullmatch(ids.ARXIV, each):
            wanted.append(each)
        else:
            result.failed[each] = "no arXiv id in its bare form, such as 2402.01109"
    absent: list[str] = []
    with Client(server or Server.given(), tell) as client:
        try:
            for start in range(0, len(wanted), BATCH):
                absent += _ask(client, wanted[start : start + BATCH], result)
                on_batch(result)
                tell(f"arXiv: asked for {min(start + BATCH, len(wanted))} of {len(wanted)} papers")
            if len(absent) > CONFIRMED:
                raise SourceError(f"arXiv left out {len(absent)} of {len(wanted)} ids, too many to be unknown")
            for each in absent:
                result.missing += _ask(client, [each], result)
        except SourceError as error:
            result.trouble = str(error)
    return result


def search(
    expression: str,
    since: datetime.date | None = None,
    server: Server | None = None,
    *,
    limit: int = 2000,
    tell: Tell = silent,
) -> Iterator[ArxivPaper]:
    """Papers that match an expression of arXiv's query language, newest first, submitted on `since` or later.

    Each paper once, at most `limit`. SourceError when arXiv does not answer.
    """
    from catalog.sources.arxiv_client import Client

    if since:
        expression = f"({expression}) AND submittedDate:[{since:%Y%m%d}0000 TO 209912312359]"
    seen: set[str] = set()
    with Client(server or Server.given(), tell) as client:
        for paper in client.matching(expression):
            if len(seen) >= limit:
                return
            if paper.id not in seen and (since is None or paper.published >= since):
                seen.add(paper.id)
                yield paper


def _ask(client: Client, batch: list[str], result: Fetched) -> list[str]:
    """Put one batch into the result, halving it around ids that arXiv calls bad; returns ids left out."""
    try:
        found = {_bare(paper.id): paper for paper in client.named(batch)}
    except BadRequestError as error:
        if len(batch) > 1:
            middle = len(batch) // 2
            return _ask(client, batch[:middle], result) + _ask(client, batch[middle:], result)
        result.failed[batch[0]] = str(error)
        if len(result.failed) > MAX_BAD:
            raise SourceError(f"arXiv calls more than {MAX_BAD} ids bad; last: {error}") from error
        return []
    result.found |= {each: found[_bare(each)] for each in batch if _bare(each) in found}
    return [each for each in batch if _bare(each) not in found]


def _bare(arxiv: str) -> str:
    """An old id without its subject class, which arXiv leaves out: math.GT/0309136 → math/0309136."""
    return re.sub(r"\.[A-Z]{2}/", "/", arxiv)
