"""Downloads: the catalogue in the formats others read."""

import re
from collections.abc import Iterable, Mapping

from bibtexparser.library import Library
from bibtexparser.model import Entry, Field
from bibtexparser.writer import BibtexFormat, write
from pylatexenc.latexencode import unicode_to_latex  # type: ignore[import-untyped]

from catalog.schema import Paper, Venue

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
HOLDERS = {"article": "journal", "inproceedings": "booktitle"}


def bibtex(entry: Paper, venues: Mapping[str, Venue] | None = None) -> str:
    """One paper as a BibTeX entry keyed by its slug; `venues` (the head's) gives full venue names."""
    return bibliography([entry], venues)


def bibliography(papers: Iterable[Paper], venues: Mapping[str, Venue] | None = None) -> str:
    """A .bib file of these papers, in their order, accents as LaTeX commands."""
    style = BibtexFormat()  # type: ignore[no-untyped-call]
    style.indent = "  "
    style.block_separator = "\n"
    style.trailing_comma = True
    library = Library([_entry(paper, venues or {}) for paper in papers])
    # written without middleware: bibtexparser's own encoder would escape the braces around capitals
    return write(library, style)


def _entry(paper: Paper, venues: Mapping[str, Venue]) -> Entry:
    kind = _kind(paper)
    fields = {"title": f"{{{_title(paper)}}}"}
    if paper.authors:
        fields["author"] = f"{{{' and '.join(_name(author) for author in paper.authors)}}}"
    if kind in HOLDERS:
        venue = venues.get(paper.venue.name)
        name = _latex(venue.full if venue else paper.venue.name)
        fields[HOLDERS[kind]] = f"{{{'Findings of the ' if paper.venue.track == 'findings' else ''}{name}}}"
    fields["year"] = f"{{{paper.venue.year}}}"
    if kind == "misc":
        fields["month"] = MONTHS[paper.date.month - 1]
    if paper.ids.doi:
        fields["doi"] = f"{{{paper.ids.doi}}}"
    if paper.ids.arxiv:
        fields |= {"eprint": f"{{{paper.ids.arxiv}}}", "archiveprefix": "{arXiv}"}
    if addresses := list(paper.addresses().values()):
        fields["url"] = f"{{{addresses[0]}}}"
    return Entry(kind, paper.id, [Field(name, value) for name, value in fields.items()])


def _kind(paper: Paper) -> str:
    if paper.venue.status == "preprint":
        return "misc"
    return "article" if paper.venue.track == "journal" else "inproceedings"


def _title(paper: Paper) -> str:
    """The title in LaTeX, its nickname and words with inner capitals in braces against lower-casing."""
    name = re.escape(paper.nickname) if paper.nickname else r"(?!)"
    pieces = re.split(rf"(\b{name}(?!\w)|\w*\w[^\W\d_a-z]\w*)", paper.title)
    return "".join(f"{{{_latex(piece)}}}" if odd % 2 else _latex(piece) for odd, piece in enumerate(pieces))


def _name(author: str) -> str:
    """A person's name; one that BibTeX would take apart (comma, `and`) stands in braces."""
    name = _latex(author)
    return f"{{{name}}}" if re.search(r",|\band\b", author) else name


def _latex(text: str) -> str:
    encoded: str = unicode_to_latex(text, replacement_latex_protection="braces-all", unknown_char_policy="keep")
    return encoded
