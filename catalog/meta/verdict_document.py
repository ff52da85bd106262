"""The replication ledger as one JSON document, and as tables."""

import math
from collections import Counter
from typing import Any

from catalog.meta.ledger import Direction, Entry, Ledger, OfPaper, Unit
from catalog.meta.verdict import VERDICTS

Lines = tuple[list[str], list[tuple[str, ...]]]


def document(found: Ledger) -> dict[str, Any]:
    """All of a ledger, proportions throughout, null where unknown.

    margins: the declared version. claims: paper claim testbed setting kind primary joint says; reported measured se df
    ci_low ci_high ci90_low ci90_high; baseline_reported baseline_measured baseline_gap; better test (superiority or
    non-inferiority) margin (m_eq, or the loss spared); verdict reason flags; p; z pi_low pi_high in_pi
    small_telescope undetectable; direction {quantity of unit value low high at_least at_most outcome}. A claim without
    a verdict says why in reason. tests: what counts as one claim (joint claims once), with verdict p p_holm p_bh p_by.
    papers: paper testbed verdict primary (claims by verdict) unjudged. counts: papers and tests by verdict.
    """
    return {
        "margins": found.margins.model_dump(mode="json"),
        "claims": [_claim(entry) for entry in found.entries],
        "tests": [_test(unit) for unit in found.units],
        "papers": [_paper(one) for one in found.papers],
        "counts": {
            "papers": _counts(one.verdict for one in found.papers if one.verdict),
            "tests": _counts(unit.verdict for unit in found.units),
        },
    }


def _claim(entry: Entry) -> dict[str, Any]:
    one, claimed, judged = entry.tried, entry.tried.claimed, entry.judgement
    row: dict[str, Any] = {
        name: getattr(one, name)
        for name in ("paper", "claim", "testbed", "setting", "kind", "primary", "joint", "says")
    }
    row |= {"reported": claimed and claimed.reported, "measured": one.found and one.found.value}
    row |= {"se": one.found and one.found.se, "df": one.found and _finite(one.found.df)}
    row |= _ends("ci", judged.interval if judged else None) | _ends("ci90", judged.narrow if judged else None)
    for name in ("baseline_reported", "baseline_measured", "baseline_gap", "better"):
        row[name] = claimed and getattr(claimed, name)
    row["test"] = claimed and ("superiority" if claimed.spare is None else "non-inferiority")
    row |= {"margin": judged and judged.margin, "verdict": judged and judged.verdict}
    row |= {"reason": judged.reason if judged else entry.unjudged, "flags": list(judged.flags) if judged else []}
    row |= {"p": judged and judged.p, "z": judged and judged.z, **_ends("pi", judged.predicted if judged else None)}
    row["in_pi"] = None
    if judged and judged.predicted and one.found:
        row["in_pi"] = judged.predicted[0] <= one.found.value <= judged.predicted[1]
    row |= {"small_telescope": judged and judged.detectable, "undetectable": judged and judged.undetectable}
    return row | {"direction": _direction(one.direction) if one.direction else None}


def _direction(tested: Direction) -> dict[str, Any]:
    numbers = {name: _finite(getattr(tested, name)) for name in ("value", "low", "high")}
    bounds = {"at_least": tested.at_least, "at_most": tested.at_most, "outcome": tested.outcome}
    return {"quantity": tested.quantity, "of": tested.of, "unit": tested.unit, **numbers, **bounds}


def _test(unit: Unit) -> dict[str, Any]:
    first, adjusted = unit.first, unit.adjusted
    return {
        "paper": first.paper,
        "claims": [entry.tried.claim for entry in unit.entries],
        "testbed": first.testbed,
        "setting": first.setting,
        "verdict": unit.verdict,
        "p": unit.p,
        "p_holm": adjusted and adjusted.holm,
        "p_bh": adjusted and adjusted.bh,
        "p_by": adjusted and adjusted.by,
    }


