"""The forest plot: every effect with its interval and weight, the pooled one below, and where a new one may lie."""

import math
from collections.abc import Sequence
from typing import Literal

import altair as alt
import numpy as np
import pandas as pd

from catalog.charts import Layers
from catalog.meta.analysis import Data
from catalog.meta.pool import Pooled, quantile
from catalog.meta.words import UNITS, scale_of, spread_line

ROW = 20
LABELS, PLOT = 190, 300
COLUMNS = {"n": 64, "weight": 52, "effect": 140}  # widths in pixels
AXIS_MARGIN = 0.06


def forest(data: Data, found: Pooled, level: float = 0.95) -> alt.HConcatChart:
    """Squares grow with the weight; the diamond is the pooled effect, the bar below it the prediction interval.

    Risk differences are in points, ratios on the logarithmic scale.
    """
    factor, z = scale_of(data.measure), quantile(math.inf, level)
    bound = 1.0 if data.measure == "RD" else math.inf
    studies = pd.DataFrame(
        {
            "place": [-float(n) for n in range(len(data.yi))],
            "label": list(data.labels),
            "x": factor * data.yi,
            "low": factor * np.maximum(data.yi - z * data.vi**0.5, -bound),
            "high": factor * np.minimum(data.yi + z * data.vi**0.5, bound),
            "weight": found.weights,
            "rests": list(data.sizes or [""] * len(data.yi)),
        }
    )
    last = -len(studies) - 0.4
    pooled = [factor * value for value in (found.low, found.estimate, found.high)]
    predicted = None if math.isnan(found.pi_low) else (factor * found.pi_low, factor * found.pi_high)
    y = alt.Y("place:Q", axis=None, scale=alt.Scale(domain=[last - (1.7 if predicted else 0.7), 1.5], nice=False))
    rows = [(f"pooled ({found.model})", last)] + ([("prediction interval", last - 1)] if predicted else [])
    height = ROW * (len(studies) + 2.8 + len(rows))
    names = [*zip(studies["label"], studies["place"], strict=True), *rows]
    left = _texts(names, y, "left", LABELS, height)
    columns = _numbers(studies, pooled, predicted, last)
    right = [_texts(columns[name], y, "right", COLUMNS[name], height) for name in columns]
    middle = _middle(studies, pooled, predicted, last, y).properties(width=PLOT, height=height)
    title = alt.TitleParams(_title(data, found), subtitle=spread_line(data.measure, found), fontSize=12.5)
    chart: alt.HConcatChart = alt.hconcat(left, middle, *right, spacing=6, title=title)
    return chart


def _middle(
    studies: pd.DataFrame, pooled: Sequence[float], predicted: tuple[float, float] | None, last: float, y: alt.Y
) -> Layers:
    ends = [*studies["low"], *studies["high"], *pooled, *(predicted or ()), 0.0]
    margin = AXIS_MARGIN * (max(ends) - min(ends))
    scale = alt.Scale(domain=[min(ends) - margin, max(ends) + margin], nice=False)
    x = alt.X("x:Q", scale=scale, title=None, axis=alt.Axis(tickCount=6))
    zero = alt.Chart(pd.DataFrame({"x": [0.0]})).mark_rule(strokeDash=[4, 3], color="#8a8a93").encode(x=x)
    base = alt.Chart(studies).encode(y=y)
    bars = base.mark_rule(strokeWidth=1.5, color="#0068a8").encode(x=alt.X("low:Q", scale=scale), x2="high:Q")
    size = alt.Size(
        "weight:Q", scale=alt.Scale(domain=[0, float(studies["weight"].max())], range=[12, 160]), legend=None
    )
    squares = base.mark_point(shape="square", filled=True, opacity=1, color="#0068a8").encode(x=x, size=size)
    waist = pd.DataFrame({"x": pooled, "place": [last, last + 0.32, last], "other": [last, last - 0.32, last]})
    diamond = alt.Chart(waist).mark_area(color="#c24e00", opacity=1).encode(x=x, y=y, y2="other:Q")
    layers = [zero, bars, squares, diamond]
    if predicted:
        span = pd.DataFrame({"low": [predicted[0]], "high": [predicted[1]], "place": [last - 1]})
        bar = alt.Chart(span).mark_rule(strokeWidth=4, color="#c24e00", opacity=0.75)
        layers.append(bar.encode(x=alt.X("low:Q", scale=scale), x2="high:Q", y=y))
    return alt.layer(*layers)


def _numbers(
    studies: pd.DataFrame, pooled: Sequence[float], predicted: tuple[float, float] | None, last: float
) -> dict[str, list[tuple[str, float]]]:
    """What each effect rests on (if known), its weight and its interval, and the intervals of the last rows."""
    low, estimate, high = pooled
    places = [-float(n) for n in range(len(studies))]
    ends = zip(*(studies[name].tolist() for name in ("x", "low", "high")), strict=True)
    limits = [(_interval(*numbers), place) for numbers, place in zip(ends, places, strict=True)]
    limits.append((_interval(estimate, low, high), last))
    if predicted:
        limits.append((f"[{_brief(predicted[0])}, {_brief(predicted[1])}]", last - 1))
    rests = [(text, place) for text, place in zip(studies["rests"].tolist(), places, strict=True) if text]
    weights = [(f"{weight:.1%}", place) for weight, place in zip(studies["weight"].tolist(), places, strict=True)]
    return {
        **({"n": [("n", 1.0), *rests]} if rests else {}),
        "weight": [("weight", 1.0), *weights],
        "effect": [("effect [95 %]", 1.0), *limits],
    }


def _interval(estimate: float, low: float, high: float) -> str:
    return f"{_brief(estimate)} [{_brief(low)}, {_brief(high)}]"


def _brief(value: float) -> str:
    """Three digits; what is 0 but for rounding is 0."""
    return f"{round(value, 9) + 0.0:.3g}"


def _texts(
    pairs: Sequence[tuple[str, float]], y: alt.Y, align: Literal["left", "right"], width: int, height: float
) -> Layers:
    data = pd.DataFrame(list(pairs), columns=["text", "place"])
    data["at"] = 0.0 if align == "left" else 1.0
    x = alt.X("at:Q", axis=None, scale=alt.Scale(domain=[0, 1], nice=False))
    marks = alt.Chart(data).mark_text(align=align, fontSize=11.5, limit=width).encode(x=x, y=y, text="text:N")
    return alt.layer(marks).properties(width=width, height=height)


def _title(data: Data, found: Pooled) -> str:
    return f"{UNITS[data.measure]}: {len(data.yi)} effects, {found.model} model"
