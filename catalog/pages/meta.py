"""The living analysis in print: what is pooled, each defense, stages, networks, verdicts, changes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.atlas import Atlas
from catalog.conditions import DEFAULT
from catalog.meta import margins, report
from catalog.meta.effects import Estimate
from catalog.meta.living_figures import Drawn, figures
from catalog.meta.settings import Effect
from catalog.pages import boards, pictures, words
from catalog.pages.pictures import Picture

Document = dict[str, Any]
Parts = tuple[str, str, str]
OUTCOMES: dict[Effect, str] = {"hs_rd": "harmful score", "fa_rd": "accuracy"}
LATEST = 5  # entries of the change log in print
MANY = 20  # changed conclusions of one entry in print


@dataclass(frozen=True)
class Pooled:
    """A pooled difference to SFT: value, interval and what it rests on; where a new base may lie; the conclusion."""

    parts: Parts
    predicted: str
    says: str


@dataclass(frozen=True)
class Row:
    """One defense under one condition; `first` on the first row of a defense."""

    who: str
    link: str
    condition: str
    bases: int
    effects: dict[str, Pooled | None]


@dataclass(frozen=True)
class Place:
    """One defense in a network: difference to SFT with p adjusted after Holm, P-score, rank and its interval."""

    who: str
    difference: Parts
    p: str
    score: str
    rank: str


@dataclass(frozen=True)
class Network:
    """A network of one condition and outcome."""

    title: str
    places: list[Place]
    notes: list[str]
    pictures: list[Picture]


@dataclass(frozen=True)
class Bed:
    """Everything of one testbed."""

    title: str
    groups: list[tuple[str, list[Row]]]
    forests: list[Picture]
    networks: list[Network]
    moderators: list[tuple[str, str, Parts]]


@dataclass(frozen=True)
class Living:
    """The page."""

    document: Document
    beds: list[Bed]
    verdicts: list[tuple[str, str, str, str, str]]
    changes: list[Document]


def living(atlas: Atlas, folder: Path) -> Living:
    """Analyse the atlas and draw the figures of its page."""
    made = report.report(atlas.cells, atlas.findings, atlas.papers, margins.load(), atlas.last_report)
    drawn = [one for one in figures(made, atlas.name) if not one.condition or one.condition == DEFAULT]
    beds = [
        _bed(atlas, one, [d for d in drawn if d.testbed == _name(one)], folder) for one in made.document["testbeds"]
    ]
    return Living(made.document, beds, _verdicts(atlas, made.document), _changes(made.document))


def _bed(atlas: Atlas, bed: Document, drawn: list[Drawn], folder: Path) -> Bed:
    groups: dict[str, list[Row]] = {}
    for stage in (*words.STAGES, None):
        for one in bed["defenses"]:
            if one["stage"] == stage:
                groups.setdefault(boards.heading(stage or boards.REFERENCE), []).extend(_rows(atlas, one))
    pictured = {
        d.stem: pictures.draw(d.chart(), folder, Picture(f"meta-{d.stem}", f"{d.caption} {d.told}.", d.caption))
        for d in drawn
    }
    forests = [pictured[d.stem] for d in drawn if not d.condition]
    networks = [
        Network(
            title=f"{OUTCOMES[one['effect']].capitalize()}, {words.condition(one['condition'])}",
            places=_places(atlas, one),
            notes=[atlas_names(atlas, note) for note in one["notes"]],
            pictures=[pictured[d.stem] for d in drawn if (d.condition, d.effect) == (one["condition"], one["effect"])],
        )
        for one in bed["networks"]
        if one["condition"] == DEFAULT
    ]
    return Bed(
        f"{bed['testbed']}, {bed['protocol']}",
        groups=list(groups.items()),
        forests=forests,
        networks=networks,
        moderators=_moderators(bed),
    )


def atlas_names(atlas: Atlas, text: str) -> str:
    """Slugs of a sentence as the names that tables show."""
    return " ".join(atlas.name(word.rstrip(",")) + ("," if word.endswith(",") else "") for word in text.split())


def _rows(atlas: Atlas, one: Document) -> list[Row]:
    link = one["method"] if one["method"] in atlas.papers else ""
    return [
        Row(
            who=atlas.name(one["method"]),
            link=link,
            condition=row["condition"],
            bases=max((row[effect] or {}).get("clusters", 0) for effect in OUTCOMES),
            effects={effect: _pooled(row[effect]) for effect in OUTCOMES},
        )
        for row in one["conditions"]
    ]


def _pooled(found: Document | None) -> Pooled | None:
    if found is None:
        return None
    return Pooled(
        _parts(found, found["prompts"], found["seeds"]), _ends(found["pi_low"], found["pi_high"]), found["conclusion"]
    )


def _places(atlas: Atlas, one: Document) -> list[Place]:
    names = sorted(one["p_scores"], key=lambda name: -one["p_scores"][name])
    made = []
    for name in names:
        rank, gap = one["ranks"][name], one["effects"][name].get(one["reference"])
        made.append(
            Place(
                who=atlas.name(name),
                difference=_parts(gap, 0, one["clusters"], "bases") if gap else ("", "reference", ""),
                p=f"{one['p_holm'][name]:.2g}" if gap else "–",
                score=f"{one['p_scores'][name]:.2f}",
                rank=f"{rank['median']:.0f} [{rank['low']:.0f}, {rank['high']:.0f}]",
            )
        )
    return made


def _moderators(bed: Document) -> list[tuple[str, str, Parts]]:
    """What is compared, of which outcome, and the change of the difference to SFT with its interval over bases."""
    made = []
    for effect, name in OUTCOMES.items():
        found = bed["moderators"][effect]
        rows = [("each doubling of the harmful share", found["per_doubling_of_ratio"])]
        rows += [(f"{one['condition']} instead of {DEFAULT}", one) for one in found["conditions"]]
        made += [
            (what, name, _parts(one, 0, one["clusters"], "bases")) for what, one in rows if one["estimate"] is not None
        ]
    return made


def _verdicts(atlas: Atlas, document: Document) -> list[tuple[str, str, str, str, str]]:
    """Slug, name, testbed, verdict and how many claims came out how."""
    return [
        (
            one["paper"],
            atlas.name(one["paper"]),
            one["testbed"],
            one["verdict"],
            ", ".join(f"{count} {verdict}" for verdict, count in one["primary"].items() if count),
        )
        for one in document["ledger"]["papers"]
        if one["verdict"]
    ]


def _changes(document: Document) -> list[Document]:
    shown = list(reversed(document["changes"][-LATEST:]))
    return [one | {"changed": one["changed"][:MANY], "more": max(0, len(one["changed"]) - MANY)} for one in shown]


def _parts(found: Document, prompts: int, seeds: int, unit: str = "") -> Parts:
    low, high = (float("nan") if found[name] is None else found[name] for name in ("ci_low", "ci_high"))
    one = Estimate(value=found["estimate"], low=low, high=high, se=0.0, df=0.0, prompts=prompts, seeds=seeds)
    value, interval, counted = words.points(one)
    return value, interval, f"({seeds} {unit})" if unit else counted


def _ends(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "–"
    return words.points(Estimate(value=0.0, low=low, high=high, se=0.0, df=0.0, prompts=0, seeds=0))[1]


def _name(bed: Document) -> str:
    return f"{bed['testbed']}/{bed['protocol']}"
