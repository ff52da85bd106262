"""The worst case over conditions, corrected for having been looked for.

The largest of several estimates is too large on average, because noise helps to be the largest. Limits of the true
maximum need no correction above: it is below its own upper limit, hence below the largest one (Hsu 1981). Below,
every condition could have been picked, so the quantile is that of the largest error (max-t; Hothorn, Bretz & Westfall
2008). The value takes the median of the largest error away, among the conditions that the data do not rule out as the
worst (the half-median-unbiased estimator of Chernozhukov, Lee & Rosen 2013, Econometrica 81, sections 2 and 3).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catalog.meta import effects
from catalog.meta.effects import Estimate, Replicate
from catalog.meta.pool import quantile

Matrix = NDArray[np.float64]
Vector = NDArray[np.float64]
DRAWS = 20_000
SEED = 2026


@dataclass(frozen=True, kw_only=True)
class Worst:
    """The maximum over conditions, in the unit of the estimates.

    `naive` is the largest estimate with its own interval, value, low and high are corrected. `plausible` are the
    conditions that may be the worst.
    """

    condition: str
    naive: Estimate
    value: float
    low: float
    high: float
    conditions: tuple[str, ...]
    plausible: tuple[str, ...]


def of_arms(outcomes: Mapping[str, Mapping[Replicate, str]]) -> Worst:
    """The largest proportion over conditions, each with outcome strings by seed; limits are Wilson's."""
    tables = {name: effects.table(strings) for name, strings in outcomes.items()}
    known = {name: effects.arm(strings) for name, strings in outcomes.items()}
    return _worst(known, _correlation(outcomes, tables), arms=True)


def of_differences(pairs: Mapping[str, tuple[Mapping[Replicate, str], Mapping[Replicate, str]]]) -> Worst:
    """The largest paired difference over conditions, each with outcome strings of the method and its twin."""
    shared = {name: sorted(ours.keys() & theirs.keys()) for name, (ours, theirs) in pairs.items()}
    seeds = {name: dict.fromkeys(shared[name], "") for name in pairs}
    tables = {
        name: effects.table({s: ours[s] for s in shared[name]}) - effects.table({s: theirs[s] for s in shared[name]})
        for name, (ours, theirs) in pairs.items()
    }
    known = {name: effects.difference(*both) for name, both in pairs.items()}
    return _worst(known, _correlation(seeds, tables), arms=False)


def largest_errors(correlation: Matrix, df: float, shares: Sequence[float]) -> list[float]:
    """Quantiles of the largest of t-distributed errors with this correlation, from seeded draws."""
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    draw = np.random.default_rng(SEED)
    errors = draw.standard_normal((DRAWS, len(correlation))) @ root
    if not math.isinf(df):
        errors *= np.sqrt(df / draw.chisquare(df, DRAWS))[:, None]
    return [float(one) for one in np.quantile(errors.max(axis=1), shares)]


def _worst(known: Mapping[str, Estimate], correlation: Matrix, *, arms: bool) -> Worst:
    names = tuple(known)
    values, errors = (np.array([getattr(known[name], field) for name in names]) for field in ("value", "se"))
    first = max(names, key=lambda name: known[name].value)
    df = min(known[name].df for name in names)
    tail = 0.5 - effects.LEVEL / 2
    (deepest,) = largest_errors(correlation, df, [1 - tail])
    low = max(_lower(known[name], max(deepest, quantile(df, effects.LEVEL)), arms=arms) for name in names)
    plausible = _plausible(values, errors, correlation, known[first])
    among = correlation[np.ix_(plausible, plausible)]
    (middle,) = largest_errors(among, df, [0.5]) if len(plausible) > 1 else (0.0,)
    value = float((values - middle * errors)[plausible].max())
    high = max(known[name].high for name in names)
    return Worst(
        condition=first,
        naive=known[first],
        value=min(max(value, low), high),
        low=low,
        high=high,
        conditions=names,
        plausible=tuple(names[place] for place in plausible),
    )


def _plausible(values: Vector, errors: Vector, correlation: Matrix, largest: Estimate) -> NDArray[np.intp]:
    """Conditions within twice the critical distance of the best lower limit, at 1 - 0.1 / log(answers)."""
    answers = max(3, largest.prompts * largest.seeds)
    (critical,) = largest_errors(correlation, largest.df, [1 - 0.1 / math.log(answers)])
    bound = float((values - critical * errors).max())
    return np.flatnonzero(values >= bound - 2 * critical * errors)


def _lower(estimate: Estimate, factor: float, *, arms: bool) -> float:
    if arms:
        answers = effects.size(estimate.value, estimate.se, estimate.prompts, estimate.seeds)
        return effects.wilson(estimate.value, answers, factor)[0]
    return estimate.value - factor * estimate.se if estimate.se > 0 else estimate.low


def _correlation(seeds: Mapping[str, Mapping[Replicate, str]], tables: Mapping[str, Matrix]) -> Matrix:
    """Of the means over the prompts and seeds that conditions share; independent where they share too little."""
    m, common = len(tables), sorted(set.intersection(*(set(strings) for strings in seeds.values())))
    if len({len(table) for table in tables.values()}) > 1 or len(common) < 2:
        return np.eye(m)
    columns = {name: [sorted(seeds[name]).index(seed) for seed in common] for name in tables}
    covariance = effects.crossed(np.array([table[:, columns[name]] for name, table in tables.items()]))
    spread = np.sqrt(np.diag(covariance))
    fixed = spread == 0
    made = covariance / np.outer(spread + fixed, spread + fixed)
    made[fixed, fixed] = 1.0
    return np.asarray(made)
