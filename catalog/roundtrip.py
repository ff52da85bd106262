"""YAML with comments, order and the line of every node: ruamel.yaml in the one style of this project."""

import datetime
import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from catalog.problems import Problem, RefusedError

FILE = "papers.yaml"


def round_trip() -> YAML:
    """The one YAML style of this project; None is written as null."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(type(None), _null)
    yaml.representer.add_representer(str, _text)
    return yaml


def _null(representer: Any, _: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _text(representer: Any, value: str) -> Any:
    """Quoted where it begins with a question mark, which ruamel writes plain and cannot read back on one line."""
    return representer.represent_scalar("tag:yaml.org,2002:str", value, style='"' if value.startswith("?") else None)


def parse(text: str) -> CommentedMap:
    """The mapping in a YAML text; RefusedError with the line when there is none."""
    try:
        data = round_trip().load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = " ".join(str(part) for part in (error.context, error.problem) if part)
        raise RefusedError([broken(mark.line + 1 if mark else 1, message)]) from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RefusedError([broken(line, f"a character that YAML does not allow ({error.reason})")]) from error
    except ValueError as error:
        raise RefusedError([broken(_impossible_date(text), str(error))]) from error
    if not isinstance(data, CommentedMap):
        raise RefusedError([broken(1, "the root is no mapping of schema, tags, venues and papers")])
    return data


def _impossible_date(text: str) -> int:
    """Line of the first thing that looks like a date and is none; 1 when there is none."""
    for number, line in enumerate(text.splitlines(), 1):
        for found in re.findall(r"\b\d{4}-\d\d-\d\d\b", line):
            try:
                datetime.date.fromisoformat(found)
            except ValueError:
                return number
    return 1


def plain(node: Any) -> Any:
    """The same data in Python's own types, without ruamel's wrappers."""
    if isinstance(node, dict):
        return {plain(key): plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [plain(item) for item in node]
    if isinstance(node, datetime.datetime):
        return node.isoformat()
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def broken(line: int, message: str) -> Problem:
    """A problem of the file's syntax."""
    return Problem(
        "yaml", f"{FILE}:{line}", "", f"broken YAML: {message}", "mend the syntax on or just above this line"
    )
