"""The margins of the verdict rule, as declared in margins.yaml: versions that are added to and never edited."""

import datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator
from ruamel.yaml import YAML

from catalog.schema import Strict, Text

FILE = Path(__file__).with_name("margins.yaml")
Margin = Annotated[float, Field(gt=0, lt=1)]


class Margins(Strict):
    """One declared set of margins; all but alpha and m_eq_share are proportions (0.05 is 5 points)."""

    version: Annotated[int, Field(ge=1)]
    date: datetime.date
    why: Text
    m_sup: Margin
    m_eq_floor: Margin
    m_eq_share: Margin
    m_fa: Margin
    baseline: Margin
    half_width: Margin
    alpha: Annotated[float, Field(gt=0, lt=0.5)]

    def m_eq(self, reported: float) -> float:
        """How much weaker than `reported` an effect may be and still count as reproduced."""
        return max(self.m_eq_floor, self.m_eq_share * abs(reported))


class Declared(Strict):
    """The whole of margins.yaml."""

    versions: Annotated[list[Margins], Field(min_length=1)]

    @model_validator(mode="after")
    def counts_up(self) -> "Declared":
        if [one.version for one in self.versions] != list(range(1, len(self.versions) + 1)):
            raise ValueError("versions count up from 1, the newest last")
        dates = [one.date for one in self.versions]
        if dates != sorted(dates):
            raise ValueError("a later version cannot have an earlier date")
        return self


def load(version: int | None = None, file: Path = FILE) -> Margins:
    """Return the margins of a version, by default the newest; KeyError lists the declared ones."""
    declared = Declared.model_validate(YAML(typ="safe").load(file)).versions
    if version is None:
        return declared[-1]
    for one in declared:
        if one.version == version:
            return one
    raise KeyError(f"{file.name} declares versions 1 to {len(declared)}")
