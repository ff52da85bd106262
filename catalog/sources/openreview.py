"""OpenReview: what became of a submission (https://docs.openreview.net, API 2)."""

from __future__ import annotations

from typing import Any

from catalog.sources.http import BrokenAnswerError, RefusedRequestError, Web
from catalog.sources.published import Published

URL = "https://api2.openreview.net"
VARIABLE = "HFT_OPENREVIEW_URL"


def of_forum(web: Web, forum: str) -> Published | None:
    """The venue that a submission's note names, as "ICLR 2025 Poster" or "Submitted to ICLR 2025"; None if unknown."""
    try:
        answer = web.get("/notes", {"id": forum})
    except RefusedRequestError:  # no such note, or one that is not public
        return None
    if answer is None:
        return None
    try:
        notes = [note["content"] for note in answer["notes"]]
    except (KeyError, TypeError) as error:
        raise BrokenAnswerError("OpenReview sent no list of notes") from error
    says = [_value(content.get("venue")) for content in notes if isinstance(content, dict)]
    return Published("OpenReview", says[0]) if says and says[0] else None


def _value(field: Any) -> str:
    """A field of API 2 is {value: …}, one of API 1 the text itself."""
    text = field.get("value") if isinstance(field, dict) else field
    return str(text or "").strip()
