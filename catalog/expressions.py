"""discovery.yaml: the versioned search expressions of `hft discover`."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from catalog.problems import Problem, RefusedError
from catalog.schema import Slug, Strict, Text

FILE = Path(__file__).with_name("discovery.yaml")
WHERE = f"catalog/{FILE.name}"
TOKEN = re.compile(r'\s+|[()]|(?:AND|OR|ANDNOT)(?![^\s()])|(?:ti|abs|au|cat|all|co|jr):(?:"[^"]+"|[\w.-]+)')
"""What an expression is made of, in the language of arXiv's API manual (section 5.1, Details of query construction)."""

Category = Annotated[str, Field(pattern=r"^[a-z-]+(\.[A-Za-z-]{2,})?$")]


class Expressions(Strict):
    """The whole of discovery.yaml."""

    version: Annotated[int, Field(ge=1)]
    categories: Annotated[list[Category], Field(min_length=1)]
    expressions: Annotated[dict[Slug, Text], Field(min_length=1)]

    def queries(self) -> Iterator[tuple[str, str]]:
        """Each expression's id with what arXiv is asked: the expression within the categories."""
        within = " OR ".join(f"cat:{name}" for name in self.categories)
        for name, expression in self.expressions.items():
            yield name, f"({expression}) AND ({within})"


def load(path: Path = FILE) -> Expressions:
    """The expressions of a file; RefusedError names what is wrong in it."""
    try:
        expressions = Expressions.model_validate(YAML(typ="safe").load(path.read_text(encoding="utf-8")))
    except YAMLError as error:
        raise RefusedError([Problem("yaml", WHERE, "", f"broken YAML: {error}", "correct the line")]) from error
    except ValidationError as error:
        details = [(".".join(map(str, each["loc"])), each["msg"]) for each in error.errors(include_url=False)]
        fix = "write version, categories and expressions by id"
        raise RefusedError([Problem("schema", WHERE, "", f"{key}: {text}", fix) for key, text in details]) from error
    faults = [(name, fault) for name, text in expressions.expressions.items() if (fault := faulty(text))]
    if faults:
        fix = 'write terms such as all:word or all:"a phrase" with AND, OR, ANDNOT and parentheses'
        raise RefusedError([Problem("expression", WHERE, "", f"{name}: {fault}", fix) for name, fault in faults])
    return expressions


def check() -> list[Problem]:
    """What is wrong in discovery.yaml."""
    try:
        load()
    except RefusedError as refused:
        return refused.problems
    return []


def faulty(expression: str) -> str | None:
    """What is wrong with an expression, for which arXiv would answer with nothing or with everything; None if sound."""
    place, depth, wants_term = 0, 0, True
    while place < len(expression):
        token = TOKEN.match(expression, place)
        if token is None:
            return f"cannot read '{expression[place : place + 20]}'"
        place, word = token.end(), token[0]
        if not word.strip():
            continue
        depth += {"(": 1, ")": -1}.get(word, 0)
        if depth < 0 or wants_term != (word == "(" or ":" in word):
            return f"'{word}' does not belong at character {token.start() + 1}"
        wants_term = word in ("(", "AND", "OR", "ANDNOT")
    return "a parenthesis is open" if depth else "it ends before a term" if wants_term else None
