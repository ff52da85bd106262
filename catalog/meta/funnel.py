"""The funnel plot: every effect over how much was measured for it, most at the top."""

import math
from collections.abc import Sequence

import altair as alt
import pandas as pd

from catalog.charts import WIDTH, Layers
from catalog.meta.analysis import Data
from catalog.meta.bias import Filled
from catalog.meta.weighted import Vector
from catalog.meta.words import UNITS, scale_of

TELLABLE = 5  # clusters whose colours can be told apart
HEIGHT = 260


def funnel(data: Data, heights: Vector, axis: str, centre: float, filled: Filled | None) -> Layers:
    """Effects over `heights` (named by `axis`), the pooled one as a line; hollow are those that trim-and-fill adds.

    Effects have the colour of their paper or base model where there are few of those. Risk differences are in points.
    """
    factor = scale_of(data.measure)
    groups = list(data.clusters or [""] * len(data.yi))
    shown = groups if 1 < len(set(groups)) <= TELLABLE else ["" for _ in groups]
    rows = pd.DataFrame({"x": factor * data.yi, "y": heights, "label": list(data.labels), "who": shown})
    added = _added(data, heights, filled, factor)
    span = alt.Scale(domain=_domain([*rows["y"], *added["y"]]), nice=False, reverse=True)
    y = alt.Y("y:Q", title=axis, scale=span)
    x = alt.X("x:Q", title=UNITS[data.measure], scale=alt.Scale(zero=False))
    zero = alt.Chart(pd.DataFrame({"x": [0.0]})).mark_rule(strokeDash=[4, 3], color="#8a8a93").encode(x=x)
    middle = alt.Chart(pd.DataFrame({"x": [factor * centre]})).mark_rule(color="#c24e00").encode(x=x)
    named = sorted(set(shown))
    legend = None if named == [""] else alt.Legend(title=None, orient="bottom")
    colour = alt.value("#0068a8") if named == [""] else alt.Color("who:N", legend=legend, scale=alt.Scale(domain=named))
    dots = alt.Chart(rows, width=WIDTH, height=HEIGHT).mark_point(filled=True, size=45, opacity=0.8)
    layers = [zero, middle, dots.encode(x=x, y=y, color=colour)]
    if len(added):
        hollow = alt.Chart(added).mark_point(filled=False, size=45, color="#6f6f78")
        layers.append(hollow.encode(x=x, y=y))
    return alt.layer(*layers)


def _added(data: Data, heights: Vector, filled: Filled | None, factor: float) -> pd.DataFrame:
    """Mirror images at the heights of the effects they mirror."""
    if filled is None or not filled.missing:
        return pd.DataFrame({"x": [], "y": []})
    at = [min(range(len(data.vi)), key=lambda place: abs(data.vi[place] - v)) for v in filled.vi]
    return pd.DataFrame({"x": factor * filled.yi, "y": [float(heights[place]) for place in at]})


def _domain(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.1 * high or math.ulp(1.0)
    return [max(0.0, low - margin), high + margin]
