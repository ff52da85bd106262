"""Dates as people write them, to the day, the month or the year."""

import calendar
import datetime
import re
from dataclasses import dataclass

MONTHS = {name.casefold(): number for number, name in enumerate(calendar.month_abbr) if name}
MONTH = r"(?P<name>[A-Za-z]{3,9})\.?"
SHAPES = (
    r"(?P<year>\d{4})\s*[-/.]\s*(?P<month>\d{1,2})\s*[-/.]\s*(?P<day>\d{1,2})(T[\d:.Z+-]*)?/?",
    r"(?P<year>\d{4})\s*[-/.]\s*(?P<month>\d{1,2})/{0,2}",
    r"(?P<month>\d{1,2})\s*[-/.]\s*(?P<year>\d{4})",
    rf"{MONTH}\s*(?P<day>\d{{1,2}})(st|nd|rd|th)?,?\s+(?P<year>\d{{4}})",
    rf"(?P<day>\d{{1,2}})(st|nd|rd|th)?\s+{MONTH},?\s+(?P<year>\d{{4}})",
    rf"{MONTH},?\s*(?P<year>\d{{4}})",
    rf"(?P<year>\d{{4}})[,\s-]*{MONTH}(\s+(?P<day>\d{{1,2}}))?",
    r"(?P<year>\d{4})/{0,3}",
)
NUMERIC = r"\d{4}\s*[-/.]\s*\d{1,2}(?:\s*[-/.]\s*\d{1,2})?"
"""A date in figures, as it stands in brackets in front of a title."""


@dataclass(frozen=True)
class Day:
    """A date as exactly as it was given; the first day of the month or year stands for what is missing."""

    first: datetime.date
    exact: bool
    has_month: bool


def parse(text: str) -> Day | None:
    """The date in a text that is nothing but one; ValueError when it looks like one and is none; None when empty."""
    text = text.strip(" \t[]()")
    if not text:
        return None
    for shape in SHAPES:
        if match := re.fullmatch(shape, text):
            given = match.groupdict()
            named = given.get("name")
            month = MONTHS.get(named[:3].casefold()) if named else int(given.get("month") or 1)
            if month is None:
                continue
            day = given.get("day")
            first = datetime.date(int(given["year"]), month, int(day or 1))
            return Day(first, day is not None, bool(named or given.get("month")))
    raise ValueError(f"no date: '{text}'")
