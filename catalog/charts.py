"""Charts of measured numbers: Altair specifications, drawn to static SVG once for each colour scheme.

Every chart is narrow enough to stay readable on a phone. A method is told apart by colour and by shape.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd
import vl_convert

WIDTH = 380
NAMED = 8  # points in a scatter that can still be told apart by name
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross"]  # one fewer than colours: 30 pairs


@dataclass(frozen=True)
class Scheme:
    """Colours that are legible on one background; the first series is the undefended reference."""

    text: str
    grid: str
    series: tuple[str, ...]


SCHEMES = {
    "light": Scheme("#37373d", "#dcdce2", ("#6f6f78", "#0068a8", "#c24e00", "#00805e", "#a8447f", "#8a6500")),
    "dark": Scheme("#d6d8e0", "#474b59", ("#a6a8b3", "#63b8ee", "#ff9a5c", "#43cfa4", "#ec9cc8", "#e8bf4d")),
}

Row = Mapping[str, str | float]
Rows = Sequence[Row]
Layers = alt.LayerChart | alt.FacetChart


def over_ratio(rows: Rows) -> alt.VConcatChart:
    """Harmful score above fine-tune accuracy, over the share of harmful data, one line a method.

    Rows: who, ratio (percent), and for harmful and accuracy the value, _low and _high in percent.
    """
    return _over(rows, "ratio", "harmful share of the user's data (%)")


def over_steps(rows: Rows) -> alt.VConcatChart:
    """The same over the number of fine-tuning steps (rows with `steps` in place of `ratio`)."""
    return _over(rows, "steps", "fine-tuning steps")


def over_prefix(rows: Rows) -> Layers:
    """Harmful score over the number of given answer tokens (rows: who, tokens, harmful with _low and _high)."""
    data, who = _shifted(rows, "tokens")
    return _lines(data, who, "harmful", "harmful score (%)", 190, "tokens", "given tokens of a compliant answer")


def _over(rows: Rows, x: str, x_title: str) -> alt.VConcatChart:
    data, who = _shifted(rows, x)
    above = _lines(data, who, "harmful", "harmful score (%)", 190, x, x_title)
    below = _lines(data, who, "accuracy", "accuracy (%)", 95, x, x_title)
    panels = [
        above.properties(title="Harmful score: lower is better"),
        below.properties(title="Fine-tune accuracy: higher is better"),
    ]
    return alt.vconcat(*panels, spacing=14)


def sweep(rows: Rows, reference: Row, knob: str) -> alt.VConcatChart:
    """Harmful score above accuracy at each value of a knob, evenly spaced; a dashed line with its band is SFT.

    Rows in order: value (a label), who ("default" or "swept"), and metrics as in `over_ratio`; `reference` is SFT's.
    """
    panels = [
        _swept(rows, reference, "harmful", 190, knob).properties(title="Harmful score: lower is better"),
        _swept(rows, reference, "accuracy", 95, knob).properties(title="Fine-tune accuracy: higher is better"),
    ]
    return alt.vconcat(*panels, spacing=14)


def ladder(rows: Rows) -> alt.HConcatChart:
    """Harmful score and accuracy of each method as a dot with its interval, side by side.

    Rows in the order to draw: who, group, and for harmful and accuracy the value, _low and _high in percent; where a
    row has `worst`, a hollow mark shows that harmful score too.
    """
    data = pd.DataFrame(list(rows))
    who = list(dict.fromkeys(data["who"]))
    groups = list(dict.fromkeys(data["group"]))
    left = _dots(data, who, groups, "harmful", "harmful score (%)", labels=True)
    right = _dots(data, who, groups, "accuracy", "fine-tune accuracy (%)", labels=False)
    return alt.hconcat(left, right, spacing=16)


def _worst(base: alt.Chart, groups: list[str]) -> list[alt.Chart]:
    """A dotted line from each harmful score to the worst one, which is hollow."""
    known = base.transform_filter("isValid(datum.worst)")
    reach = known.mark_rule(strokeWidth=1, strokeDash=[1, 3]).encode(x=_percent("harmful", None, "x"), x2="worst:Q")
    marks = known.mark_point(filled=False, size=60, strokeWidth=1.5, opacity=1)
    return [reach, marks.encode(x=_percent("worst", None, "x"), shape=_shape("group", groups))]


def trade(rows: Rows) -> Layers:
    """Harmful score against accuracy, with a cross of intervals for each method (rows as for `ladder`)."""
    data = pd.DataFrame(list(rows))
    groups = list(dict.fromkeys(data["group"]))
    x, y = _percent("accuracy", "fine-tune accuracy (%)", "x"), _percent("harmful", "harmful score (%)", "y")
    base = alt.Chart(data, width=WIDTH, height=300).encode(color=_colour("group", groups))
    across = base.mark_rule().encode(x=alt.X("accuracy_low:Q", scale=_scale()), x2="accuracy_high:Q", y=y)
    along = base.mark_rule().encode(x=x, y=alt.Y("harmful_low:Q", scale=_scale()), y2="harmful_high:Q")
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(x=x, y=y, shape=_shape("group", groups))
    if len(data) > NAMED:
        return alt.layer(across, along, dots)
    names = base.mark_text(align="right", dx=-8, dy=-6, fontSize=11).encode(x=x, y=y, text="who:N")
    return alt.layer(across, along, dots, names)


def curves(panels: Mapping[str, Rows]) -> alt.VConcatChart:
    """One panel for each mechanism statistic over fine-tuning steps. Rows: who, step, value."""
    who = list(dict.fromkeys(str(row["who"]) for rows in panels.values() for row in rows))
    drawn = [
        alt.Chart(pd.DataFrame(list(rows)), width=WIDTH, height=110, title=title)
        .mark_line(point=True)
        .encode(
            x=alt.X("step:Q", title="fine-tuning step", scale=alt.Scale(nice=False), axis=alt.Axis(tickCount=6)),
            y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4)),
            color=_colour("who", who),
            shape=_shape("who", who),
        )
        for title, rows in panels.items()
    ]
    return alt.vconcat(*drawn, spacing=14)


def study(x: Sequence[float], y: Mapping[str, Sequence[float]], x_label: str, y_label: str) -> alt.Chart:
    """A figure of a study: named series over x."""
    names = [name.replace("_", " ") for name in y]
    rows = [
        {"series": name, "x": at, "value": value}
        for name, values in zip(names, y.values(), strict=True)
        for at, value in zip(x, values, strict=True)
    ]
    chart: alt.Chart = (
        alt.Chart(pd.DataFrame(rows), width=WIDTH, height=230)
        .mark_line(point={"size": 22})
        .encode(
            x=alt.X("x:Q", title=x_label, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6)),
            y=alt.Y("value:Q", title=y_label, axis=alt.Axis(tickCount=5)),
            color=_colour("series", names),
            shape=_shape("series", names),
        )
    )
    return chart


def svg(chart: alt.TopLevelMixin, scheme: str, background: str = "transparent") -> str:
    """Draw a chart for the "light" or "dark" scheme; equal charts give equal bytes."""
    spec = chart.to_dict()
    spec["config"] = {"background": background, **_config(SCHEMES[scheme])}
    drawn: str = vl_convert.vegalite_to_svg(spec, vl_version="6.4", show_warnings=False)
    return _renumbered(drawn) + "\n"


def sheet(chart: alt.TopLevelMixin) -> str:
    """Draw a chart that is opened by itself: dark on white, so that it is legible in a dark viewer too."""
    return svg(chart, "light", "white")


def _renumbered(drawn: str) -> str:
    """Count clip ids from 1 in each drawing; the converter counts them over its whole life."""
    numbers: dict[str, str] = {}
    return re.sub(r"\bclip\d+", lambda found: numbers.setdefault(found[0], f"clip-{len(numbers) + 1}"), drawn)


def _swept(rows: Rows, reference: Row, metric: str, height: int, knob: str) -> Layers:
    data, sft = pd.DataFrame(list(rows)), pd.DataFrame([reference])
    kinds = [str(reference["who"]), *dict.fromkeys(data["who"])]
    y = _percent(metric, f"{'harmful score' if metric == 'harmful' else 'accuracy'} (%)", "y")
    low = alt.Y(f"{metric}_low:Q", scale=_scale())
    x = alt.X("value:N", sort=list(data["value"]), title=knob, axis=alt.Axis(labelAngle=0))
    level = alt.Chart(sft).encode(color=_colour("who", kinds))
    band = level.mark_rect(opacity=0.16).encode(y=low, y2=f"{metric}_high:Q")
    line = level.mark_rule(strokeDash=[5, 3], strokeWidth=1.5).encode(y=y)
    base = alt.Chart(data, width=WIDTH, height=height).encode(x=x)
    bars = base.mark_rule(strokeWidth=1.5).encode(y=low, y2=f"{metric}_high:Q", color=_colour("who", kinds))
    dots = base.mark_point(filled=True, size=60, opacity=1)
    marks = dots.encode(y=y, color=_colour("who", kinds), shape=_shape("who", kinds))
    return alt.layer(band, line, bars, marks)


def _shifted(rows: Rows, x: str) -> tuple[pd.DataFrame, list[str]]:
    """Move the methods a little apart along x so that their intervals do not cover one another."""
    data = pd.DataFrame(list(rows))
    who = list(dict.fromkeys(data["who"]))
    step = 0.015 * float(data[x].max() or 1)
    data["at"] = data[x] + [step * (who.index(name) - (len(who) - 1) / 2) for name in data["who"]]
    return data, who


def _lines(
    data: pd.DataFrame, who: list[str], metric: str, title: str, height: int, over: str, over_title: str
) -> Layers:
    ticks = sorted(set(data[over]))
    x = alt.X("at:Q", title=over_title, axis=alt.Axis(values=ticks))
    y = alt.Y(f"{metric}:Q", title=title, scale=_scale(), axis=alt.Axis(values=[0, 25, 50, 75, 100]))
    base = alt.Chart(data, width=WIDTH, height=height).encode(x=x, color=_colour("who", who))
    bars = base.mark_rule(strokeWidth=1.5).encode(y=alt.Y(f"{metric}_low:Q", scale=_scale()), y2=f"{metric}_high:Q")
    line = base.mark_line(strokeWidth=1.5).encode(y=y)
    dots = base.mark_point(filled=True, size=55, opacity=1).encode(y=y, shape=_shape("who", who))
    return alt.layer(line, bars, dots)


def _dots(data: pd.DataFrame, who: list[str], groups: list[str], metric: str, title: str, *, labels: bool) -> Layers:
    rows = alt.Y("who:N", sort=who, title=None, axis=alt.Axis(labels=labels, ticks=False, domain=False, grid=True))
    base = alt.Chart(data, width=128, height={"step": 22}, title=title).encode(y=rows, color=_colour("group", groups))
    bars = base.mark_rule(strokeWidth=2).encode(
        x=alt.X(f"{metric}_low:Q", title=None, scale=_scale()), x2=f"{metric}_high:Q"
    )
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(
        x=_percent(metric, None, "x"), shape=_shape("group", groups)
    )
    worst = _worst(base, groups) if metric == "harmful" and "worst" in data else []
    return alt.layer(*worst, bars, dots)


def _percent(metric: str, title: str | None, axis: str) -> Any:
    channel = alt.X if axis == "x" else alt.Y
    return channel(f"{metric}:Q", title=title, scale=_scale(), axis=alt.Axis(values=[0, 25, 50, 75, 100]))


def _scale() -> alt.Scale:
    return alt.Scale(domain=[0, 100], nice=False)


def _colour(name: str, values: list[str]) -> alt.Color:
    return alt.Color(f"{name}:N", scale=alt.Scale(domain=values), legend=_legend())


def _shape(name: str, values: list[str]) -> alt.Shape:
    shapes = [SHAPES[place % len(SHAPES)] for place in range(len(values))]
    return alt.Shape(f"{name}:N", scale=alt.Scale(domain=values, range=shapes), legend=_legend())


def _legend() -> alt.Legend:
    return alt.Legend(title=None, orient="bottom", columns=3, labelLimit=140, symbolOpacity=1)


def _config(scheme: Scheme) -> dict[str, Any]:
    axis: dict[str, str | int] = {
        "labelColor": scheme.text,
        "titleColor": scheme.text,
        "gridColor": scheme.grid,
    }
    axis |= {"domainColor": scheme.grid, "tickColor": scheme.grid, "titleFontWeight": "normal"}
    axis |= {"labelFontSize": 12, "titleFontSize": 12, "labelLimit": 150}
    return {
        "font": FONT,
        "view": {"stroke": None},
        "axis": axis,
        "legend": {"labelColor": scheme.text, "labelFontSize": 12},
        "title": {
            "color": scheme.text,
            "subtitleColor": scheme.text,
            "fontSize": 12.5,
            "fontWeight": "bold",
            "anchor": "start",
        },
        "text": {"color": scheme.text},
        "range": {"category": list(scheme.series)},
    }
