"""A pooled analysis or a meta-regression as one JSON document. Proportions stay proportions; nothing is rounded."""

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from catalog.meta import analysis, sensitivity
from catalog.meta.analysis import ChoiceError, Choices, Data
from catalog.meta.heterogeneity import I2_DEFINITIONS, Heterogeneity, I2Definition
from catalog.meta.pool import Pooled
from catalog.meta.regress import Permutation, Regression
from catalog.meta.sizes import MANY_EMPTY, ZERO_CELLS, Measure

Document = dict[str, Any]

MANY = 200  # units up to which each is left out in turn without being asked
INTERVALS = {"z": "normal", "hk": "Hartung-Knapp", "hk-guarded": "Hartung-Knapp, guarded", "cr2": "CR2, Satterthwaite"}
PREDICTIONS = {
    "hts": "mu ± t(k-2) sqrt(tau2 + se2) with the model's se (Higgins, Thompson & Spiegelhalter 2009)",
    "metafor": "mu ± q sqrt(tau2 + se2) with quantile and se of the confidence interval (metafor 3.8)",
    "none": "none",
}


def pooled(
    data: Data,
    choices: Choices,
    *,
    leave_one_out: bool | None = None,
    cumulative: Sequence[int] | None = None,
    influence: bool = False,
    origin: Document | None = None,
) -> tuple[Document, Pooled]:
    """The document of `hft meta pool`, and what it was made of.

    `leave_one_out` None leaves out each unit when there are at most 200; `cumulative` is an order of the effects.
    """
    found = analysis.pooled(data, choices)
    names, places = analysis.units(data, choices)
    notes = [*data.notes, *empty_arms(data, with_mh=choices.model != "mh"), *found.notes]
    passed = [end for end, beyond in (("-100", found.pi_low < -1), ("100", found.pi_high > 1)) if beyond]
    if data.measure == "RD" and passed:
        ends = " and ".join(passed)
        notes.append(
            f"the prediction interval passes what a risk difference can be: read it as ending at {ends} points"
        )
    if data.clusters is not None and choices.model in ("random", "common", "mh", "peto") and choices.ci != "cr2":
        notes.append("effects share clusters, which this model ignores: its interval is too narrow (--model clusters)")
    if choices.model in ("mh", "peto"):
        notes.append("pooling needs no correction of zero cells; only the effects of single tables, and Q, have it")

    def refit(kept: NDArray[np.intp]) -> Pooled:
        chosen = np.concatenate([places[unit] for unit in kept])
        return analysis.pooled(data.at(np.sort(chosen)), choices, profile=False)

    left: list[tuple[str, Pooled]] = []
    if leave_one_out or (leave_one_out is None and len(names) <= MANY):
        try:
            left = sensitivity.leave_one_out(names, refit)
        except ChoiceError as error:
            notes.append(f"leave-one-out is not possible: {error}")
    elif leave_one_out is None:
        notes.append(f"leave-one-out is left out for more than {MANY} units; ask for it with --leave-one-out")
    made = {
        "measure": data.measure,
        **_body(found, data, choices),
        "notes": notes,
        "rows": [
            {"label": label, "yi": y, "vi": v, "weight": weight}
            for label, y, v, weight in zip(
                data.labels, data.yi.tolist(), data.vi.tolist(), found.weights.tolist(), strict=True
            )
        ],
        "coefficients": [_single("intercept", found)],
        "r2": None,
        "leave_one_out": [_brief(name, one, choices) for name, one in left],
        "method": _method(data, choices, found.heterogeneity) | (origin or {}),
    }
    if cumulative is not None:
        order = list(dict.fromkeys(_unit_of(places, at) for at in cumulative))
        made["cumulative"] = [_brief(*one, choices) for one in sensitivity.cumulative(names, refit, order)]
    if influence:
        if choices.model not in ("random", "common"):
            raise ChoiceError(f"--influence: for --model random or common, not {choices.model}")
        made["influence"] = _influence(data, choices)
    return cast("Document", plain(made)), found


