"""The columns of the flat tables, derived from the schema: a column is named by its path in papers.yaml."""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from catalog import schema

Form = Literal["text", "list", "json"]


@dataclass(frozen=True)
class Column:
    """One column: `venue.name` for the key `name` below `venue`.

    A list of words stands in one cell, separated by "; "; what is nested deeper stands as JSON text.
    """

    name: str
    field: FieldInfo
    form: Form

    @property
    def path(self) -> tuple[str, ...]:
        """The keys that lead to the value."""
        return tuple(self.name.split("."))


def columns() -> list[Column]:
    """All columns of a paper, in the order of papers.yaml."""
    return list(_columns(schema.Paper, ""))


def _columns(model: type[schema.Strict], above: str) -> Iterator[Column]:
    for name, field in model.model_fields.items():
        inner = below(field.annotation)
        if _is_model(inner) and not _is_nested(inner):
            yield from _columns(inner, f"{above}{name}.")
        elif get_origin(inner) is list:
            yield Column(f"{above}{name}", field, "json" if _is_model(below(get_args(inner)[0])) else "list")
        else:
            yield Column(f"{above}{name}", field, "json" if _is_model(inner) else "text")


def below(annotation: Any) -> Any:
    """The type of a value that is there: without None and without the conditions on it."""
    while True:
        arguments = [kind for kind in get_args(annotation) if kind is not types.NoneType]
        is_optional = get_origin(annotation) in (Union, types.UnionType) and len(arguments) == 1
        if is_optional or hasattr(annotation, "__metadata__"):
            annotation = arguments[0]
        else:
            return annotation


def _is_nested(model: type[schema.Strict]) -> bool:
    """Whether values of a model hold lists or mappings of their own, so that columns cannot carry them."""
    kinds = [below(field.annotation) for field in model.model_fields.values()]
    return any(get_origin(kind) is list or _is_model(kind) for kind in kinds)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, schema.Strict)
