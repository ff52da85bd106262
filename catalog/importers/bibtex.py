"""BibTeX and BibLaTeX files."""

import datetime
import logging
import re
from collections.abc import Callable

from bibtexparser.entrypoint import parse_string
from bibtexparser.exceptions import BlockAbortedException
from bibtexparser.library import Library
from bibtexparser.middlewares import RemoveEnclosingMiddleware, ResolveStringReferencesMiddleware
from bibtexparser.middlewares.middleware import Middleware
from bibtexparser.middlewares.names import InvalidNameError, parse_single_name_into_parts, split_multiple_persons_names
from bibtexparser.model import Block, DuplicateBlockKeyBlock, DuplicateFieldKeyBlock, Entry
from pylatexenc.latex2text import LatexNodes2Text  # type: ignore[import-untyped]

from catalog.importers import interpreting, keywords
from catalog.importers.reading import Reading, Reference

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
HOLDERS = ("booktitle", "journal", "journaltitle", "eventtitle", "howpublished", "publisher", "institution")
ADDRESSES = ("url", "pdf", "code", "codeurl", "github", "data", "project", "openreview", "howpublished", "note", "acl")
URL = re.compile(r"https?://[^\s{}\\,]+")


def read(text: str, reading: Reading, today: datetime.date) -> None:
    """Add to the reading every entry, and a problem for every block that BibTeX would refuse."""
    stack: list[Middleware] = [
        ResolveStringReferencesMiddleware(allow_inplace_modification=True),
        RemoveEnclosingMiddleware(allow_inplace_modification=True),
    ]
    library: Library = _quietly(lambda: parse_string(_with_months(text), parse_stack=stack))
    for block in library.blocks:
        if isinstance(block, DuplicateBlockKeyBlock) and isinstance(block.ignore_error_block, Entry):
            message, fix = f"key {block.key} stands twice in the file", "give each entry a key of its own"
            reading.complain(_line(block), "bibtex-key", message, fix, warning=True)
            _entry(block.ignore_error_block, reading, today, enclosed=True)
        elif block in library.failed_blocks:
            _failed(block, reading)
        elif isinstance(block, Entry):
            _entry(block, reading, today)
    for comment in library.comments:
        for match in re.finditer(r"(?m)^\s*@\s*(?!comment)[a-zA-Z]+[^{(\n]*$|^\s*@\s*\w+\s+\w+\s*,", comment.comment):
            line = _line(comment) + comment.comment.count("\n", 0, comment.comment.index("@", match.start()))
            fix = "write @type{key, field = {value}, …}"
            reading.complain(line, "bibtex-syntax", f"no BibTeX entry: '{match[0].strip()[:60]}'", fix)


def _with_months(text: str) -> str:
    """The names of months that every style defines, on the first line so that lines keep their numbers."""
    own = {name.casefold() for name in re.findall(r"(?i)@string\s*[{(]\s*(\w+)\s*=", text)}
    return "".join(f'@string{{{name} = "{name}"}}' for name in MONTHS if name not in own) + text


def _quietly(parse: Callable[[], Library]) -> Library:
    """Parse without the parser's own log; what failed is in the library."""
    logging.disable(logging.WARNING)
    try:
        return parse()
    finally:
        logging.disable(logging.NOTSET)


def _failed(block: Block, reading: Reading) -> None:
    line = _line(block)
    if isinstance(block, DuplicateFieldKeyBlock):
        names = ", ".join(sorted(block.duplicate_keys))
        reading.complain(line, "bibtex-field", f"field {names} stands twice in an entry", "remove one of the two")
        return
    error = block.error  # type: ignore[attr-defined]
    reason = error.abort_reason if isinstance(error, BlockAbortedException) else str(error)
    fix = "close every brace and put a comma after the key and every field"
    reading.complain(line, "bibtex-syntax", f"broken entry: {' '.join(str(reason).split())}", fix)


def _line(block: Block) -> int:
    return (block.start_line or 0) + 1


