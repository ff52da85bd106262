"""Turn outcomes by prompt and seed into a value with its 95 % interval.

Prompts and seeds are crossed: every seed answers the same prompts. A binomial interval over all
answers would treat them as independent and come out far too narrow, so both sources of variation
are estimated from the two-way table of prompts and seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

Table = NDArray[np.float64]
LEVEL = 0.95


class Replicate(NamedTuple):
    """One base model: a seed's, by the digest of its weights. On another kind of processor a seed gives another one."""

    seed: int
    base: str = ""

    def __str__(self) -> str:
        return f"base {self.seed}" + (f" ({self.base[:6]})" if self.base else "")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its interval, and how much was measured to get it.

    value, low, high and se share one unit (a proportion, or the unit of the quantity). prompts is 0 for
    quantities that are not counted over prompts; dropped counts replicates of a method without a twin.
    low and high are NaN when one seed gives no interval.
    """

    value: float
    low: float
    high: float
    se: float
    df: float
    prompts: int
    seeds: int
    dropped: int = 0


def arm(outcomes: Mapping[Replicate, str]) -> Estimate:
    """Estimate the proportion of one arm from its outcome strings ("0110…", one per seed).

    A Wilson interval with effective sample size p(1-p)/Var and a t quantile, as Korn & Graubard (1998) do
    with Clopper-Pearson. The effective size is never taken larger than the number of answers.
    """
    marks = table(outcomes)
    prompts, seeds = marks.shape
    value = float(marks.mean())
    variance, df = two_way(marks) if seeds > 1 else (value * (1 - value) / prompts, math.inf)
    return _proportion(value, variance, df, prompts, seeds)


def counts(successes: Sequence[int], prompts: int) -> Estimate:
    """Estimate a proportion when only the count of each seed is known, not which prompts.

    The variance is that between seeds plus the binomial one over prompts; the second is at least what
    the prompts contribute, so the interval errs on the wide side.
    """
    shares = np.array(successes, dtype=np.float64) / prompts
    value, seeds = float(shares.mean()), len(shares)
    between = float(shares.var(ddof=1)) / seeds if seeds > 1 else 0.0
    variance = between + value * (1 - value) / prompts
    df = (seeds - 1) * (variance / between) ** 2 if between > 0 else math.inf
    return _proportion(value, variance, df, prompts, seeds)


def difference(method: Mapping[Replicate, str], twin: Mapping[Replicate, str]) -> Estimate:
    """Estimate method minus twin, paired by prompt and seed.

    Replicates in one arm only drop out; those of the method are counted. Raises ValueError when none is shared.
    """
    shared = sorted(method.keys() & twin.keys())
    if not shared:
        raise ValueError(f"no shared seed: {sorted(method)} against {sorted(twin)}")
    ours, theirs = (table({seed: side[seed] for seed in shared}) for side in (method, twin))
    if ours.shape != theirs.shape:
        raise ValueError(f"arms of {ours.shape[0]} and {theirs.shape[0]} prompts cannot be paired")
    gaps = ours - theirs
    prompts, seeds = gaps.shape
    variance, df = two_way(gaps) if seeds > 1 else (float(gaps.var()) / prompts, math.inf)
    low, high = newcombe(float(ours.mean()), float(theirs.mean()), prompts)
    value = float(gaps.mean())
    if variance > 0:
        reach = _quantile(df) * math.sqrt(variance)
        low, high = max(-1.0, value - reach), min(1.0, value + reach)
    dropped = len(method.keys() - twin.keys())
    return Estimate(
        value=value,
        low=low,
        high=high,
        se=math.sqrt(variance),
        df=df,
        prompts=prompts,
        seeds=seeds,
        dropped=dropped,
    )


def over_seeds(values: Sequence[float]) -> Estimate:
    """Estimate the mean of one number per seed with a t interval over seeds (none for a single seed)."""
    sample = np.array(values, dtype=np.float64)
    value, seeds = float(sample.mean()), len(sample)
    se = float(sample.std(ddof=1)) / math.sqrt(seeds) if seeds > 1 else math.nan
    reach = _quantile(seeds - 1) * se if seeds > 1 else math.nan
    return Estimate(value=value, low=value - reach, high=value + reach, se=se, df=seeds - 1, prompts=0, seeds=seeds)


def two_way(cells: Table) -> tuple[float, float]:
    """Return variance and Satterthwaite degrees of freedom of the mean of a prompts × seeds table.

    Var = (MS_prompt + MS_seed - MS_rest) / (n S); where a component would be negative the larger of
    MS_prompt and MS_seed stands alone. Needs at least two prompts and two seeds.
    """
    prompts, seeds = cells.shape
    ms_prompt, ms_seed, ms_rest = mean_squares(cells)
    answers = prompts * seeds
    if ms_prompt < ms_rest or ms_seed < ms_rest:
        larger, df = max((ms_prompt, float(prompts - 1)), (ms_seed, float(seeds - 1)))
        return larger / answers, df
    total = ms_prompt + ms_seed - ms_rest
    spread = ms_prompt**2 / (prompts - 1) + ms_seed**2 / (seeds - 1) + ms_rest**2 / ((prompts - 1) * (seeds - 1))
    return total / answers, total**2 / spread if spread > 0 else math.inf


def table(outcomes: Mapping[Replicate, str]) -> Table:
    """Lay outcome strings out as prompts × seeds, seeds in ascending order."""
    lengths = {len(string) for string in outcomes.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"seeds {sorted(outcomes)} have outcome strings of lengths {sorted(lengths)}")
    marks = np.frombuffer("".join(outcomes[seed] for seed in sorted(outcomes)).encode("ascii"), dtype=np.uint8)
    return np.asarray((marks == ord("1")).reshape(len(outcomes), -1).T, dtype=np.float64)


def crossed(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariance of the means of several tables (tables × prompts × seeds) over the same prompts and seeds.

    The sum of what prompts and what seeds contribute. What is left of single cells is in both, so it errs on the wide
    side, and is always a covariance, which differences of mean squares need not be.
    """
    centred = tables - tables.mean(axis=(1, 2), keepdims=True)
    parts = [centred.mean(axis=axis) for axis in (2, 1)]
    used = [part / math.sqrt(part.shape[1] * (part.shape[1] - 1)) for part in parts if part.shape[1] > 1]
    return np.asarray(sum(part @ part.T for part in used))


