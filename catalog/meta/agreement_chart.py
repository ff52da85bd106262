"""The scatter of measured over reported effects, with the line of agreement and the Deming line."""

import altair as alt
import pandas as pd

from catalog.charts import NAMED, Layers
from catalog.meta.agreement import Agreement

SIDE = 340
MARGIN = 0.06
DOTS, DEMING, EQUAL = "#0068a8", "#c24e00", "#8a8a93"


def scatter(found: Agreement, factor: float, unit: str) -> Layers:
    """Dots are claims with the 95 % interval of what was measured; dashed is equality, solid the Deming line.

    Effects are multiplied by `factor` and said to be in `unit`.
    """
    pairs = found.pairs
    data = pd.DataFrame(
        {"claim": pairs.labels, "reported": factor * pairs.reported, "measured": factor * pairs.measured}
    )
    spans = pairs.spans or tuple((value, value) for value in pairs.measured.tolist())
    data["low"], data["high"] = ([factor * span[end] for span in spans] for end in (0, 1))
    least = min(data[["reported", "measured", "low"]].min())
    most = max(data[["reported", "measured", "high"]].max())
    least, most = min(least, 0.0), max(most, 0.0)
    ends = [least - MARGIN * (most - least), most + MARGIN * (most - least)]
    scale = alt.Scale(domain=ends, nice=False, clamp=False)
    x = alt.X("reported:Q", title=f"reported{unit}", scale=scale, axis=alt.Axis(tickCount=6))
    y = alt.Y("measured:Q", title=f"measured{unit}", scale=scale, axis=alt.Axis(tickCount=6))
    equal = alt.Chart(pd.DataFrame({"reported": ends, "measured": ends})).mark_line(strokeDash=[4, 3], color=EQUAL)
    layers = [equal.encode(x=x, y=y)]
    slope, intercept = found.deming.slope.value, factor * found.deming.intercept.value
    if slope == slope:
        line = pd.DataFrame({"reported": ends, "measured": [intercept + slope * end for end in ends]})
        drawn = alt.Chart(line).mark_line(color=DEMING, strokeWidth=1.5, clip=True)
        layers.append(drawn.encode(x=x, y=y))
    base = alt.Chart(data)
    bars = base.mark_rule(color=DOTS, strokeWidth=1.3).encode(x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q")
    dots = base.mark_point(filled=True, size=50, opacity=1, color=DOTS).encode(x=x, y=y)
    layers += [bars, dots]
    if len(data) <= NAMED:
        layers.append(base.mark_text(align="left", dx=7, dy=-5, fontSize=10.5).encode(x=x, y=y, text="claim:N"))
    title = alt.TitleParams(
        f"Measured against reported: {len(pairs)} claims of {found.papers} papers",
        subtitle="dashed: equality; solid: Deming line; bars: 95 % intervals",
        fontSize=12.5,
    )
    chart: Layers = alt.layer(*layers).properties(width=SIDE, height=SIDE, title=title)
    return chart
