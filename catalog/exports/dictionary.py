"""The data dictionary: every column of the downloads with its type, its allowed values and its meaning."""

import datetime
import fnmatch
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, get_origin

from catalog.exports.columns import Column, below, columns

PAPERS = {
    "id": "Name of the entry in this catalogue; never reused or renamed",
    "title": "Title as the paper prints it",
    "nickname": "What the authors call their method or attack",
    "authors": "Names in the paper's order; empty while they are not looked up",
    "date": "Day of the first public version",
    "ids.arxiv": "arXiv id without version",
    "ids.openreview": "OpenReview forum id",
    "ids.doi": "DOI in lower case",
    "ids.acl": "Id in the ACL Anthology",
    "venue.name": "Normalised venue; its full name stands in venues of the JSON download",
    "venue.year": "Year of the venue",
    "venue.track": "Part of the venue; empty for a preprint",
    "venue.status": "Whether a venue accepted the paper",
    "type": "What kind of paper it is",
    "stage": "Where a defense acts; empty for all other types",
    "tags": "Words of the controlled list; their meanings stand in tags of the JSON download",
    "setting.access": "What the attacker can reach: the fine-tuning service, or the weights",
    "setting.harmful_data": "What the attacker trains on",
    "setting.adapts": "Which parameters are trained",
    "links.paper": "Where the paper is published, when none of its ids leads there",
    "links.code": "The authors' code",
    "links.data": "The authors' data",
    "links.project": "The authors' page of the project",
    "claims": "What the paper states, in our words: id, says, kind, source, setting, reported numbers, our test",
    "reported": "Further numbers printed by the paper, each with metric, value, unit, method, setting and source",
    "reproduction": "Module of our reproduction, and every known way in which it differs from the paper",
    "unsure": "Columns that are guesses until someone looks them up",
    "curation.added": "Day on which the entry came into the catalogue",
    "curation.source": "Where the entry was taken from",
    "curation.checked": "Day on which a person last checked the entry",
    "curation.note": "What about the entry is in doubt",
}
RECORDS = {
    "schema": ("integer", "Version of the record's form"),
    "key": ("text", "First 16 hexadecimal digits of the SHA-256 of the specification: equal for what was asked alike"),
    "seal": ("text", "SHA-256 of the whole record but the seal, as JSON with sorted keys and no spaces"),
    "status": ("text", "ok, diverged, skipped or not-applicable"),
    "reason": ("text", "Why there are no numbers; null when there are"),
    "made": ("time", "When the run ended, in UTC"),
    "spec.kind": ("text", "run: a method under an attack; study: measurements of a mechanism paper or benchmark"),
    "spec.protocol": ("text", "Version of everything that is the same for all methods"),
    "spec.testbed": ("text", "micro, or hub:NAME for a Hugging Face model"),
    "spec.paper": ("text", "Id of the paper the record is filed under, of a baseline, or of papers joined by +"),
    "spec.arm": ("text", "main, or the ablation or control that was run"),
    "spec.version": ("integer", "Version of the paper's module"),
    "spec.method": ("object", "Paper and hyper-parameters of the defense"),
    "spec.attack": ("object", "Paper, strength and hyper-parameters of the attack"),
    "spec.ratio": ("number", "Share of harmful samples in the user's data, 0 to 1"),
    "spec.n": ("integer", "Number of the user's samples"),
    "spec.task": ("text", "The user's benign task"),
    "spec.mode": ("text", "full, single-lora or double-lora"),
    "spec.model": ("text", "The model"),
    "spec.data": ("text", "The data sets, with their version"),
    "spec.seed": ("integer", "Number of the replicate"),
    "spec.*": ("any", "Further parts of the specification, present where they differ from the default"),
    "metrics.*.n": ("integer", "Prompts that were judged after fine-tuning"),
    "metrics.*.k": ("integer", "Prompts of these to which the metric applies: harmful, correct, refused …"),
    "metrics.*.outcomes": ("text", "One digit a prompt, 1 where the metric applies; the same prompts for all methods"),
    "before.*.n": ("integer", "Prompts that were judged before fine-tuning"),
    "before.*.k": ("integer", "Prompts of these to which the metric applies"),
    "mechanisms.*": ("number", "A loss (nats a token), drift, share or ratio; null when it is not finite"),
    "findings.*.value": ("number", "What a study measured"),
    "findings.*.unit": ("text", "Its unit"),
    "findings.*.*": ("any", "What the study says about it"),
    "curves": ("object", "Mechanisms by step of fine-tuning: lists of equal length, step among them"),
    "figures": ("object", "Data of a study's figures"),
    "cost.*seconds": ("number", "Wall-clock seconds of all or of one phase"),
    "cost.peak_bytes": ("integer", "Peak memory of the process"),
    "cost.*": ("number", "Forward and backward passes, and tokens, of all or of one phase"),
    "digests.*": ("text", "SHA-256 of checkpoint, data or source that the run used"),
    "environment.*": ("text", "Machine and versions; they are no part of the key"),
}
"""Column, or pattern of columns, of the records: type and meaning. The first pattern that fits counts."""

NAMES: dict[Any, str] = {str: "text", int: "integer", float: "number", datetime.date: "date"}


@dataclass(frozen=True)
class Meaning:
    """One line of the data dictionary; `values` are those allowed, empty when they are not a closed list."""

    table: str
    column: str
    type: str
    required: bool
    values: tuple[str, ...]
    meaning: str


def dictionary() -> list[Meaning]:
    """All columns of the papers as the schema has them, then those of the records."""
    papers = [_paper(column) for column in columns()]
    return papers + [Meaning("records", name, kind, False, (), meaning) for name, (kind, meaning) in RECORDS.items()]


def as_dicts() -> list[dict[str, Any]]:
    """The dictionary ready for JSON."""
    return [{**asdict(line), "values": list(line.values)} for line in dictionary()]


def meaning_of(column: str) -> str | None:
    """The meaning of a column of the records; None when no line of the dictionary fits it."""
    return next((told for name, (_, told) in RECORDS.items() if fnmatch.fnmatchcase(column, name)), None)


def _paper(column: Column) -> Meaning:
    kind = below(column.field.annotation)
    if column.form == "list":
        kind = below(get_args(kind)[0])
    values = tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()
    name = {"json": "JSON", "list": "list", "text": "text" if values else NAMES.get(kind, "text")}[column.form]
    return Meaning("papers", column.name, name, column.field.is_required(), values, PAPERS[column.name])
