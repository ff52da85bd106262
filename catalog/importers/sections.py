"""What the headings of a list say of the papers below them."""

import re
from dataclasses import dataclass

from catalog.taxonomy import PaperType, Stage

STAGES: tuple[tuple[str, Stage], ...] = (
    (r"pre-?\s?train", "pre-training"),
    (r"post-?\s?(fine-?\s?tun|train|hoc)", "post-fine-tuning"),
    (r"alignment[- ]?(stage|time|phase)|^alignment$", "alignment"),
    (r"fine-?\s?tuning[- ]?(stage|time|phase)|^(user )?fine-?\s?tuning$", "fine-tuning"),
)
TYPES: tuple[tuple[str, PaperType], ...] = (
    (r"survey|review", "survey"),
    (r"attack|red[- ]?team|jailbreak", "attack"),
    (r"defen[cs]e|defend|mitigat|safeguard", "defense"),
    (r"interpret|mechani|analys[ie]s|understanding", "mechanism"),
    (r"benchmark|evaluation|leaderboard|toolkit", "benchmark"),
)
OTHER = r"contents?|citation|cit(e|ing)|contact|resource|acknowledg|licen[cs]e|contribut|star history|news|updates?$"
MAX_WORDS = 7
"""A longer heading is a title of its own and says nothing of a section."""


@dataclass(frozen=True)
class Section:
    """Type and stage of the papers below a heading, tags, and whether papers stand there at all."""

    type: PaperType | None = None
    stage: Stage | None = None
    tags: tuple[str, ...] = ()
    other: bool = False

    def under(self, heading: str) -> "Section":
        """The section of a heading below this one: what it does not say stays as it is."""
        text = " ".join(re.sub(r"[^\w\s/&-]", " ", heading).casefold().split())
        if len(text.split()) > MAX_WORDS:
            return self
        if re.search(rf"\b({OTHER})", text):
            return Section(other=True)
        tags = tuple(dict.fromkeys((*self.tags, *(["federated"] if "federated" in text else []))))
        types = [kind for words, kind in TYPES if re.search(words, text)]
        stage = next((stage for words, stage in STAGES if re.search(words, text)), None)
        if {"attack", "defense"} <= set(types):
            return Section(tags=tags)
        kind = types[0] if types else ("defense" if stage else self.type)
        if kind != "defense":
            return Section(kind, tags=tags)
        return Section(kind, stage or (self.stage if self.type == "defense" else None), tags)
