"""A pooled analysis in words and numbers a person reads: points for risk differences, tau before I²."""

import math

from catalog.meta.analysis import Data
from catalog.meta.document import Document
from catalog.meta.heterogeneity import Heterogeneity
from catalog.meta.pool import Pooled
from catalog.meta.sizes import NAMES
from catalog.terminal import table

UNITS: dict[str, str] = {
    **{str(key): name for key, name in NAMES.items()},
    "RD": "risk difference (points)",
    "GEN": "effect",
}


def scale_of(measure: str) -> float:
    """What effects are multiplied with to be shown."""
    return 100.0 if measure == "RD" else 1.0


def spread_line(measure: str, found: Pooled) -> str:
    """tau in the unit shown, with its interval, then I² and Q."""
    return _spread(measure, found.heterogeneity, fixed=found.model not in ("random", "clusters", "three-level"))


def show(data: Data, found: Pooled, document: Document) -> None:
    """Print a pooled analysis: the effect, how the settings differ, every effect, the notes."""
    factor = scale_of(data.measure)
    estimate, *interval = (f"{factor * value:.3g}" for value in (found.estimate, found.low, found.high))
    print_line = f"{UNITS[data.measure]}, {found.model} model, {len(data.yi)} effects"
    clusters = document["clusters"]
    print_line += f" in {clusters} clusters" if clusters else ""
    lines = [print_line, f"pooled {estimate}, 95 % interval {interval[0]} to {interval[1]}"]
    if data.measure in ("OR", "RR"):
        ratio, low, high = (math.exp(value) for value in (found.estimate, found.low, found.high))
        lines[-1] += f" (as a ratio {ratio:.3g}, {low:.3g} to {high:.3g})"
    if not math.isnan(found.pi_low):
        lines.append(
            f"a new setting: {factor * found.pi_low:.3g} to {factor * found.pi_high:.3g} (prediction interval)"
        )
    lines.append(spread_line(data.measure, found))
    _say(lines)
    rows = []
    for label, y, v, weight in zip(
        data.labels, data.yi.tolist(), data.vi.tolist(), found.weights.tolist(), strict=True
    ):
        reach = 1.959964 * v**0.5
        rows.append(
            (label, f"{factor * y:.3g}", f"{factor * (y - reach):.3g} to {factor * (y + reach):.3g}", f"{weight:.1%}")
        )
    table(["effect of", "estimate", "95 %", "weight"], rows)
    for key in ("cumulative", "influence"):
        if document.get(key):
            _records(key, document[key])
    _say([f"note: {note}" for note in document["notes"]])


def show_regression(document: Document) -> None:
    """Print a meta-regression: coefficients per unit of the moderator, then what is left unexplained."""
    columns = ["coefficient", "estimate", "se", "95 %", "p"]
    rows = []
    for one in document["coefficients"]:
        limits = f"{_number(one['ci_low'])} to {_number(one['ci_high'])}"
        tested = [_number(one[name]) for name in ("p", "p_permutation") if name in one]
        rows.append([one["name"], _number(one["estimate"]), _number(one["se"]), limits, *tested])
    if "permutation" in document:
        columns.append("p (permutation)")
    table(columns, rows)
    degrees = f"{document['qm_df']}" + (f" and {document['df']:.3g}" if document["df"] else "")
    explained = "" if document["r2"] is None else f"; R² {document['r2']:.0%}"
    _say(
        [
            f"all moderators: {_number(document['qm'])} on {degrees} df, p {_number(document['qm_p'])}",
            f"tau² left {_number(document['tau2'])}{explained}; {document['k']} effects",
            *(f"note: {note}" for note in document["notes"]),
        ]
    )


def _spread(measure: str, spread: Heterogeneity, *, fixed: bool) -> str:
    unit = " points" if measure == "RD" else ""
    factor = scale_of(measure)
    q = f"Q {spread.q:.2f} on {spread.q_df} df, p {spread.q_p:.2g}"
    if fixed:
        return f"one common effect is assumed; {q}, I² {spread.i2['Q']:.0%} (Q-based)"
    tau = f"tau {factor * math.sqrt(spread.tau2):.3g}{unit}"
    if not math.isnan(spread.tau2_low):
        tau += f" (95 % {factor * math.sqrt(spread.tau2_low):.3g} to {factor * math.sqrt(spread.tau2_high):.3g})"
    return f"{tau}, I² {spread.i2['tau2']:.0%} (tau²-based; Q-based {spread.i2['Q']:.0%}); {q}"


def _records(title: str, records: list[Document]) -> None:
    columns = list(records[0])
    table([title, *columns[1:]], [[str(one["label"]), *(_cell(one[name]) for name in columns[1:])] for one in records])


def _cell(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(_cell, value))
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _say(lines: list[str]) -> None:
    import typer

    for line in lines:
        typer.echo(line)
