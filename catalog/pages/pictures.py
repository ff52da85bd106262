"""Charts as files, in both colour schemes, with their numbers in words."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import altair as alt

from catalog import charts, measured
from catalog.atlas import Atlas
from catalog.measured import Cell
from catalog.meta.effects import Estimate
from catalog.pages import words
from catalog.studies import Figure

CURVES = {
    "alignment_loss": "Loss on refusals (forgetting: it rises)",
    "harmful_loss_unseen": "Loss on unseen harmful answers (revitalisation: it falls)",
    "embedding_drift": "Embedding drift from the aligned model",
}
PREFIX = re.compile(r"aligned_prefilled_(\d+)")


@dataclass(frozen=True)
class Picture:
    """A chart on disk as `<stem>-light.svg` and `<stem>-dark.svg`."""

    stem: str
    alt: str
    caption: str
    width: int = 0
    height: int = 0


def draw(chart: alt.TopLevelMixin, folder: Path, picture: Picture) -> Picture:
    """Write both schemes of a chart and return the picture with its size."""
    folder.mkdir(parents=True, exist_ok=True)
    for scheme in charts.SCHEMES:
        drawing = charts.svg(chart, scheme)
        (folder / f"{picture.stem}-{scheme}.svg").write_text(drawing, encoding="utf-8")
    width, height = re.findall(r'(?:width|height)="(\d+)', drawing)[:2]
    return replace(picture, width=int(width), height=int(height))


def over_ratio(atlas: Atlas, cells: Sequence[Cell], folder: Path, stem: str) -> Picture | None:
    """Harmful score and accuracy over the harmful share; None when fewer than two shares were run."""
    swept: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.ratio is not None and {"harmful", "accuracy"} <= cell.metrics.keys():
            swept.setdefault(atlas.who(cell), []).append(cell)
    drawn = [cell for group in swept.values() if len({cell.ratio for cell in group}) > 1 for cell in group]
    if not drawn:
        return None
    drawn.sort(key=lambda cell: (cell.method != "sft", cell.arm != "main", cell.arm, cell.ratio))
    rows = [row(atlas.who(cell), "", cell) for cell in drawn]
    spoken = [
        f"{who}: " + ", ".join(_said(r) for r in rows if r["who"] == who)
        for who in dict.fromkeys(str(r["who"]) for r in rows)
    ]
    alternative = "Harmful score over the share of harmful data. " + "; ".join(spoken) + "."
    caption = "Harmful score and fine-tune accuracy over the share of harmful data; bars are 95 % intervals."
    return draw(charts.over_ratio(rows), folder, Picture(stem, alternative, caption))


def curves(atlas: Atlas, cells: Sequence[Cell], folder: Path, stem: str) -> Picture | None:
    """Mechanism statistics over fine-tuning steps; None when no curve was recorded."""
    panels: dict[str, list[charts.Row]] = {}
    for name, title in CURVES.items():
        rows: list[charts.Row] = [
            {"who": atlas.who(cell), "step": step, "value": value}
            for cell in cells
            for step, value in zip(*measured.curve(cell, name), strict=True)
        ]
        if rows:
            panels[title] = rows
    if not panels:
        return None
    caption = "Mechanism statistics over fine-tuning steps, means over seeds."
    spoken = [
        f"{title.partition(' (')[0]}: "
        + ", ".join(f"{who} from {first:.3g} to {last:.3g}" for who, first, last in _ends(rows))
        for title, rows in panels.items()
    ]
    return draw(charts.curves(panels), folder, Picture(stem, "; ".join(spoken) + ".", caption))


def prefixes(atlas: Atlas, cells: Sequence[Cell], folder: Path, stem: str) -> Picture | None:
    """Harmful score of the aligned models when an answer is begun for them; None when no two of them differ."""
    rows: list[charts.Row] = []
    for cell in cells:
        for name, estimate in cell.mechanisms.items():
            if found := PREFIX.fullmatch(name):
                rows.append({"who": atlas.who(cell), "tokens": int(found[1]), **bar("harmful", estimate)})
    spoken = {
        who: ", ".join(f"{r['harmful']:.0f} % after {r['tokens']}" for r in rows if r["who"] == who)
        for who in dict.fromkeys(str(r["who"]) for r in rows)
    }
    if len(set(spoken.values())) < 2:
        return None
    told = "; ".join(f"{who}: {values}" for who, values in spoken.items())
    alternative = f"Harmful score of the aligned model over given answer tokens. {told}."
    caption = "Aligned models before fine-tuning, with the first tokens of a compliant answer given; bars over seeds."
    return draw(charts.over_prefix(rows), folder, Picture(stem, alternative, caption))


def steps(atlas: Atlas, cells: Sequence[Cell], folder: Path, stem: str) -> Picture | None:
    """Harmful score and accuracy over the number of steps, beside SFT; None for fewer than two numbers of steps."""
    known = [(cell.steps, cell) for one in cells for cell in (one.twin, one) if cell]
    full = [(count, cell) for count, cell in known if count and {"harmful", "accuracy"} <= cell.metrics.keys()]
    if len({count for count, _ in full}) < 2:
        return None
    full.sort(key=lambda pair: (pair[1].method != "sft", pair[0]))
    rows = [{**row(atlas.who(cell), "", cell), "steps": count} for count, cell in full]
    spoken = [f"{r['who']} {r['harmful']:.0f} % after {r['steps']}" for r in rows]
    alternative = "Harmful score over fine-tuning steps: " + "; ".join(spoken) + "."
    caption = "Harmful score and fine-tune accuracy over the number of fine-tuning steps; bars are 95 % intervals."
    return draw(charts.over_steps(rows), folder, Picture(stem, alternative, caption))


def ladder(rows: Sequence[charts.Row], stem: str, under: str) -> Picture:
    """Names and describes a ladder chart: each method a dot with its interval."""
    spoken = [
        f"{r['who']} {r['harmful']:.0f} % harmful, {r['accuracy']:.0f} % accurate"
        + (f", at worst {r['worst']:.0f} % harmful ({r['under']})" if "worst" in r else "")
        for r in rows
    ]
    alternative = f"Harmful score and accuracy, {under}: " + "; ".join(spoken) + "."
    caption = f"{under}. Low harmful scores and high accuracy are good; bars are 95 % intervals."
    if any("worst" in r for r in rows):
        caption += " Hollow marks: the highest harmful score of the same method over the declared attacks."
    return Picture(stem, alternative, caption)


def trade(rows: Sequence[charts.Row], stem: str, under: str) -> Picture:
    """Names and describes a chart of harmful score against accuracy."""
    spoken = [f"{r['who']} at {r['accuracy']:.0f} % and {r['harmful']:.0f} %" for r in rows]
    alternative = f"Accuracy and harmful score, {under}: " + "; ".join(spoken) + "."
    caption = f"{under}. The good corner is at the bottom right; crosses are 95 % intervals."
    return Picture(stem, alternative, caption)


def study(figure: Figure, folder: Path) -> Picture:
    """A figure of a study, mean over seeds."""
    stem = words.slug(f"{figure.paper}-{figure.arm}-{figure.name}")
    spoken = [
        f"{name.replace('_', ' ')} from {values[0]:.3g} at {figure.x[0]:g} "
        f"to {values[-1]:.3g} at {figure.x[-1]:g}, lowest {min(values):.3g}, highest {max(values):.3g}"
        for name, values in figure.y.items()
    ]
    title = figure.name.replace("_", " ").capitalize()
    alternative = f"{title}: {figure.y_label} over {figure.x_label}. " + "; ".join(spoken) + "."
    caption = f"{title}, mean over {words.many(figure.seeds, 'seed')}."
    chart = charts.study(figure.x, figure.y, figure.x_label, figure.y_label)
    return draw(chart, folder, Picture(stem, alternative, caption))


def row(who: str, group: str, cell: Cell) -> dict[str, str | float]:
    """What a chart needs of a cell, in percent."""
    values: dict[str, str | float] = {"who": who, "group": group, "ratio": 100 * (cell.ratio or 0)}
    for name in ("harmful", "accuracy"):
        values |= bar(name, cell.metrics[name])
    return values


def bar(name: str, estimate: Estimate) -> dict[str, str | float]:
    """An estimate of a share with its interval, in percent and within 0 to 100."""
    known = {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return {part: min(100.0, max(0.0, 100 * value)) for part, value in known.items() if not math.isnan(value)}


def _said(values: Mapping[str, str | float]) -> str:
    return f"{values['harmful']:.0f} % at {values['ratio']:g} %"


def _ends(rows: charts.Rows) -> list[tuple[str, float, float]]:
    values: dict[str, list[float]] = {}
    for r in rows:
        values.setdefault(str(r["who"]), []).append(float(r["value"]))
    return [(who, series[0], series[-1]) for who, series in values.items()]
