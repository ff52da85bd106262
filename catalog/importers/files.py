"""A file of papers of any known format, read into candidates."""

import datetime
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from catalog.importers.decoding import decode
from catalog.importers.reading import Reading
from catalog.problems import Problem, RefusedError
from catalog.taxonomy import FileFormat

MODULES: dict[FileFormat, str] = {
    "bibtex": "bibtex",
    "csv": "table",
    "json": "document",
    "ris": "ris",
    "markdown": "awesome_list",
}
SUFFIXES: dict[str, FileFormat] = {
    ".bib": "bibtex",
    ".bibtex": "bibtex",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".ris": "ris",
    ".md": "markdown",
    ".markdown": "markdown",
}


def read(path: Path, form: FileFormat | None, today: datetime.date) -> Reading:
    """Everything a file says; RefusedError when its format is not known or it is no text."""
    form = form or SUFFIXES.get(path.suffix.casefold())
    if form is None:
        message = f"the name does not tell the format ({path.suffix or 'no suffix'})"
        raise RefusedError([Problem("format", f"{path.name}:1", "", message, f"give --format {'|'.join(MODULES)}")])
    reading = Reading(path.name)
    text = decode(path.read_bytes(), reading)
    parse: Callable[[str, Reading, datetime.date], None] = import_module(f"catalog.importers.{MODULES[form]}").read
    parse(text, reading, today)
    return reading
