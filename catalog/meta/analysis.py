"""One pooled analysis: effects with what is known of them, pooled by the model that was asked for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from catalog.meta.clusters import FEWEST, aggregate, claim_note
from catalog.meta.heterogeneity import Tau2Method, heterogeneity, tau2
from catalog.meta.multilevel import robust_interval, three_level
from catalog.meta.pool import Interval, Pooled, Prediction, pool, quantile
from catalog.meta.robust import cr2
from catalog.meta.sizes import Counts, Measure
from catalog.meta.stratified import mantel_haenszel, peto
from catalog.meta.weighted import Vector

Model = Literal["random", "common", "mh", "peto", "clusters", "three-level"]
Confidence = Literal["z", "hk", "hk-guarded", "cr2"]


class ChoiceError(ValueError):
    """Options that do not fit together, or do not fit the data."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Effects to pool. `df` are the degrees of freedom of the sampling variances, infinite when taken as known.

    `measure` is GEN for effects of a scale that was not named. `clusters` and `levels` name the base model or paper,
    and the setting, of each effect. `sizes` says what each effect rests on, for a figure. `empty_arms` is the share of
    arms without an event, where effects come from counts.
    """

    labels: Sequence[str]
    yi: Vector
    vi: Vector
    measure: Measure | Literal["GEN"] = "GEN"
    counts: Counts | None = None
    clusters: Sequence[str] | None = None
    levels: Sequence[str] | None = None
    df: float = math.inf
    excluded: int = 0
    notes: tuple[str, ...] = ()
    sizes: Sequence[str] | None = None
    empty_arms: float = 0.0

    def at(self, places: NDArray[np.intp]) -> "Data":
        """The effects at these places."""

        def kept(names: Sequence[str] | None) -> Sequence[str] | None:
            return None if names is None else [names[place] for place in places]

        return replace(
            self,
            labels=[self.labels[place] for place in places],
            yi=self.yi[places],
            vi=self.vi[places],
            counts=None if self.counts is None else self.counts.where(np.isin(np.arange(len(self.yi)), places)),
            clusters=kept(self.clusters),
            levels=kept(self.levels),
            sizes=kept(self.sizes),
        )


@dataclass(frozen=True, kw_only=True)
class Choices:
    """How to pool."""

    model: Model = "random"
    tau2: Tau2Method = "REML"
    ci: Confidence = "hk"
    pi: Prediction = "hts"
    level: float = 0.95


def choose(
    data: Data, model: Model | None, tau2: Tau2Method, ci: Confidence | None, pi: Prediction, level: float
) -> Choices:
    """Fill in what was left open, and refuse what does not fit. ChoiceError names the option.

    Clusters alone ask for averages by cluster, clusters with levels for the three-level model (design, section 3).
    """
    nested = data.clusters is not None and data.levels is not None
    model = model or ("three-level" if nested else "clusters" if data.clusters is not None else "random")
    default: Confidence = "cr2" if model == "three-level" else "hk" if model in ("random", "clusters") else "z"
    ci = ci or default
    if data.levels is not None and data.clusters is None:
        raise ChoiceError("--level: name the clusters the levels are in with --cluster")
    if model == "clusters" and data.clusters is None:
        raise ChoiceError("--model clusters: name the column of clusters with --cluster")
    if model == "three-level" and not nested:
        raise ChoiceError("--model three-level: name clusters and settings with --cluster and --level")
    if model in ("mh", "peto") and data.counts is None:
        raise ChoiceError(f"--model {model}: pools counts; give --measure, --events and --totals")
    if (model == "mh" and data.measure == "AS") or (model == "peto" and data.measure != "OR"):
        raise ChoiceError(f"--model {model}: not for --measure {data.measure}; use {'OR' if model == 'peto' else 'RD'}")
    fitting = {"mh": ["z"], "peto": ["z"], "three-level": ["z", "cr2"], "clusters": ["z", "hk", "hk-guarded"]}
    if ci not in fitting.get(model, [ci]):
        raise ChoiceError(f"--ci {ci}: not with --model {model}, which has {' and '.join(fitting[model])}")
    if ci == "cr2" and data.clusters is None:
        raise ChoiceError("--ci cr2: name the column of clusters with --cluster")
    return Choices(model=model, tau2=tau2, ci=ci, pi=pi, level=level)


def pooled(data: Data, choices: Choices, *, profile: bool = True) -> Pooled:
    """Pool by the chosen model. ChoiceError when the data cannot carry it; `profile` asks for the interval of tau²."""
    try:
        if choices.model == "mh":
            return mantel_haenszel(_measure(data), _counts(data), choices.level)
        if choices.model == "peto":
            return peto(_counts(data), choices.level)
    except ValueError as error:
        raise ChoiceError(f"--model {choices.model}: {error}") from None
    if choices.model == "clusters":
        return _by_cluster(data, choices, profile=profile)
    if choices.model == "three-level":
        return _three_level(data, choices)
    interval: Interval = "z" if choices.ci == "cr2" else choices.ci
    found = pool(
        data.yi,
        data.vi,
        common=choices.model == "common",
        tau2_method=choices.tau2,
        interval=interval,
        prediction=choices.pi,
        level=choices.level,
        profile=profile,
    )
    return _robust(data, found, choices.level) if choices.ci == "cr2" else found


def units(data: Data, choices: Choices) -> tuple[list[str], list[NDArray[np.intp]]]:
    """What is left out at a time, with its places: clusters where they are the unit of inference, else effects."""
    if data.clusters is None or choices.model not in ("clusters", "three-level"):
        return list(data.labels), [np.array([place]) for place in range(len(data.yi))]
    names = list(dict.fromkeys(data.clusters))
    codes = np.array([names.index(name) for name in data.clusters])
    return names, [np.flatnonzero(codes == number) for number in range(len(names))]


def clusters_of(data: Data) -> int | None:
    """How many clusters there are; None when they were not named."""
    return None if data.clusters is None else len(set(data.clusters))


def _by_cluster(data: Data, choices: Choices, *, profile: bool) -> Pooled:
    """Average inside clusters, pool the averages; with fewer than three, the mean of this fixed set."""
    names, y, v = aggregate(data.yi, data.vi, _clusters(data))
    if len(names) < FEWEST:
        return _fixed_set(data, choices)
    interval: Interval = "hk" if choices.ci == "cr2" else choices.ci
    found = pool(
        y, v, tau2_method=choices.tau2, interval=interval, prediction=choices.pi, level=choices.level, profile=profile
    )
    weight = dict(zip(names, (found.weights * v).tolist(), strict=True))
    inside = np.array([weight[name] for name in _clusters(data)]) / data.vi
    notes = (
        []
        if len(names) == len(data.yi)
        else [f"{len(data.yi)} effects averaged inside {len(names)} clusters, then pooled"]
    )
    return replace(found, model="clusters", weights=inside, notes=(*notes, *found.notes))


def _fixed_set(data: Data, choices: Choices) -> Pooled:
    found = pool(data.yi, data.vi, common=True, interval="z", level=choices.level)
    reach = quantile(data.df, choices.level) * found.se
    note = claim_note(len(set(_clusters(data)))) or ""
    X = np.ones((len(data.yi), 1))
    between = tau2(choices.tau2, data.yi, data.vi, X)
    return replace(
        found,
        model="clusters",
        heterogeneity=heterogeneity(data.yi, data.vi, X, between, choices.level),
        df=data.df,
        low=found.estimate - reach,
        high=found.estimate + reach,
        notes=(
            note,
            "the interval holds sampling error only, that of the mean over these settings; tau2 is between them",
            *found.notes,
        ),
    )


def _three_level(data: Data, choices: Choices) -> Pooled:
    clusters = _clusters(data)
    fitted = three_level(data.yi, data.vi, clusters, data.levels or data.labels)
    number = len(set(clusters))
    between = fitted.sigma2_cluster + fitted.sigma2_level
    model_se = math.sqrt(float(fitted.covariance[0, 0]))
    estimate, se, df = float(fitted.coefficients[0]), model_se, math.inf
    reach = quantile(df, choices.level) * se
    low, high, notes = estimate - reach, estimate + reach, fitted.notes
    if choices.ci == "cr2":
        robust, more = robust_interval(fitted, level=choices.level)
        estimate, se, df, low, high = robust.estimate, robust.se, robust.df, robust.low, robust.high
        notes = (*notes, *more)
    pi_low = pi_high = math.nan
    if choices.pi != "none" and number >= FEWEST:
        spread = quantile(number - 2.0, choices.level) * math.hypot(math.sqrt(between), model_se)
        pi_low, pi_high = estimate - spread, estimate + spread
    component = (
        f"tau2 is the sum of {fitted.sigma2_cluster:.6g} between clusters"
        f" and {fitted.sigma2_level:.6g} between settings inside them"
    )
    weights = _three_level_weights(data, fitted.sigma2_cluster, fitted.sigma2_level)
    return Pooled(
        model="three-level",
        estimate=estimate,
        se=se,
        low=low,
        high=high,
        df=df,
        pi_low=pi_low,
        pi_high=pi_high,
        heterogeneity=heterogeneity(data.yi, data.vi, np.ones((len(data.yi), 1)), between, interval=False),
        weights=weights / weights.sum(),
        notes=(*notes, component),
    )


def _three_level_weights(data: Data, between_clusters: float, between_levels: float) -> Vector:
    """V⁻¹1: what each effect adds to the pooled one, before they are made to sum to 1."""
    clusters, levels = np.array(_clusters(data)), np.array(data.levels)
    weights = np.empty(len(data.yi))
    for name in dict.fromkeys(clusters.tolist()):
        rows = np.flatnonzero(clusters == name)
        same = levels[rows][:, None] == levels[rows][None, :]
        variance = np.diag(data.vi[rows]) + between_levels * same + between_clusters
        weights[rows] = np.linalg.solve(variance, np.ones(len(rows)))
    return weights


def _robust(data: Data, found: Pooled, level: float) -> Pooled:
    """The same estimate with the CR2 interval over clusters."""
    clusters = np.array(_clusters(data))
    parts = [np.flatnonzero(clusters == name) for name in dict.fromkeys(clusters.tolist())]
    if len(parts) < 2:
        raise ChoiceError("--ci cr2: needs at least 2 clusters")
    between = found.heterogeneity.tau2
    covariance, freedom = cr2(
        data.yi, np.ones((len(data.yi), 1)), [np.diag(data.vi[p] + between) for p in parts], parts
    )
    se, df = math.sqrt(float(covariance[0, 0])), float(freedom[0])
    reach = quantile(df, level) * se
    notes = (*found.notes, *filter(None, [claim_note(len(parts))]))
    return replace(found, se=se, df=df, low=found.estimate - reach, high=found.estimate + reach, notes=notes)


def _clusters(data: Data) -> Sequence[str]:
    if data.clusters is None:
        raise ChoiceError("name the column of clusters with --cluster")
    return data.clusters


def _counts(data: Data) -> Counts:
    if data.counts is None:
        raise ValueError("pools counts; give --measure, --events and --totals")
    return data.counts


def _measure(data: Data) -> Measure:
    if data.measure == "GEN":
        raise ValueError("pools counts; give --measure, --events and --totals")
    return data.measure