def mean_squares(cells: Table) -> tuple[float, float, float]:
    """Return the mean squares of prompts, of seeds and of the rest; needs at least two prompts and two seeds."""
    prompts, seeds = cells.shape
    rows, columns, mean = cells.mean(axis=1), cells.mean(axis=0), cells.mean()
    rest = cells - rows[:, None] - columns[None, :] + mean
    ms_prompt = seeds * float(((rows - mean) ** 2).sum()) / (prompts - 1)
    ms_seed = prompts * float(((columns - mean) ** 2).sum()) / (seeds - 1)
    return ms_prompt, ms_seed, float((rest**2).sum()) / ((prompts - 1) * (seeds - 1))


def wilson(value: float, size: float, quantile: float) -> tuple[float, float]:
    """Return the score interval of Wilson (1927) for a proportion out of `size` (may be fractional)."""
    shrink = 1 + quantile**2 / size
    centre = (value + quantile**2 / (2 * size)) / shrink
    reach = quantile / shrink * math.sqrt(value * (1 - value) / size + quantile**2 / (4 * size**2))
    return max(0.0, min(value, centre - reach)), min(1.0, max(value, centre + reach))


def newcombe(method: float, twin: float, prompts: int, twin_prompts: int | None = None) -> tuple[float, float]:
    """Return the hybrid score interval (Newcombe 1998, method 10) of a difference of two proportions.

    Each is out of `prompts`, unless the second has a number of its own.
    """
    quantile = _quantile(math.inf)
    low, high = wilson(method, prompts, quantile)
    twin_low, twin_high = wilson(twin, prompts if twin_prompts is None else twin_prompts, quantile)
    gap = method - twin
    return gap - math.hypot(method - low, twin_high - twin), gap + math.hypot(high - method, twin - twin_low)


def size(value: float, se: float, prompts: int, seeds: int) -> float:
    """Effective number of answers behind a proportion: p(1-p)/se², at most all of them; the prompts when se is 0."""
    return min(value * (1 - value) / se**2, float(prompts * seeds)) if se > 0 else float(prompts)


def _proportion(value: float, variance: float, df: float, prompts: int, seeds: int) -> Estimate:
    se = math.sqrt(variance)
    low, high = wilson(value, size(value, se, prompts, seeds), _quantile(df if variance > 0 else math.inf))
    return Estimate(value=value, low=low, high=high, se=se, df=df, prompts=prompts, seeds=seeds)


def _quantile(df: float) -> float:
    tail = 0.5 + LEVEL / 2
    return float(ndtri(tail)) if math.isinf(df) else float(stdtrit(df, tail))
