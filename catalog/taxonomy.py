"""The closed vocabularies of papers.yaml, free of imports so that `hft --help` stays quick."""

from typing import Literal, get_args

PaperType = Literal["attack", "defense", "mechanism", "benchmark", "survey"]
Stage = Literal["pre-training", "alignment", "fine-tuning", "post-fine-tuning"]
Access = Literal["service", "weights"]
HarmfulData = Literal["explicit", "benign", "covert", "preference", "none"]
Adapts = Literal["full", "lora", "either", "prompt"]
Track = Literal["main", "findings", "workshop", "journal"]
Publication = Literal["preprint", "accepted"]
VenueKind = Literal["conference", "journal", "workshop", "preprint"]
ClaimKind = Literal["headline", "mechanism", "ablation", "control"]
Unit = Literal["percent", "points", "score", "ratio", "loss"]
FileFormat = Literal["bibtex", "csv", "json", "ris", "markdown"]
Matters = Literal["yes", "no", "unknown"]
Guessable = Literal["title", "authors", "date", "type", "stage"]
Status = Literal["reproduced", "module", "not reproduced yet"]

PAPER_TYPES: tuple[PaperType, ...] = get_args(PaperType)
STAGES: tuple[Stage, ...] = get_args(Stage)

BASELINES = {
    "sft": "supervised fine-tuning of the aligned model, undefended",
    "non-aligned": "supervised fine-tuning of a model that was never aligned",
}
"""Slugs of methods that are not papers but stand in run records."""
