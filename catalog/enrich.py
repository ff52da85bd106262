"""Ask the sources beside arXiv where preprints appeared; each fails soft and says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from catalog import invisible
from catalog.proposals import Evidence
from catalog.schema import Paper
from catalog.sources import crossref, openreview, semanticscholar
from catalog.sources.http import SourceError, Tell, Web
from catalog.sources.published import Published, doi, web

SOURCES = ("semanticscholar", "openreview", "crossref")


@dataclass(frozen=True)
class Places:
    """Where the other sources are, when not at home; `delay` is the pace of those on this machine, in seconds."""

    crossref: str | None = None
    openreview: str | None = None
    semanticscholar: str | None = None
    delay: float = 1.0


@dataclass
class Asking:
    """One round of questions: evidence by slug goes in and gets fuller, `said` tells how each source fared."""

    evidence: dict[str, Evidence]
    places: Places
    tell: Tell
    said: dict[str, str] = field(default_factory=dict)

    def ask(self, papers: Iterable[Paper], sources: Iterable[str] = SOURCES) -> None:
        """Ask the named sources about the preprints among these papers."""
        preprints = [paper for paper in papers if paper.venue.status == "preprint"]
        questions: dict[str, tuple[Callable[[Web, list[Paper]], None], str, str, str | None]] = {
            "semanticscholar": (
                self._semanticscholar,
                semanticscholar.VARIABLE,
                semanticscholar.URL,
                self.places.semanticscholar,
            ),
            "openreview": (self._openreview, openreview.VARIABLE, openreview.URL, self.places.openreview),
            "crossref": (self._crossref, crossref.VARIABLE, crossref.URL, self.places.crossref),
        }
        for name in SOURCES:
            if name not in sources:
                continue
            question, variable, home, place = questions[name]
            connection = web(variable, home, place, self.places.delay, self.tell)
            try:
                question(connection, preprints)
                self.said[name] = "ok"
            except SourceError as error:
                self.said[name] = f"failed: {error}"
            except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                self.said[name] = f"failed: an answer of unknown form ({type(error).__name__}: {error})"
            finally:
                connection.close()
            self.tell(f"{name}: {self.said[name]}")

    def _semanticscholar(self, connection: Web, papers: list[Paper]) -> None:
        slugs = {paper.ids.arxiv: paper.id for paper in papers if paper.ids.arxiv}
        for arxiv, published in semanticscholar.by_arxiv(connection, [each for each in slugs if each]).items():
            self._add(slugs[arxiv], published)

    def _openreview(self, connection: Web, papers: list[Paper]) -> None:
        for paper in papers:
            if paper.ids.openreview:
                self._add(paper.id, openreview.of_forum(connection, paper.ids.openreview))

    def _crossref(self, connection: Web, papers: list[Paper]) -> None:
        """By the DOIs that are known; by title where nobody else said anything."""
        by_doi = {known: paper.id for paper in papers if (known := self._doi(paper))}
        for name, published in crossref.by_doi(connection, by_doi).items():
            self._add(by_doi[name], published)
        for paper in papers:
            now = self.evidence[paper.id].now
            if not self.evidence[paper.id].elsewhere and not self._doi(paper) and not (now and now.journal_ref):
                authors = paper.authors or (now.authors if now else [])
                self._add(paper.id, crossref.by_title(connection, paper.title, authors))

    def _doi(self, paper: Paper) -> str | None:
        evidence = self.evidence[paper.id]
        given = [paper.ids.doi, evidence.now and evidence.now.doi, *(said.doi for said in evidence.elsewhere)]
        return next((doi(each) for each in given if each), None)

    def _add(self, slug: str, published: Published | None) -> None:
        if published:
            says = " ".join(invisible.without(published.says).split())  # it is shown to people as it stands
            self.evidence[slug].elsewhere.append(replace(published, says=says))
