"""excluded.yaml: candidates that were looked at and left out, each with the rule of SCOPE.md that decided."""

import datetime
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError

from catalog import dedupe, ids, papers
from catalog.candidates import Candidate
from catalog.papers import Catalogue, parse, plain
from catalog.problems import Problem, RefusedError, did_you_mean
from catalog.schema import Ids, Slug, Strict, Text

FILE = "excluded.yaml"
SCOPE = "SCOPE.md"
SCHEMA_FILE = Path(__file__).with_name("excluded.schema.json")

Month = Annotated[str, Field(pattern=r"^\d{4}-(0[1-9]|1[0-2])$")]
Day = Annotated[
    Annotated[datetime.date, Tag("day")] | Annotated[Month, Tag("month")],
    Discriminator(lambda value: "day" if isinstance(value, datetime.date) else "month"),
]


class Excluded(Strict):
    """One candidate outside the scope; `date` is a month where the day was not seen."""

    title: Text
    ids: Ids
    date: Day
    decision: Literal["out"]
    rule: Slug
    why: Text | None = None
    decided: datetime.date

    @property
    def month(self) -> tuple[int, int]:
        """Year and month of the first public version."""
        year, month = str(self.date).split("-")[:2]
        return int(year), int(month)

    @property
    def candidate(self) -> Candidate:
        """What is known of it for comparing it with other papers; a month stands for its first day."""
        day = self.date if isinstance(self.date, datetime.date) else datetime.date(*self.month, 1)
        return Candidate(self.title, date=day, ids=dict(self.ids.given()), origin=FILE)


class Root(Strict):
    """The whole of excluded.yaml."""

    version: Annotated[Literal[1], Field(alias="schema")]
    excluded: list[Excluded]


def read(root: Path) -> list[Excluded]:
    """The excluded candidates of a checkout; none without the file. RefusedError names the line of what is wrong."""
    entries, problems = _read(root)
    if problems:
        raise RefusedError(problems)
    return [entry for _, entry in entries]


def rules(root: Path) -> dict[str, str]:
    """The rules for leaving a paper out, by name, from the table of SCOPE.md: | `name` | meaning |."""
    path = root / SCOPE
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return {name: meaning.strip() for name, meaning in re.findall(r"(?m)^\| `([a-z-]+)` \| (.+?) \|", text)}


def check(root: Path, catalogue: Catalogue) -> list[Problem]:
    """Problems of excluded.yaml: its schema, rules that SCOPE.md does not have, twins, papers both in and out."""
    entries, problems = _read(root)
    known = rules(root)
    today = datetime.date.today()
    for line, entry in entries:
        where = f"{FILE}:{line}"
        if entry.rule not in known:
            fix = did_you_mean(entry.rule, known) if known else f"add | `{entry.rule}` | … | to {SCOPE}"
            problems.append(Problem("unknown-rule", where, "", f"{SCOPE} has no rule '{entry.rule}'", fix))
        if not entry.ids.given():
            message, fix = f"'{entry.title}' has no id", "add its arXiv, OpenReview, DOI or ACL id under ids"
            problems.append(Problem("excluded-without-id", where, "", message, fix))
        if entry.decided > today or entry.month > (today.year, today.month):
            message = f"a date of '{entry.title}' lies in the future"
            problems.append(Problem("date-in-future", where, "", message, "correct date or decided"))
        if entry.ids.arxiv and entry.month > ids.arxiv_month(entry.ids.arxiv):
            message = f"date {entry.date} lies after the month of arXiv {entry.ids.arxiv}"
            problems.append(Problem("date-after-arxiv", where, "", message, "correct the date or the arXiv id"))
    return problems + list(_twins(entries)) + list(_both(entries, catalogue))


def json_schema() -> str:
    """The JSON Schema of excluded.yaml that editors use, as the text of `excluded.schema.json`."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Root.model_json_schema(by_alias=True)}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _read(root: Path) -> tuple[list[tuple[int, Excluded]], list[Problem]]:
    path = root / FILE
    return parsed(path.read_text(encoding="utf-8-sig")) if path.is_file() else ([], [])


def parsed(text: str) -> tuple[list[tuple[int, Excluded]], list[Problem]]:
    """Line and content of every valid entry of a text, and a problem for everything else."""
    try:
        data = parse(text)
    except RefusedError as refused:
        here = [problem.where.replace(papers.FILE, FILE) for problem in refused.problems]
        return [], [replace(problem, where=where) for problem, where in zip(refused.problems, here, strict=True)]
    raw = data.get("excluded")
    if not isinstance(raw, list) or data.get("schema") != 1:
        fix = "write `schema: 1` and `excluded:` with entries"
        return [], [Problem("schema", f"{FILE}:1", "", "no `schema: 1` or no list `excluded`", fix)]
    entries, problems = [], []
    for index, node in enumerate(raw):
        line = raw.lc.item(index)[0] + 1  # type: ignore[attr-defined]
        try:
            entries.append((line, Excluded.model_validate(plain(node))))
        except ValidationError as error:
            problems += [_misfit(line, dict(detail)) for detail in error.errors(include_url=False)]
    return entries, problems


def _misfit(line: int, detail: dict[str, Any]) -> Problem:
    where = ".".join(map(str, detail["loc"])) or "entry"
    return Problem("schema", f"{FILE}:{line}", "", f"{where}: {detail['msg']}", f"see catalog/{SCHEMA_FILE.name}")


def _twins(entries: list[tuple[int, Excluded]]) -> Iterator[Problem]:
    known = dedupe.Known({str(line): entry.candidate for line, entry in entries})
    for line, entry in entries:
        for first in sorted(int(match.id) for match in known.matches(entry.candidate)):
            if first < line:
                message = f"'{entry.title}' stands already on line {first}"
                yield Problem("duplicate", f"{FILE}:{line}", "", message, "keep one of the two, with all ids")


def _both(entries: list[tuple[int, Excluded]], catalogue: Catalogue) -> Iterator[Problem]:
    """A paper is in or out, never both."""
    known = dedupe.Known.of(catalogue.papers)
    for line, entry in entries:
        for paper in sorted(match.id for match in known.matches(entry.candidate)):
            message = f"'{entry.title}' is left out here and stands in papers.yaml as '{paper}'"
            yield Problem("both-in-and-out", f"{FILE}:{line}", paper, message, "remove it from one of the two")
