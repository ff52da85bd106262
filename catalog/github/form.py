"""An issue made with one of our forms, as GitHub's webhook delivers it: foreign text, read strictly."""

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from catalog.problems import Problem, RefusedError, did_you_mean

TEMPLATES = Path(".github", "ISSUE_TEMPLATE")
MAX_EVENT = 1_000_000
MAX_BODY = 65_536
"""Bytes of an event and characters of an issue that are read at all; the latter is GitHub's own limit."""
MAX_VALUE = {"input": 600, "dropdown": 100, "checkboxes": 4_000, "textarea": 20_000}
EMPTY = ("_No response_", "None", "")


@dataclass(frozen=True)
class Field:
    """One question of a form."""

    id: str
    kind: str
    options: tuple[str, ...]
    required: bool


@dataclass(frozen=True)
class Submission:
    """A filled-in form: the number of its issue and the answers by field id, those left out missing."""

    number: int
    answers: Mapping[str, str]


def questions(template: Path) -> dict[str, Field]:
    """The questions of an issue form by label."""
    form = YAML(typ="safe", pure=True).load(template.read_text(encoding="utf-8"))
    found = {}
    for element in form["body"]:
        if element["type"] != "markdown":
            about = element["attributes"]
            options = tuple(o["label"] if isinstance(o, dict) else str(o) for o in about.get("options", []))
            required = bool(element.get("validations", {}).get("required"))
            found[about["label"]] = Field(element["id"], element["type"], options, required)
    return found


def number(event: Path) -> int:
    """The number of the issue an event is about; RefusedError when it is not about one."""
    return _issue(event)[0]


def read(event: Path, template: Path) -> Submission:
    """The answers in an `issues` event; RefusedError names each answer that cannot be used."""
    issue, body = _issue(event)
    if len(body) > MAX_BODY:
        raise RefusedError([_problem(issue, f"the issue has more than {MAX_BODY} characters", "shorten it")])
    asked = questions(template)
    answers, problems = {}, []
    for label, text in _sections(body, asked):
        field = asked[label]
        value = unicodedata.normalize("NFC", text).strip()
        if field.id in answers:
            problems.append(_problem(issue, f"'{label}' is answered twice", "leave one answer"))
        answers[field.id] = "" if value in EMPTY else value
        if complaint := _unusable(field, answers[field.id]):
            problems.append(_problem(issue, f"'{label}' {complaint[0]}", complaint[1]))
    for label, field in asked.items():
        if field.required and not answers.get(field.id):
            problems.append(_problem(issue, f"'{label}' is not answered", "edit the issue and answer it"))
    if problems:
        raise RefusedError(problems)
    return Submission(issue, {key: value for key, value in answers.items() if value})


def _issue(event: Path) -> tuple[int, str]:
    if event.stat().st_size > MAX_EVENT:
        raise RefusedError([Problem("event", event.name, "", "the event is too large", "shorten the issue")])
    try:
        issue: Any = json.loads(event.read_text(encoding="utf-8"))["issue"]
        found, body = issue["number"], issue["body"] or ""
    except (ValueError, KeyError, TypeError) as error:
        message = "no event about an issue"
        raise RefusedError([Problem("event", event.name, "", message, "pass the file $GITHUB_EVENT_PATH")]) from error
    if type(found) is not int or found < 1 or not isinstance(body, str):
        raise RefusedError([Problem("event", event.name, "", "no issue number", "pass the file $GITHUB_EVENT_PATH")])
    return found, body


def _sections(body: str, asked: Mapping[str, Field]) -> list[tuple[str, str]]:
    """Label and text of each answer; a heading that is no question belongs to the answer it stands in."""
    found: list[tuple[str, list[str]]] = []
    for line in re.split(r"\r\n|\n|\r", body):
        label = line.removeprefix("### ").strip() if line.startswith("### ") else ""
        if label in asked:
            found.append((label, []))
        elif found:
            found[-1][1].append(line)
    return [(label, "\n".join(lines)) for label, lines in found]


def _unusable(field: Field, value: str) -> tuple[str, str] | None:
    """What is wrong with an answer and how to mend it, if anything is."""
    if len(value) > MAX_VALUE[field.kind]:
        return f"has more than {MAX_VALUE[field.kind]} characters", "shorten it"
    if field.kind == "dropdown" and value and value not in field.options:
        return "is not one of the choices", did_you_mean(value, field.options)
    if field.kind == "input" and "\n" in value:
        return "has more than one line", "write it on one line"
    if any(unicodedata.category(c) in ("Cc", "Cf", "Co", "Cs") and c not in "\n\t" for c in value):
        return "has invisible characters", "type it anew"
    return None


def _problem(issue: int, message: str, fix: str) -> Problem:
    return Problem("form", f"issue {issue}", "", message, fix)
