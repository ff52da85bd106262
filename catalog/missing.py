"""What `hft check --info` lists: facts that an entry lacks and may lack, each with the way to fill it."""

from collections.abc import Callable, Iterator
from pathlib import Path

from catalog.papers import FILE, Catalogue, read, validate
from catalog.problems import Problem

SEED = "git-disl list 2024-09-30"
"""Source of the entries the project began with."""


def information(root: Path) -> list[Problem]:
    """Everything that is missing and no problem, in file order; RefusedError when papers.yaml cannot be read."""
    catalogue, _ = validate(read(root / FILE))
    found = [problem for rule in RULES for problem in rule(catalogue)]
    return sorted(found, key=lambda problem: int(problem.where.rpartition(":")[2]))


def authors(catalogue: Catalogue) -> Iterator[Problem]:
    """Entries without authors, or with given names that are only initials."""
    for index, paper in catalogue.numbered():
        place = ("papers", index, "authors")
        short = [name for name in paper.authors if " " not in name or name.split()[0].endswith(".")]
        if not paper.authors:
            message, fix = "no authors", f"`hft sync {paper.id}`, or add them by hand"
            yield catalogue.document.problem("no-authors", place, message, fix)
        elif short:
            message = f"names that are incomplete: {', '.join(short)}"
            yield catalogue.document.problem("short-names", place, message, f"`hft sync {paper.id}`, or by hand")


def ids(catalogue: Catalogue) -> Iterator[Problem]:
    """Entries with no id at all."""
    for index, paper in catalogue.numbered():
        if not paper.ids.given():
            message, fix = "no arXiv, OpenReview, DOI or ACL id", "look the paper up and add one under ids"
            yield catalogue.document.problem("no-id", ("papers", index, "ids"), message, fix)


def venues(catalogue: Catalogue) -> Iterator[Problem]:
    """Entries that are still preprints."""
    for index, paper in catalogue.numbered():
        if paper.venue.status == "preprint":
            message, fix = f"no venue, on {paper.venue.name} since {paper.date}", f"`hft sync {paper.id}`"
            yield catalogue.document.problem("no-venue", ("papers", index, "venue"), message, fix)


def code(catalogue: Catalogue) -> Iterator[Problem]:
    """Entries without a code link."""
    for index, paper in catalogue.numbered():
        if not paper.links.code:
            message, fix = "no code link", "add links: {code: …} once the authors publish it"
            yield catalogue.document.problem("no-code", ("papers", index, "links"), message, fix)


def doubts(catalogue: Catalogue) -> Iterator[Problem]:
    """Entries whose curation notes a doubt."""
    for index, paper in catalogue.numbered():
        if paper.curation.note:
            message, fix = f"noted: {paper.curation.note}", "settle it, then remove the note"
            yield catalogue.document.problem("noted", ("papers", index, "curation"), message, fix)


def settings(catalogue: Catalogue) -> Iterator[Problem]:
    """Entries that do not say who the attacker is."""
    for index, paper in catalogue.numbered():
        if not paper.setting or len(paper.setting.model_fields_set) < len(type(paper.setting).model_fields):
            message, fix = "setting not or only partly known", "add access, harmful_data and adapts from the paper"
            yield catalogue.document.problem("no-setting", ("papers", index, "setting"), message, fix)


def seeds(catalogue: Catalogue) -> Iterator[Problem]:
    """Papers the project began with that have no module."""
    for index, paper in catalogue.numbered():
        if paper.curation.source == SEED and not paper.reproduction:
            message, fix = "of the seed list, without a reproduction", "write a module (see CONTRIBUTING.md)"
            yield catalogue.document.problem("seed-without-module", ("papers", index), message, fix)


RULES: tuple[Callable[[Catalogue], Iterator[Problem]], ...] = (authors, ids, venues, code, doubts, settings, seeds)
