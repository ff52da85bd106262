"""Semantic Scholar: venues of many arXiv papers in one request (https://api.semanticscholar.org/api-docs/graph)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from catalog.sources.http import BrokenAnswerError, Web
from catalog.sources.published import Published, doi

URL = "https://api.semanticscholar.org"
VARIABLE = "HFT_SEMANTICSCHOLAR_URL"
BATCH = 400
"""The service takes at most 500 ids a request."""


def by_arxiv(web: Web, arxiv: Iterable[str]) -> dict[str, Published]:
    """Where arXiv papers appeared, by arXiv id; preprints and unknown ids are left out."""
    wanted = list(arxiv)
    found: dict[str, Published] = {}
    for start in range(0, len(wanted), BATCH):
        batch = wanted[start : start + BATCH]
        body = {"ids": [f"ARXIV:{each}" for each in batch]}
        answer = web.post("/graph/v1/paper/batch", {"fields": "externalIds,venue,year,journal"}, body)
        if not isinstance(answer, list) or len(answer) != len(batch):
            raise BrokenAnswerError("Semantic Scholar sent no list of one paper for each id")
        said = {each: _said(paper) for each, paper in zip(batch, answer, strict=True) if isinstance(paper, dict)}
        found |= {each: published for each, published in said.items() if published}
    return found


def _said(paper: dict[str, Any]) -> Published | None:
    held_in = paper.get("venue") or (paper.get("journal") or {}).get("name") or ""
    if not held_in or "arxiv" in held_in.casefold():
        return None
    return Published("Semantic Scholar", f"{held_in} {paper.get('year') or ''}".strip(), doi(_ids(paper).get("DOI")))


def _ids(paper: dict[str, Any]) -> dict[str, Any]:
    return paper.get("externalIds") or {}
