"""What changed at arXiv since it was last asked, one typed line a change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from catalog.schema import Paper
from catalog.snapshot import Facts
from catalog.sources.published import plain

Kind = Literal[
    "new-version", "revised-title", "authors", "metadata", "withdrawn", "reinstated", "missing", "returned", "published"
]
METADATA = ("published", "categories", "comment", "journal_ref", "doi")


@dataclass(frozen=True)
class Change:
    """One difference between the last sync, or the catalogue when there was none, and now."""

    kind: Kind
    paper: str
    arxiv: str
    before: Any
    after: Any

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.paper} (arXiv {self.arxiv}): {self.kind}: {self.before} → {self.after}"


def compare(paper: Paper, before: Facts | None, now: Facts) -> Iterator[Change]:
    """Changes of one paper; a paper seen for the first time is compared with its entry."""
    arxiv = paper.ids.arxiv or ""
    title = before.title if before else paper.title
    if (plain(title) != plain(now.title)) if before is None else title != now.title:
        yield Change("revised-title", paper.id, arxiv, title, now.title)
    if now.withdrawn != (before.withdrawn if before else False):
        yield Change("withdrawn" if now.withdrawn else "reinstated", paper.id, arxiv, None, now.comment)
    if before is None:
        return
    if now.version > before.version:
        yield Change("new-version", paper.id, arxiv, before.version, now.version)
    if now.authors != before.authors:
        yield Change("authors", paper.id, arxiv, before.authors, now.authors)
    old, new = before.model_dump(mode="json"), now.model_dump(mode="json")
    if fields := [name for name in METADATA if old[name] != new[name]]:
        then, since = ({name: side[name] for name in fields} for side in (old, new))
        yield Change("metadata", paper.id, arxiv, then, since)
