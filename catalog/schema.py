"""The shape of papers.yaml: strict models that accept nothing they do not name, and their JSON Schema."""

import datetime
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from catalog import ids, taxonomy

SCHEMA_FILE = Path(__file__).with_name("papers.schema.json")

Text = Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$")]
Snake = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Slug = Annotated[str, Field(pattern=f"^{ids.SLUG}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Link = Annotated[str, Field(pattern=r"^https?://\S+$")]


class Strict(BaseModel):
    """No unknown keys, no conversions: 2402.10 is a number, not an id."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Ids(Strict):
    """Outside names of a paper, each in normal form and quoted in the file."""

    arxiv: Annotated[str, Field(pattern=f"^(?:{ids.ARXIV})$")] | None = None
    openreview: Annotated[str, Field(pattern=f"^{ids.OPENREVIEW}$")] | None = None
    doi: Annotated[str, Field(pattern=f"^{ids.DOI}$")] | None = None
    acl: Annotated[str, Field(pattern=f"^(?:{ids.ACL})$")] | None = None

    def given(self) -> dict[ids.Kind, str]:
        """The ids that are known, by kind."""
        kinds: tuple[ids.Kind, ...] = ("arxiv", "openreview", "doi", "acl")
        return {kind: value for kind in kinds if (value := getattr(self, kind))}


class Publication(Strict):
    """Where and when a paper appeared; `name` is a key of the root's `venues`."""

    name: Text
    year: Annotated[int, Field(ge=1990, le=2100)]
    track: taxonomy.Track | None = None
    status: taxonomy.Publication


class Setting(Strict):
    """Who the attacker is, as far as it is known: what is accessible, what data is used, what is trained."""

    access: taxonomy.Access | None = None
    harmful_data: taxonomy.HarmfulData | None = None
    adapts: taxonomy.Adapts | None = None

    @model_validator(mode="after")
    def says_something(self) -> "Setting":
        if not self.model_fields_set:
            raise PydanticCustomError("empty_setting", "setting is empty; leave it out")
        return self


class Links(Strict):
    """Addresses that no id stands for; `paper` is where it is published, when none of the ids leads there."""

    paper: Link | None = None
    code: Link | None = None
    data: Link | None = None
    project: Link | None = None


class Conditions(Strict):
    """The experiment behind a number, as far as it is known."""

    model: Text | None = None
    task: Text | None = None
    ratio: Share | None = None
    n: Annotated[int, Field(ge=0)] | None = None
    judge: Text | None = None
    attack: Text | None = None
    note: Text | None = None

    @model_validator(mode="after")
    def says_something(self) -> "Conditions":
        if not self.model_fields_set:
            raise PydanticCustomError("empty_setting", "setting is empty")
        return self


class ClaimedNumbers(Strict):
    """The numbers a claim rests on, as the paper prints them."""

    metric: Snake
    baseline: float | None = None
    method: float
    unit: taxonomy.Unit


Metric = Literal[
    "harmful_score",
    "fine_tune_accuracy",
    "harmful_score_plus",
    "refusal",
    "over_refusal",
    "benign_help",
    "lookalike",
    "alignment_loss",
    "harmful_loss",
    "harmful_loss_fall",
    "harmful_loss_early_fall",
    "harmful_loss_late_fall",
    "embedding_drift",
]
UsedAttack = Annotated[str, Field(pattern=r"^(graded|strong|[a-z0-9-]+:[a-z0-9-]+)$")]
SIDE = r"[a-zA-Z0-9_.=-]+(@before)?"


def _require_one(names: tuple[str, str], values: tuple[Any, Any]) -> None:
    if (values[0] is None) == (values[1] is None):
        raise PydanticCustomError("one_of", f"a test of this kind needs exactly one of {names[0]} and {names[1]}")


class MetricTest(Strict):
    """A claim that holds when one arm beats another by a margin on our testbed.

    What is compared is a `metric`, or a `mechanism` statistic by the name it has in the records. The falls of the
    harmful loss are over all steps of user fine-tuning, its first fifth (early) or its last half (late). A side is an
    arm, a value of the knob (rho=5), method (the main arm), sft or non-aligned; with @before it is read off before user
    fine-tuning, and aligned is sft@before. The attack is the usual one, graded or strong, or a paper's own, as in
    qi-finetuning-compromises:benign. Without a ratio or a task, every one that was run is a setting of the claim.
    """

    metric: Metric | None = None
    mechanism: Snake | None = None
    contrast: Annotated[str, Field(pattern=f"^{SIDE} - {SIDE}$")]
    attack: UsedAttack = "graded"
    ratio: Share | None = None
    task: Text | None = None
    better: Literal["smaller", "larger"]
    margin: float
    scale: Literal["points", "ratio"] = "points"

    @model_validator(mode="after")
    def compares_one_thing(self) -> "MetricTest":
        _require_one(("metric", "mechanism"), (self.metric, self.mechanism))
        return self

    @property
    def quantity(self) -> str:
        """The metric or the mechanism statistic."""
        return self.metric or self.mechanism or ""


class TrendTest(Strict):
    """A claim that holds when a quantity rises or falls steadily: its rank correlation with `over` reaches a bound.

    `over` is ratio, or a field of the method in which otherwise equal runs differ; `among` are the values of it that
    count, by default all that were run. `of` is a side of a contrast, or a whole contrast. The correlation is a mean
    over seeds; one in which the quantity is constant has no trend and counts as 0.
    """

    metric: Metric | None = None
    mechanism: Snake | None = None
    over: Snake
    among: Annotated[list[float], Field(min_length=3)] | None = None
    of: Annotated[str, Field(pattern=f"^{SIDE}( - {SIDE})?$")] = "method"
    attack: UsedAttack = "graded"
    ratio: Share | None = None
    task: Text | None = None
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def follows_one_thing(self) -> "TrendTest":
        _require_one(("metric", "mechanism"), (self.metric, self.mechanism))
        _require_one(("at_least", "at_most"), (self.at_least, self.at_most))
        if self.over == "ratio" and self.ratio is not None:
            raise PydanticCustomError("trend", "a trend over the ratio has no ratio of its own")
        return self

    @property
    def quantity(self) -> str:
        """The metric or the mechanism statistic."""
        return self.metric or self.mechanism or ""


class MechanismTest(Strict):
    """A claim that holds when a statistic of a single arm reaches a bound."""

    mechanism: Snake
    of: Annotated[str, Field(pattern=f"^{SIDE}$")] = "method"
    attack: UsedAttack = "graded"
    ratio: Share | None = None
    task: Text | None = None
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def has_one_bound(self) -> "MechanismTest":
        _require_one(("at_least", "at_most"), (self.at_least, self.at_most))
        return self


class FindingTest(Strict):
    """A claim that holds when a named quantity of a study reaches a bound."""

    finding: Snake
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def has_one_bound(self) -> "FindingTest":
        _require_one(("at_least", "at_most"), (self.at_least, self.at_most))
        return self


RunTest = MetricTest | TrendTest | MechanismTest
"""A test that run records decide; a finding is decided by the records of a study."""

KINDS_OF_TEST = {"metric": MetricTest, "trend": TrendTest, "mechanism": MechanismTest, "finding": FindingTest}


def kind_of_test(value: Any) -> str:
    """Which of the kinds a test is, by the keys it is written with."""
    if not isinstance(value, dict):
        return next((kind for kind, model in KINDS_OF_TEST.items() if isinstance(value, model)), "metric")
    if "finding" in value or "over" in value:
        return "finding" if "finding" in value else "trend"
    return "mechanism" if {"at_least", "at_most"} & value.keys() else "metric"


Test = Annotated[
    Annotated[MetricTest, Tag("metric")]
    | Annotated[TrendTest, Tag("trend")]
    | Annotated[MechanismTest, Tag("mechanism")]
    | Annotated[FindingTest, Tag("finding")],
    Discriminator(kind_of_test),
]


class Claim(Strict):
    """One checkable statement of a paper, in our words, with the place it comes from; kind control: ours, not its."""

    id: Annotated[str, Field(pattern=r"^C[1-9]\d*[a-z]?$")]
    says: Text
    kind: taxonomy.ClaimKind
    source: Text
    setting: Conditions
    reported: ClaimedNumbers | None = None
    test: Test | None = None


class Reported(Strict):
    """One number printed by a paper, never mixed with measured ones."""

    metric: Snake
    value: float
    unit: taxonomy.Unit
    method: Text
    setting: Conditions
    source: Text


class Difference(Strict):
    """One known way in which our reproduction departs from the paper."""

    what: Text
    paper: Text
    ours: Text
    matters: taxonomy.Matters


class Reproduction(Strict):
    """The module that reproduces a paper, and its deviation card.

    `label` is what tables of runs call the method where what runs is not the whole of the paper's.
    """

    module: Annotated[str, Field(pattern=r"^p[a-z0-9_]+$")]
    label: Text | None = None
    differs: list[Difference] = []


class Curation(Strict):
    """When and from where an entry came, when a person last checked it, and what of it is in doubt."""

    added: datetime.date
    source: Text
    checked: datetime.date
    note: Text | None = None


class Paper(Strict):
    """One entry of the catalogue; `unsure` names the keys that are guesses until someone looks them up."""

    id: Slug
    title: Text
    nickname: Text | None = None
    authors: list[Text]
    date: datetime.date
    ids: Ids
    venue: Publication
    type: taxonomy.PaperType
    stage: taxonomy.Stage | None = None
    tags: list[Slug] = []
    setting: Setting | None = None
    links: Links = Links()
    claims: list[Claim] = []
    reported: list[Reported] = []
    reproduction: Reproduction | None = None
    unsure: list[taxonomy.Guessable] = []
    curation: Curation

    def addresses(self) -> dict[str, str]:
        """All links by kind: those built from ids first, then the typed ones."""
        typed = self.links.model_dump(exclude_none=True)
        return {**ids.links(self.ids.given()), **typed}

    def keywords(self) -> list[str]:
        """Type, stage and tags as far as they are no guesses."""
        kinds = {"type": self.type, "stage": self.stage}
        return [word for key, word in kinds.items() if word and key not in self.unsure] + self.tags


class Venue(Strict):
    """A normalised venue: what it is and its full name."""

    kind: taxonomy.VenueKind
    full: Text


class Head(Strict):
    """Everything of papers.yaml above the entries."""

    version: Annotated[Literal[1], Field(alias="schema")]
    tags: dict[Slug, Text]
    venues: dict[Text, Venue]


class Root(Head):
    """The whole of papers.yaml."""

    papers: list[Paper]


def json_schema() -> str:
    """The JSON Schema of papers.yaml that editors use, as the text of `papers.schema.json`."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Root.model_json_schema(by_alias=True),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
