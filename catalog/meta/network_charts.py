"""Figures of a network: league heat map, graph, ranks, net heat, in the style of `catalog.charts`."""

import math
from typing import Any

import altair as alt
import pandas as pd

from catalog.charts import WIDTH, Layers
from catalog.meta.network_document import Analysis

READABLE = 9  # treatments up to which the cells of a league table hold numbers
STRENGTH = alt.Scale(domain=[0, 1], range=[0.06, 0.75])


def league(analysis: Analysis) -> Layers:
    """Row minus column, best treatment first; colour says which is better, and pale cells are uncertain.

    With few treatments each cell holds the estimate and its 95 % interval (in points for risk differences).
    """
    found, order = analysis.found, _order(analysis)
    factor = 100 if analysis.scale == "RD" else 1
    low, high = found.interval()
    sign = -1 if analysis.better == "smaller" else 1
    rows = []
    for one in order:
        for other in order:
            if one == other:
                continue
            at = found.treatments.index(one), found.treatments.index(other)
            gap = float(found.estimate[at])
            clear = low[at] > 0 or high[at] < 0
            rows.append(
                {
                    "row": one,
                    "column": other,
                    "verdict": "interval includes 0" if not clear else f"row {'better' if sign * gap > 0 else 'worse'}",
                    "strength": min(1.0, abs(gap) / float(found.se[at]) / 5),
                    "estimate": f"{factor * gap:.3g}",
                    "interval": f"{factor * low[at]:.2g}, {factor * high[at]:.2g}",
                }
            )
    verdicts = ["interval includes 0", "row better", "row worse"]
    base = _grid(rows, order, order, "row", "column", 48 if len(order) <= READABLE else max(9, WIDTH // len(order)))
    cells = base.mark_rect().encode(
        color=alt.Color("verdict:N", scale=alt.Scale(domain=verdicts), legend=_below()),
        opacity=alt.Opacity("strength:Q", scale=STRENGTH, legend=None),
    )
    if len(order) > READABLE:
        return alt.layer(cells)
    value = base.mark_text(fontSize=11, dy=-6, fontWeight="bold").encode(text="estimate:N")
    limits = base.mark_text(fontSize=8, dy=7).encode(text="interval:N")
    return alt.layer(cells, value, limits)


def graph(analysis: Analysis) -> Layers:
    """Treatments on a circle; a line for each compared pair, as wide as studies are many, dots grow with their arms."""
    names = analysis.found.treatments
    place = {name: 2 * math.pi * number / len(names) + math.pi / 2 for number, name in enumerate(names)}
    arms = {name: sum(name in study.treatments for study in analysis.studies) for name in names}
    dots = [
        {"who": name, "x": math.cos(turn), "y": math.sin(turn), "arms": arms[name], "label": f"{name} ({arms[name]})"}
        | {"lx": 1.16 * math.cos(turn), "ly": 1.16 * math.sin(turn), "align": _side(math.cos(turn))}
        for name, turn in place.items()
    ]
    lines = [
        {"x": math.cos(place[s.treat1]), "y": math.sin(place[s.treat1]), "studies": s.studies}
        | {"x2": math.cos(place[s.treat2]), "y2": math.sin(place[s.treat2])}
        for s in analysis.splits
    ]
    x, y = (alt.X("x:Q", axis=None, scale=_square()), alt.Y("y:Q", axis=None, scale=_square()))
    most = max(line["studies"] for line in lines)
    edges = (
        alt.Chart(pd.DataFrame(lines), width=WIDTH, height=WIDTH)
        .mark_rule(opacity=0.55)
        .encode(
            x=x,
            y=y,
            x2="x2:Q",
            y2="y2:Q",
            strokeWidth=alt.StrokeWidth("studies:Q", scale=alt.Scale(domain=[0, most], range=[0, 9]), legend=None),
            color=alt.value("#6f6f78"),
        )
    )
    base = alt.Chart(pd.DataFrame(dots), width=WIDTH, height=WIDTH)
    size = alt.Size("arms:Q", scale=alt.Scale(domain=[0, max(arms.values())], range=[0, 500]), legend=None)
    nodes = base.mark_circle(opacity=1).encode(x=x, y=y, size=size, color=alt.value("#0068a8"))
    lx, ly = alt.X("lx:Q", axis=None, scale=_square()), alt.Y("ly:Q", axis=None, scale=_square())
    texts = [
        base.mark_text(fontSize=11, align=align)
        .encode(x=lx, y=ly, text="label:N")
        .transform_filter(f"datum.align == '{align}'")
        for align in ("left", "right", "center")
    ]
    return alt.layer(edges, nodes, *texts)


def ranks(analysis: Analysis) -> Layers:
    """Median rank with its 95 % interval, best P-score first; the P-score stands beside the name."""
    order = _order(analysis)
    rows = [
        {"who": f"{name}  {analysis.p_scores[name]:.2f}", "rank": rank.median, "low": rank.low, "high": rank.high}
        for name, rank in ((name, analysis.ranks[name]) for name in order)
    ]
    names = [str(row["who"]) for row in rows]
    y = alt.Y("who:N", sort=names, title=None, axis=alt.Axis(ticks=False, domain=False, grid=True, labelLimit=220))
    scale = alt.Scale(domain=[0.5, len(order) + 0.5], nice=False)
    base = alt.Chart(pd.DataFrame(rows), width=WIDTH - 120, height={"step": 22}).encode(y=y, color=alt.value("#0068a8"))
    ticks = list(range(1, len(order) + 1, max(1, len(order) // 10)))
    title = ["rank: median and 95 % interval, 1 is best", "(P-score beside the name)"]
    axis = alt.Axis(values=ticks, format="d")
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", scale=scale, axis=axis, title=title), x2="high:Q")
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(x=alt.X("rank:Q", scale=scale))
    return alt.layer(bars, dots)


def heat(analysis: Analysis) -> Layers:
    """Net heat: how far detaching the column's design lowers (or raises) the row's part of Q between designs.

    Squares grow with the influence of the column's evidence on the row. ValueError when nothing can be tested.
    """
    found = analysis.heat
    if found is None:
        raise ValueError("no net heat: inconsistency is not testable in this network")
    names = list(found.designs)
    largest = float(abs(found.change).max()) or 1.0
    rows = [
        {
            "row": one,
            "column": other,
            "verdict": "inconsistency falls" if found.change[i, j] > 0 else "inconsistency grows",
            "strength": abs(float(found.change[i, j])) / largest,
            "influence": min(1.0, float(found.influence[i, j])),
        }
        for i, one in enumerate(names)
        for j, other in enumerate(names)
    ]
    base = _grid(rows, names, names, "row", "column", max(12, min(34, WIDTH // len(names))))
    verdicts = ["", "inconsistency grows", "inconsistency falls"]
    colour = alt.Color("verdict:N", scale=alt.Scale(domain=verdicts), legend=_below(verdicts[1:]))
    cells = base.mark_rect().encode(color=colour, opacity=alt.Opacity("strength:Q", scale=STRENGTH, legend=None))
    size = alt.Size("influence:Q", scale=alt.Scale(domain=[0, 1], range=[0, 300]), legend=None)
    squares = base.mark_point(shape="square", filled=True, opacity=0.6).encode(size=size, color=alt.value("#6f6f78"))
    return alt.layer(cells, squares)


def _order(analysis: Analysis) -> list[str]:
    return sorted(analysis.found.treatments, key=lambda name: -analysis.p_scores[name])


def _grid(
    rows: list[dict[str, Any]], down: list[str], across: list[str], row: str, column: str, step: int
) -> alt.Chart:
    axis: dict[str, Any] = {"ticks": False, "domain": False, "labelLimit": 170}
    chart: alt.Chart = alt.Chart(pd.DataFrame(rows), width={"step": step}, height={"step": min(step, 34)}).encode(
        x=alt.X(f"{column}:N", sort=across, title=None, axis=alt.Axis(orient="top", labelAngle=-45, **axis)),
        y=alt.Y(f"{row}:N", sort=down, title=None, axis=alt.Axis(**axis)),
    )
    return chart


def _below(values: list[str] | None = None) -> alt.Legend:
    extra: dict[str, Any] = {"values": values} if values else {}
    return alt.Legend(title=None, orient="bottom", columns=3, labelLimit=180, symbolOpacity=1, **extra)


def _square() -> alt.Scale:
    return alt.Scale(domain=[-1.9, 1.9], nice=False)


def _side(across: float) -> str:
    """How the label of a dot is aligned, so that it points away from the circle."""
    if abs(across) < 0.2:
        return "center"
    return "left" if across > 0 else "right"
