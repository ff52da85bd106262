"""BibTeX that bibtex and biber read: accents as LaTeX commands, capitals in braces, keys such as huang2024vaccine.

LaTeX commands rather than UTF-8, because both programs read those. The fields openreview, acl, code, data and project
are ours, shorttitle and origdate (the day of the first version) those of biblatex: styles pass over them, `hft import`
reads them. What BibTeX has no place for (claims, reported numbers, reproduction, setting, guesses) stays out; JSON and
CSV carry all of it.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from bibtexparser.library import Library
from bibtexparser.model import Entry, Field
from bibtexparser.writer import BibtexFormat, write
from pylatexenc.latexencode import unicode_to_latex  # type: ignore[import-untyped]

from catalog import snapshot
from catalog.exports import keys
from catalog.schema import Paper, Venue

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
HOLDERS = {"article": "journal", "inproceedings": "booktitle"}
VERBATIM = str.maketrans({"{": "%7B", "}": "%7D", "\\": "%5C"})
"""Addresses and DOIs are read verbatim, but a brace would end the field."""


def bibliography(
    papers: Iterable[Paper],
    venues: Mapping[str, Venue] | None = None,
    *,
    names: Mapping[str, str] | None = None,
    classes: Mapping[str, str] | None = None,
) -> str:
    """A .bib file of these papers in their order, in ASCII wherever LaTeX has a command for an accent or sign.

    `venues` (the head's) gives full venue names, `names` citation keys by id (those of `keys.of` of these papers
    otherwise), `classes` the primary arXiv category by arXiv id.
    """
    listed = list(papers)
    style = BibtexFormat()  # type: ignore[no-untyped-call]
    style.indent = "  "
    style.block_separator = "\n"
    style.trailing_comma = True
    called = names or keys.of(listed)
    library = Library([_entry(paper, called[paper.id], venues or {}, classes or {}) for paper in listed])
    # written without middleware: bibtexparser's own encoder would escape the braces around capitals
    return write(library, style)


def classes(root: Path) -> dict[str, str]:
    """The primary category of each paper by arXiv id, as far as `hft sync` has asked arXiv."""
    return {arxiv: facts.categories[0] for arxiv, facts in snapshot.load(root).papers.items() if facts.categories}


def _entry(paper: Paper, key: str, venues: Mapping[str, Venue], classes: Mapping[str, str]) -> Entry:
    kind = _kind(paper)
    fields = {"title": _title(paper)}
    if paper.authors:
        fields["author"] = " and ".join(_name(author) for author in paper.authors)
    if kind in HOLDERS:
        venue = venues.get(paper.venue.name)
        name = _latex(venue.full if venue else paper.venue.name)
        fields[HOLDERS[kind]] = f"{'Findings of the ' if paper.venue.track == 'findings' else ''}{name}"
    if paper.nickname:
        fields["shorttitle"] = _latex(paper.nickname)
    fields["year"] = str(paper.venue.year)
    if "date" not in paper.unsure:
        fields["origdate"] = paper.date.isoformat()
    if kind == "misc" and paper.date.year == paper.venue.year:
        fields["month"] = MONTHS[paper.date.month - 1]
    if paper.ids.doi:
        fields["doi"] = paper.ids.doi.translate(VERBATIM)
    if paper.ids.arxiv:
        fields |= {"eprint": paper.ids.arxiv, "archiveprefix": "arXiv"}
        if named := classes.get(paper.ids.arxiv):
            fields["primaryclass"] = named
    if addresses := list(paper.addresses().values()):
        fields["url"] = addresses[0].translate(VERBATIM)
    fields |= {kind: value for kind in ("openreview", "acl") if (value := getattr(paper.ids, kind))}
    links = paper.links.model_dump(include={"code", "data", "project"}, exclude_none=True)
    fields |= {kind: link.translate(VERBATIM) for kind, link in links.items()}
    if words := paper.keywords():
        fields["keywords"] = ", ".join(words)
    return Entry(kind, key, [Field(name, v if name == "month" else f"{{{v}}}") for name, v in fields.items()])


def _kind(paper: Paper) -> str:
    if paper.venue.status == "preprint":
        return "misc"
    return "article" if paper.venue.track == "journal" else "inproceedings"


def _title(paper: Paper) -> str:
    """The title in LaTeX, its nickname and words with inner capitals in braces against lower-casing."""
    name = re.escape(paper.nickname) if paper.nickname else r"(?!)"
    title = re.sub(r'"([^"]*)"', r"“\1”", paper.title)  # LaTeX has no straight quotation marks
    pieces = re.split(rf"(\b{name}(?!\w)|\w*\w[^\W\d_a-z]\w*)", title)
    return "".join(f"{{{_latex(piece)}}}" if odd % 2 else _latex(piece) for odd, piece in enumerate(pieces))


def _name(author: str) -> str:
    """A person's name; one that BibTeX would take apart (comma, `and`) stands in braces."""
    name = _latex(author)
    return f"{{{name}}}" if re.search(r",|\band\b", author) else name


def _latex(text: str) -> str:
    encoded: str = unicode_to_latex(text, replacement_latex_protection="braces-all", unknown_char_policy="keep")
    return encoded
