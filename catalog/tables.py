"""Tables of the database, a build product of papers.yaml, what arXiv says, and the run records."""

import datetime
from typing import Any

from sqlmodel import JSON, Field, SQLModel


class Venue(SQLModel, table=True):
    """A normalised venue."""

    name: str = Field(primary_key=True)
    kind: str
    full: str


class Paper(SQLModel, table=True):
    """One entry of the catalogue; `status` is derived from its module and records."""

    id: str = Field(primary_key=True)
    title: str
    nickname: str | None
    date: datetime.date = Field(index=True)
    arxiv: str | None = Field(unique=True)
    openreview: str | None = Field(unique=True)
    doi: str | None = Field(unique=True)
    acl: str | None = Field(unique=True)
    venue: str = Field(foreign_key="venue.name")
    venue_year: int
    track: str | None
    publication: str
    type: str = Field(index=True)
    stage: str | None = Field(index=True)
    access: str | None
    harmful_data: str | None
    adapts: str | None
    module: str | None
    status: str
    added: datetime.date
    source: str
    checked: datetime.date
    note: str | None


class Excluded(SQLModel, table=True):
    """A candidate that was looked at and left out; `date` is YYYY-MM where the day was not seen."""

    id: int | None = Field(default=None, primary_key=True)
    title: str
    date: str
    arxiv: str | None = Field(unique=True)
    openreview: str | None = Field(unique=True)
    doi: str | None = Field(unique=True)
    acl: str | None = Field(unique=True)
    decision: str
    rule: str = Field(index=True)
    why: str | None
    decided: datetime.date


class Author(SQLModel, table=True):
    """A person as papers print the name."""

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True)


class Authorship(SQLModel, table=True):
    """Who wrote a paper, in the paper's order from 1."""

    paper: str = Field(foreign_key="paper.id", primary_key=True)
    position: int = Field(primary_key=True)
    author: int = Field(foreign_key="author.id", index=True)


class Tag(SQLModel, table=True):
    """A word of the controlled list with its meaning."""

    name: str = Field(primary_key=True)
    meaning: str


class Tagging(SQLModel, table=True):
    """A tag on a paper."""

    paper: str = Field(foreign_key="paper.id", primary_key=True)
    tag: str = Field(foreign_key="tag.name", primary_key=True)


class Link(SQLModel, table=True):
    """An address of a paper: arxiv, openreview, doi and acl built from ids; code, data and project typed."""

    paper: str = Field(foreign_key="paper.id", primary_key=True)
    kind: str = Field(primary_key=True)
    url: str


class Preprint(SQLModel, table=True):
    """What arXiv says of a paper: its latest version, as the last `hft sync` saw it."""

    paper: str = Field(foreign_key="paper.id", primary_key=True)
    version: int
    title: str
    published: datetime.date
    updated: datetime.date = Field(index=True)
    comment: str | None
    journal_ref: str | None
    doi: str | None
    withdrawn: bool
    abstract: str | None


class Category(SQLModel, table=True):
    """An arXiv category of a paper; position 1 is the primary one."""

    paper: str = Field(foreign_key="preprint.paper", primary_key=True)
    position: int = Field(primary_key=True)
    name: str = Field(index=True)


class Claim(SQLModel, table=True):
    """A checkable statement of a paper in our words, with its printed numbers and our test of it."""

    paper: str = Field(foreign_key="paper.id", primary_key=True)
    id: str = Field(primary_key=True)
    says: str
    kind: str
    source: str
    setting: dict[str, Any] = Field(sa_type=JSON)
    metric: str | None
    baseline: float | None
    method: float | None
    unit: str | None
    test: dict[str, Any] | None = Field(sa_type=JSON)


class Reported(SQLModel, table=True):
    """A number printed by a paper."""

    id: int | None = Field(default=None, primary_key=True)
    paper: str = Field(foreign_key="paper.id", index=True)
    metric: str
    value: float
    unit: str
    method: str
    setting: dict[str, Any] = Field(sa_type=JSON)
    source: str


class Difference(SQLModel, table=True):
    """One line of a deviation card: how our reproduction departs from the paper."""

    paper: str = Field(foreign_key="paper.id", primary_key=True)
    position: int = Field(primary_key=True)
    what: str
    theirs: str
    ours: str
    matters: str


class Subject(SQLModel, table=True):
    """What a record may be filed under: a paper, or a baseline or combination that is no paper."""

    slug: str = Field(primary_key=True)
    paper: str | None = Field(foreign_key="paper.id")
    meaning: str


class Run(SQLModel, table=True):
    """One record; `spec` is the whole specification. Keys repeat after `hft run --again`."""

    id: int | None = Field(default=None, primary_key=True)
    key: str = Field(index=True)
    kind: str
    protocol: str
    testbed: str
    paper: str = Field(foreign_key="subject.slug", index=True)
    arm: str
    version: int
    method: str | None
    attack: str | None
    strength: str | None
    ratio: float | None
    n: int | None
    task: str | None
    mode: str | None
    model: str
    data: str
    seed: int
    spec: dict[str, Any] = Field(sa_type=JSON)
    status: str = Field(index=True)
    reason: str | None
    seconds: float | None
    made: str


class Outcome(SQLModel, table=True):
    """A metric of a run: k of n prompts; `outcomes` holds one 0 or 1 a prompt, only after fine-tuning."""

    run: int = Field(foreign_key="run.id", primary_key=True)
    phase: str = Field(primary_key=True)
    metric: str = Field(primary_key=True)
    n: int
    k: int
    outcomes: str | None


class Mechanism(SQLModel, table=True):
    """A loss or drift measured in a run."""

    run: int = Field(foreign_key="run.id", primary_key=True)
    name: str = Field(primary_key=True)
    value: float | None


class Finding(SQLModel, table=True):
    """A named quantity measured by a study."""

    run: int = Field(foreign_key="run.id", primary_key=True)
    name: str = Field(primary_key=True)
    value: float | None
    unit: str
    says: str