def regression(
    data: Data,
    choices: Choices,
    found: Regression,
    permuted: Permutation | None = None,
    origin: Document | None = None,
) -> Document:
    """The document of `hft meta regress`: the same keys, without a single pooled effect, and with the omnibus test."""
    spread = found.heterogeneity
    alone = dict.fromkeys(("estimate", "se", "ci_low", "ci_high", "pi_low", "pi_high"))
    coefficients = [
        {"name": c.name, "estimate": c.estimate, "se": c.se, "ci_low": c.low, "ci_high": c.high, "p": c.p}
        | ({"p_permutation": permuted.p.get(c.name)} if permuted else {})
        for c in found.coefficients
    ]
    rows = zip(data.labels, data.yi.tolist(), data.vi.tolist(), found.weights.tolist(), strict=True)
    made = {
        "measure": data.measure,
        "model": choices.model,
        **alone,
        **_spread(spread, choices),
        "k": len(data.yi),
        "clusters": analysis.clusters_of(data),
        "k_excluded": data.excluded,
        "notes": [*data.notes, *empty_arms(data, with_mh=False), *found.notes],
        "rows": [{"label": label, "yi": y, "vi": v, "weight": w} for label, y, v, w in rows],
        "coefficients": coefficients,
        "r2": found.r2,
        "leave_one_out": [],
        "qm": found.qm,
        "qm_df": found.qm_df,
        "qm_p": found.qm_p,
        "df": None if math.isinf(found.df) else found.df,
        "method": _method(data, choices, spread) | (origin or {}),
    }
    if permuted:
        made["permutation"] = {"qm_p": permuted.qm_p, "orderings": permuted.orderings, "exact": permuted.exact}
    return cast("Document", plain(made))


def empty_arms(data: Data, *, with_mh: bool) -> list[str]:
    """What to compare log odds ratios with when many arms have no event (design, section 1); with mh if it can be."""
    if data.measure != "OR" or data.empty_arms <= MANY_EMPTY:
        return []
    others = "--model mh and --measure AS, which need" if with_mh else "--measure AS, which needs"
    return [f"{data.empty_arms:.0%} of the arms have no event: compare with {others} no correction"]


def plain(value: Any) -> Any:
    """NaN and infinities become null, because JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def _body(found: Pooled, data: Data, choices: Choices) -> Document:
    return {
        "model": choices.model,
        "estimate": found.estimate,
        "se": found.se,
        "ci_low": found.low,
        "ci_high": found.high,
        "pi_low": found.pi_low,
        "pi_high": found.pi_high,
        **_spread(found.heterogeneity, choices),
        "k": len(data.yi),
        "clusters": analysis.clusters_of(data),
        "k_excluded": data.excluded,
    }


def _spread(spread: Heterogeneity, choices: Choices) -> Document:
    definition = _definition(choices)
    return {
        "tau2": spread.tau2,
        "tau2_ci_low": spread.tau2_low,
        "tau2_ci_high": spread.tau2_high,
        "i2": spread.i2[definition],
        "i2_definition": I2_DEFINITIONS[definition],
        "h2": spread.h2[definition],
        "q": spread.q,
        "q_df": spread.q_df,
        "q_p": spread.q_p,
    }


def _definition(choices: Choices) -> I2Definition:
    return "Q" if choices.model in ("common", "mh", "peto") else "tau2"


def _brief(name: str, found: Pooled, choices: Choices) -> Document:
    """One line of leave-one-out or of a cumulative analysis."""
    spread = found.heterogeneity
    return {
        "label": name,
        "estimate": found.estimate,
        "se": found.se,
        "ci_low": found.low,
        "ci_high": found.high,
        "tau2": spread.tau2,
        "i2": spread.i2[_definition(choices)],
        "q": spread.q,
        "q_p": spread.q_p,
    }


def _single(name: str, found: Pooled) -> Document:
    interval = {"ci_low": found.low, "ci_high": found.high, "p": found.p}
    return {"name": name, "estimate": found.estimate, "se": found.se, **interval}


def _method(data: Data, choices: Choices, spread: Heterogeneity) -> Document:
    """What was done, in the words of the field; both definitions of I² and H² are given."""
    random = choices.model in ("random", "clusters", "three-level")
    return {
        "model": choices.model,
        "tau2": choices.tau2 if random else None,
        "ci": choices.ci,
        "ci_definition": INTERVALS[choices.ci],
        "pi": choices.pi if random else "none",
        "pi_definition": PREDICTIONS[choices.pi if random else "none"],
        "level": choices.level,
        "tau2_interval": "Q-profile (Viechtbauer 2007)",
        "i2": {name: {"value": spread.i2[name], "definition": said} for name, said in I2_DEFINITIONS.items()},
        "h2": dict(spread.h2),
        "zero_cells": ZERO_CELLS[cast("Measure", data.measure)] if data.counts is not None else None,
    }


def _influence(data: Data, choices: Choices) -> list[Document]:
    X = np.ones((len(data.yi), 1))
    common = choices.model == "common"
    try:
        found = sensitivity.influence(data.labels, data.yi, data.vi, X, common=common, tau2_method=choices.tau2)
    except ValueError as error:
        raise ChoiceError(f"--influence: {error}") from None
    return [vars(one) for one in found]


def _unit_of(places: Sequence[NDArray[np.intp]], at: int) -> int:
    return next(unit for unit, inside in enumerate(places) if at in inside)