def _paper(one: OfPaper) -> dict[str, Any]:
    counted = _counts(unit.verdict for unit in one.claims)
    return {
        "paper": one.paper,
        "testbed": one.testbed,
        "verdict": one.verdict,
        "primary": counted,
        "unjudged": one.unjudged,
    }


def _counts(verdicts: Any) -> dict[str, int]:
    counted = Counter(verdicts)
    return {name: counted[name] for name in VERDICTS}


def _ends(name: str, interval: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def claims_table(found: Ledger) -> Lines:
    """A line for each judged claim, effects in points."""
    columns = ["claim", "setting", "reported", "measured [95 %]", "baseline", "verdict", "why"]
    rows: list[tuple[str, ...]] = []
    for entry in found.entries:
        one, judged = entry.tried, entry.judgement
        if judged is None or one.claimed is None or one.found is None:
            continue
        low, high = judged.interval
        base = one.claimed
        baseline = "not known"
        if base.baseline_reported is not None and base.baseline_measured is not None:
            baseline = f"{100 * base.baseline_reported:.0f} / {100 * base.baseline_measured:.0f}"
        measured = f"{_points(one.found.value)} [{_points(low)}, {_points(high)}]"
        flags = f" ({', '.join(judged.flags)})" if judged.flags else ""
        why = f"{judged.reason}{flags}"
        name = f"{one.paper} {one.claim}"
        rows.append((name, _where(entry), _points(base.reported), measured, baseline, judged.verdict, why))
    return columns, rows


def directions_table(found: Ledger) -> Lines:
    """A line for each claim with a test of its own: the bound, what was measured, and whether it keeps to it."""
    rows: list[tuple[str, ...]] = []
    for entry in found.entries:
        if tested := entry.tried.direction:
            scale, unit = (100, " points") if tested.unit == "proportion" else (1, "")
            low, high = (f"{scale * end:.3g}" for end in (tested.low, tested.high))
            measured = f"{scale * tested.value:.3g}" + ("" if math.isnan(tested.low) else f" [{low}, {high}]")
            bound = tested.at_most if tested.at_least is None else tested.at_least
            asked = f"{'≤' if tested.at_least is None else '≥'} {scale * (bound or 0):g}{unit}"
            name = f"{entry.tried.paper} {entry.tried.claim}"
            what = f"{tested.quantity.replace('_', ' ')}, {tested.of}"
            rows.append((name, _where(entry), what, asked, measured, tested.outcome))
    return ["claim", "setting", "quantity", "asked", "measured [95 %]", "direction"], rows


def papers_table(found: Ledger) -> Lines:
    """A line for each paper on each testbed."""
    columns = ["paper", "testbed", "verdict", "primary claims", "without a verdict"]
    rows: list[tuple[str, ...]] = []
    for one in found.papers:
        counted = Counter(unit.verdict for unit in one.claims)
        parts = ", ".join(f"{counted[name]} {name}" for name in VERDICTS if counted[name])
        rows.append((one.paper, one.testbed or "–", one.verdict or "none yet", parts or "–", str(one.unjudged)))
    return columns, rows


def tests_table(found: Ledger) -> Lines:
    """A line for each claim in a family of tests, with adjusted p-values."""
    rows: list[tuple[str, ...]] = [
        (
            f"{unit.first.paper} {'+'.join(entry.tried.claim for entry in unit.entries)}",
            unit.verdict,
            *(f"{p:.2g}" for p in (unit.p, unit.adjusted.holm, unit.adjusted.bh, unit.adjusted.by)),
        )
        for unit in found.units
        if unit.adjusted
    ]
    return ["claims", "verdict", "p", "Holm (paper)", "BH (all)", "BY (all)"], rows


def _where(entry: Entry) -> str:
    return ": ".join(part for part in (entry.tried.testbed, entry.tried.setting) if part)


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"
