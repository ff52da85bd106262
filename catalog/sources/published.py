"""What the sources beside arXiv say about where a paper appeared."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from catalog import ids
from catalog.sources import http


@dataclass(frozen=True)
class Published:
    """One statement that a paper appeared: in the source's own words, with the DOI it gives."""

    source: str
    says: str
    doi: str | None = None


def web(variable: str, default: str, url: str | None, delay: float, tell: http.Tell) -> http.Web:
    """A connection to a service: at `url`, else where the environment variable points, else at its home.

    `delay` counts on this machine only; services elsewhere are asked once a second.
    """
    place = url or os.environ.get(variable) or default
    return http.Web(place, delay if http.is_local(place) else max(1.0, delay), tell)


def doi(text: Any) -> str | None:
    """A DOI of a published version; None for anything else, such as the DOIs of arXiv itself."""
    try:
        found = ids.PaperId.parse(str(text or ""))
    except ValueError:
        return None
    return found.value if found.kind == "doi" else None


def plain(title: str) -> str:
    """A title for comparison: case, punctuation and white space do not count."""
    return re.sub(r"\W+", " ", title.casefold()).strip()
