"""Charts as files, in both colour schemes, with their numbers in words."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import altair as alt

from catalog import charts, measured
from catalog.atlas import Atlas
from catalog.measured import Cell
from catalog.pages import words
from catalog.studies import Figure

CURVES = {
    "alignment_loss": "Loss on refusals (forgetting: it rises)",
    "harmful_loss_unseen": "Loss on unseen harmful answers (revitalisation: it falls)",
    "embedding_drift": "Embedding drift from the aligned model",
}


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


def ladder(rows: Sequence[charts.Row], stem: str, under: str) -> Picture:
    """Names and describes a ladder chart: each method a dot with its interval."""
    spoken = [f"{r['who']} {r['harmful']:.0f} % harmful, {r['accuracy']:.0f} % accurate" for r in rows]
    alternative = f"Harmful score and accuracy, {under}: " + "; ".join(spoken) + "."
    caption = f"{under}. Low harmful scores and high accuracy are good; bars are 95 % intervals."
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
        estimate = cell.metrics[name]
        values |= {name: 100 * estimate.value, f"{name}_low": 100 * estimate.low}
        values[f"{name}_high"] = 100 * estimate.high
    return values


def _said(values: Mapping[str, str | float]) -> str:
    return f"{values['harmful']:.0f} % at {values['ratio']:g} %"


def _ends(rows: charts.Rows) -> list[tuple[str, float, float]]:
    values: dict[str, list[float]] = {}
    for r in rows:
        values.setdefault(str(r["who"]), []).append(float(r["value"]))
    return [(who, series[0], series[-1]) for who, series in values.items()]