def _entry(entry: Entry, reading: Reading, today: datetime.date, *, enclosed: bool = False) -> None:
    if not entry.fields:
        return
    fields = {name.key.casefold(): _bare(str(name.value)) if enclosed else str(name.value) for name in entry.fields}
    plain = {name: decoded(value) for name, value in fields.items()}
    reference = Reference(_line(entry), plain.get("title", ""))
    if plain.get("subtitle"):
        reference.title += f": {plain['subtitle']}"
    reference.title = re.sub("[“”]", '"', reference.title)  # LaTeX has no straight ones
    reference.authors = _people(fields.get("author", ""), reference.line, reading)
    month = plain.get("month", "").strip()
    month = month.zfill(2) if month.isdigit() else month
    day = plain.get("day", "")
    year = plain.get("year", "")
    dated = f"{year}-{month}" if month.isdigit() else f"{month} {year}".strip()
    reference.date = plain.get("date") or (f"{year}-{month}-{day}" if day and month.isdigit() else dated)
    if re.fullmatch(r"\d{4}-\d\d-\d\d", plain.get("origdate", "")):
        reference.date = plain["origdate"]
    reference.venue = _venue(plain, year or reference.date[:4])
    reference.addresses = _addresses(fields, plain)
    reference.nickname = plain.get("shorttitle", "")
    keywords.sort(re.split(r"[,;]", plain.get("keywords", "")), reference)
    interpreting.take(reference, reading, today)


def _bare(value: str) -> str:
    """A value without the braces or quotes around it, which stay on in an entry whose key stands twice."""
    return value[1:-1] if value[:1] + value[-1:] in ("{}", '""') else value


def decoded(latex: str) -> str:
    """LaTeX as plain text; a bare percent sign, which in LaTeX would hide the rest of the line, stays."""
    latex = re.sub(r"(?<!\\)%", r"\\%", latex)
    text: str = LatexNodes2Text(math_mode="text", keep_comments=True).latex_to_text(latex)
    return " ".join(text.split())


def _people(authors: str, line: int, reading: Reading) -> list[str]:
    names = []
    for author in split_multiple_persons_names(" ".join(authors.split())) if authors.strip() else []:
        try:
            parts = parse_single_name_into_parts(author)
        except InvalidNameError as error:
            reading.complain(line, "bibtex-name", str(error), "separate authors by `and`, write Family, Given")
            continue
        names.append(decoded(" ".join([*parts.first, *parts.von, *parts.last, *parts.jr])))
    return names


def _venue(plain: dict[str, str], year: str) -> str:
    """The first field that holds a venue, with the year of the entry when it names none."""
    held = next((plain[name] for name in HOLDERS if plain.get(name) and not URL.search(plain[name])), "")
    if not held and "arxiv" in plain.get("archiveprefix", plain.get("eprinttype", "")).casefold():
        return "arXiv"
    return held if re.search(r"(?:19|20)\d\d", held) or not held else f"{held} {year}"


def _addresses(fields: dict[str, str], plain: dict[str, str]) -> list[tuple[str, str]]:
    found = [("arXiv", f"arXiv:{fields['eprint']}")] if _is_arxiv(plain) else []
    if doi := plain.get("doi"):
        found.append(("doi", doi if doi.startswith("http") else f"doi:{doi}"))
    for name in ADDRESSES:
        value = fields.get(name, "").replace("\\", "")
        label = {"codeurl": "code", "note": "", "howpublished": ""}.get(name, name)
        found += [(label, url) for url in URL.findall(value)]
        if name in ("openreview", "acl") and value and "/" not in value:
            found.append((name, f"{name}:{value}"))
    if not fields.get("eprint") and (match := re.search(r"arXiv:\s*(\S+)", plain.get("journal", ""), re.IGNORECASE)):
        found.append(("arXiv", f"arXiv:{match[1].rstrip('.,;)')}"))
    return found


def _is_arxiv(plain: dict[str, str]) -> bool:
    kind = plain.get("archiveprefix", plain.get("eprinttype", "arxiv")).casefold()
    return bool(plain.get("eprint")) and kind == "arxiv"
