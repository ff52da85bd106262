"""Tables in CSV, with commas, semicolons or tabs, and a line of column names; those of `hft export csv` among them."""

import csv
import datetime
import json
import re
from typing import get_args

from catalog.exports import rows
from catalog.importers import interpreting, keywords
from catalog.importers.reading import Reading, Reference
from catalog.problems import did_you_mean
from catalog.schema import Paper
from catalog.taxonomy import Guessable

COLUMNS = {
    "title": "title paper_title name",
    "authors": "authors author",
    "date": "date published publication_date first_public posted year",
    "venue": "venue venue_name venue_raw conference journal booktitle publication",
    "venue_year": "venue_year",
    "track": "venue_track track",
    "status": "venue_status",
    "arxiv": "arxiv arxiv_id ids_arxiv eprint",
    "doi": "doi ids_doi",
    "openreview": "openreview openreview_id ids_openreview",
    "acl": "acl acl_id ids_acl anthology",
    "paper": "paper url paper_url link links doi_or_other_url pdf paper_link",
    "published": "links_paper",
    "code": "code code_url github repo repository links_code",
    "data": "data data_url dataset links_data",
    "project": "project project_url website homepage links_project",
    "type": "type category section kind",
    "stage": "stage",
    "tags": "tags keywords topics",
    "slug": "id slug key",
    "nickname": "nickname short_name method",
    "unsure": "unsure",
}
"""What the columns of tables are called."""
NAMES = {alias: name for name, aliases in COLUMNS.items() for alias in aliases.split()}
OTHERS = set(
    "setting_access setting_harmful_data setting_adapts claims reported reproduction"
    " curation_added curation_source curation_checked curation_note".split()
)
"""Columns of `hft export csv` that count only in a row that is a whole entry."""


def plain(name: str) -> str:
    """The name of a column in lower case letters, digits and underscores."""
    return re.sub(r"\W+", "_", name.strip().casefold()).strip("_")


def read(text: str, reading: Reading, today: datetime.date) -> None:
    """Add to the reading every row, and a problem for every row that does not have the columns of the first."""
    lines = text.split("\n")
    head = next((number for number, line in enumerate(lines) if line.strip()), 0)
    delimiter = max(",;\t", key=lines[head].count)
    found = csv.reader((f"{line}\n" for line in lines[head:]), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    columns: list[str] = []
    start = head + 1
    try:
        for row in found:
            if names is None:
                names, columns = _names(row, start, reading), row
            elif any(cell.strip() for cell in row):
                _row(row, names, columns, start, reading, today)
            start = head + found.line_num + 1
    except csv.Error as error:
        fix = 'close every quote, and write a quote within a cell as ""'
        reading.complain(start, "csv-syntax", f"no CSV from here on: {error}", fix)


def _names(row: list[str], line: int, reading: Reading) -> list[str]:
    """What each column is; unknown ones are told, those without a title column refused."""
    called = [plain(cell) for cell in row]
    for cell in (cell for cell in called if cell and cell not in NAMES and cell not in OTHERS):
        reading.complain(line, "csv-column", f"column '{cell}' is not read", did_you_mean(cell, COLUMNS), warning=True)
    names = [NAMES.get(cell, "") for cell in called]
    if "title" not in names:
        reading.complain(line, "csv-column", "no column `title`", "name the columns in the first line")
    return names


def _row(
    row: list[str], names: list[str], columns: list[str], line: int, reading: Reading, today: datetime.date
) -> None:
    if "title" not in names:
        return
    if len(row) != len(names):
        message, fix = f"{len(row)} cells under {len(names)} columns", "quote cells that contain the separator"
        reading.complain(line, "csv-cells", message, fix)
        return
    cells = [(name, cell.strip()) for name, cell in zip(names, row, strict=True) if name and cell.strip()]
    take(cells, line, reading, today, _whole(dict(zip(columns, row, strict=True))))


def _whole(row: dict[str, str]) -> Paper | None:
    """The entry that a row of `hft export csv` is."""
    try:
        return rows.from_row(row) if row.get("id") else None
    except ValueError:
        return None


def take(
    columns: list[tuple[str, str]], line: int, reading: Reading, today: datetime.date, entry: Paper | None = None
) -> None:
    """Add to the reading the paper of a row, given as names of COLUMNS with their cells, none of them empty.

    `entry` is the whole of it, if the row is one of an export.
    """
    cells: dict[str, str] = {}
    for name, cell in columns:
        cells.setdefault(name, cell)
    venue = [cells[name] for name in ("venue", "venue_year", "track") if name in cells and cells[name] != "journal"]
    reference = Reference(
        line,
        title=cells.get("title", ""),
        authors=_listed(cells.get("authors", "")) or _people(cells.get("authors", "")),
        date=cells.get("date", ""),
        venue=" ".join(venue),
        slug=cells.get("slug", ""),
        nickname=cells.get("nickname", ""),
        entry=entry,
    )
    for name, cell in columns:
        if name in ("arxiv", "doi", "openreview", "acl"):
            reference.addresses.append((name, cell if cell.startswith("http") else f"{name}:{cell}"))
        elif name in ("paper", "published", "code", "data", "project"):
            reference.addresses += [(name, address) for address in re.split(r"[\s;]+", cell)]
    tags = cells.get("tags", "")
    words = [cells.get("type", ""), cells.get("stage", ""), *(_listed(tags) or re.split(r"[;,]", tags))]
    doubts = cells.get("unsure", "")
    told = _listed(doubts) or re.split(r"[\s;,]+", doubts)
    reference.unsure = [key for key in get_args(Guessable) if key in told]
    if rest := keywords.sort(words, reference):
        reading.complain(line, "csv-word", f"no type, stage or tag: {', '.join(rest)}", "see `hft list --help`")
    interpreting.take(reference, reading, today)


def _people(text: str) -> list[str]:
    """Names separated by semicolons, by `and`, or else by commas."""
    separator = ";" if ";" in text else r"\s+and\s+" if re.search(r"\sand\s", text) else ","
    return [name.strip() for name in re.split(separator, text) if name.strip()]


def _listed(text: str) -> list[str]:
    """The words of a cell that holds a list as JSON; none when it does not."""
    try:
        found = json.loads(text) if text.startswith("[") else []
    except ValueError:
        return []
    return [str(word) for word in found]
