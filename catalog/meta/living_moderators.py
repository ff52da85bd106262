"""What changes how well defenses do: the harmful share, the attack, the stage.

Share and attack are varied inside each defense and base, so their contrasts are paired there, averaged over defenses,
and have a t interval over bases. Stages differ between defenses only, and are compared by meta-regression.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from catalog.conditions import DEFAULT
from catalog.meta.clusters import claim_note, means_t
from catalog.meta.gathered import EFFECTS, Line
from catalog.meta.living_stages import Stage, bounded
from catalog.meta.regress import dependent, regress
from catalog.meta.settings import Effect

Document = dict[str, Any]
Within = dict[tuple[str, str, str], dict[str, float]]  # (method, setting, cluster) to the effect under each condition


def moderators(lines: Sequence[Line], by_stage: Mapping[Effect, Sequence[Stage]]) -> Document:
    """By effect: slope for each doubling of the harmful share, each condition minus the default, stages."""
    ratios = {line.condition: line.ratio for line in lines}
    graded = {name: ratio for name, ratio in ratios.items() if name == DEFAULT or name.startswith("ratio-")}
    made: Document = {}
    for effect in EFFECTS:
        within = _within(lines, effect)
        others = sorted({name for known in within.values() for name in known} - {DEFAULT})
        contrasts = [(name, _difference(within, name)) for name in others]
        made[effect] = {
            "per_doubling_of_ratio": _over_bases(_slopes(within, graded)),
            "conditions": [{"condition": name, **_over_bases(found)} for name, found in contrasts if found],
            "stage": _stage(by_stage[effect]),
        }
    return made


def _within(lines: Sequence[Line], effect: Effect) -> Within:
    found: Within = defaultdict(dict)
    for line in lines:
        if one := line.effects.get(effect):
            for cluster, y in zip(one.clusters, one.y.tolist(), strict=True):
                found[line.method, line.setting, cluster][line.condition] = y
    return found


def _difference(within: Within, condition: str) -> list[tuple[str, str, float]]:
    return [
        (method, cluster, known[condition] - known[DEFAULT])
        for (method, _, cluster), known in within.items()
        if condition in known and DEFAULT in known
    ]


def _slopes(within: Within, ratios: Mapping[str, float]) -> list[tuple[str, str, float]]:
    """Least-squares slope on log2 of the share, inside each defense and base with two shares or more."""
    found = []
    for (method, _, cluster), known in within.items():
        points = [(np.log2(ratio), known[name]) for name, ratio in ratios.items() if name in known]
        if len(points) > 1:
            x, y = np.array(points).T
            x -= x.mean()
            found.append((method, cluster, float(x @ y / (x @ x))))
    return found


def _over_bases(found: Sequence[tuple[str, str, float]]) -> Document:
    """Mean over bases of the mean over defenses, with a t interval over bases."""
    if not found:
        return {"estimate": None, "ci_low": None, "ci_high": None, "p": None, "clusters": 0, "defenses": 0, "notes": []}
    values = np.array([value for *_, value in found])
    clusters = [cluster for _, cluster, _ in found]
    one = means_t(values, np.ones(len(values)), clusters)
    note = claim_note(len(set(clusters)))
    return {
        "estimate": one.estimate,
        "ci_low": bounded(one.low),
        "ci_high": bounded(one.high),
        "p": one.p,
        "clusters": len(set(clusters)),
        "defenses": len({method for method, *_ in found}),
        "notes": [note] if note else [],
    }


def _stage(found: Sequence[Stage]) -> Document | None:
    """Defenses regressed on their stage, Knapp-Hartung; None where stages cannot be told apart from single defenses."""
    rows = [(stage.name, one) for stage in found for one in stage.own]
    names = [stage.name for stage in found]
    if len(names) < 2 or len(rows) <= len(names):
        return None
    y, v = (np.array(values) for values in zip(*((one.estimate, one.se**2) for _, one in rows), strict=True))
    X = np.column_stack([np.ones(len(rows)), *([float(of == name) for of, _ in rows] for name in names[1:])])
    columns = ["intercept", *names[1:]]
    if dependent(X, columns):
        return None
    one = regress(y, v, X, columns)
    return {
        "reference": names[0],
        "coefficients": [
            {"stage": c.name, "estimate": c.estimate, "ci_low": c.low, "ci_high": c.high, "p": c.p}
            for c in one.coefficients[1:]
        ],
        "f": one.qm,
        "f_df": [one.qm_df, one.df],
        "p": one.qm_p,
        "defenses": len(rows),
        "notes": list(one.notes),
    }
