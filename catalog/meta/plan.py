"""How many prompts and seeds a run needs: half-widths of intervals, and the power of tests, before anything is run.

Differences of one prompt and seed are modelled as mean + prompt + seed + rest with variances s2_a, s2_b and s2_e, so
that a mean over n prompts and S seeds has variance s2_a/n + s2_b/S + s2_e/(nS) (design, sections 2 and 8). Effects,
half-widths and standard deviations are proportions.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.integrate import quad
from scipy.special import ndtr
from scipy.stats import chi2, nct, t

from catalog.meta import effects
from catalog.meta.effects import Replicate
from catalog.meta.pool import quantile

LEVEL = 0.95
MOST = 10_000_000  # prompts or seeds beyond which a plan is none


@dataclass(frozen=True)
class Components:
    """Variances of a paired difference between prompts, between seeds, and of the rest."""

    s2_a: float
    s2_b: float
    s2_e: float

    def sd_d(self, prompts: int) -> float:
        """The standard deviation of the mean difference of one seed, prompts fixed."""
        return math.sqrt(self.s2_b + self.s2_e / prompts)


ASSUMED = Components(s2_a=0.10, s2_b=0.02**2, s2_e=0.15)
"""Planning assumptions of the design, to be replaced by estimates of a first run (--from)."""


def prompts_for(p: float, half_width: float) -> int:
    """The fewest prompts for which the Wilson interval of a proportion p is at most this wide on each side."""
    z = quantile(math.inf, LEVEL)

    def reach(n: int) -> float:
        return z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))

    return _fewest(reach, half_width, 1)


def seeds_for(sd_d: float, half_width: float) -> int:
    """The fewest seeds for which the t interval of a paired difference is at most this wide, prompts fixed."""
    return _fewest(lambda s: quantile(s - 1, LEVEL) * sd_d / math.sqrt(s), half_width, 2)


def total(parts: Components, prompts: int, seeds: int) -> tuple[float, float]:
    """Half-width and Satterthwaite degrees of freedom for new prompts and new seeds; needs 2 of each."""
    cells = prompts * seeds
    ms_prompt, ms_seed = parts.s2_e + seeds * parts.s2_a, parts.s2_e + prompts * parts.s2_b
    variance = (ms_prompt + ms_seed - parts.s2_e) / cells
    spread = (
        (ms_prompt / cells) ** 2 / (prompts - 1)
        + (ms_seed / cells) ** 2 / (seeds - 1)
        + (parts.s2_e / cells) ** 2 / ((prompts - 1) * (seeds - 1))
    )
    df = variance**2 / spread if spread > 0 else math.inf
    return quantile(df, LEVEL) * math.sqrt(variance), df


def power(effect: float, sd_d: float, seeds: int, alpha: float = 0.05) -> float:
    """Power of the two-sided paired t test over seeds, by the noncentral t distribution."""
    df, shift = seeds - 1, effect * math.sqrt(seeds) / sd_d
    bound = float(t.ppf(1 - alpha / 2, df))
    return float(nct.sf(bound, df, shift) + nct.cdf(-bound, df, shift))


def power_tost(margin: float, sd_d: float, seeds: int, effect: float = 0.0, alpha: float = 0.05) -> float:
    """Power to show that an effect lies within ± margin, when it is `effect` (Schuirmann 1987).

    The probability that both one-sided t tests reject, by integration over the estimated standard deviation.
    """
    df, se = seeds - 1, sd_d / math.sqrt(seeds)
    bound = float(t.ppf(1 - alpha, df))
    widest = margin / (bound * se)  # ratio of estimated to true sd at which the 1 - 2 alpha interval fills the margins

    def density(ratio: float) -> float:
        reach = margin - bound * ratio * se
        inside = float(ndtr((reach - effect) / se) - ndtr((-reach - effect) / se))
        return inside * 2 * df * ratio * float(chi2.pdf(df * ratio**2, df))

    top = min(widest, float(np.sqrt(chi2.isf(1e-15, df) / df)))
    found, _ = quad(density, 0, top, epsabs=1e-10, epsrel=1e-9, limit=200)
    return float(found)


def seeds_to_power(effect: float, sd_d: float, wanted: float) -> int:
    """The fewest seeds with which the paired t test has this power."""
    return _fewest(lambda s: -power(effect, sd_d, s), -wanted, 2)


def components(method: Mapping[Replicate, str], twin: Mapping[Replicate, str]) -> tuple[Components, int, int] | None:
    """Estimate the components from outcome strings of two arms by seed, with how many prompts and seeds that rests on.

    Mean squares of the two-way table, negative estimates set to 0; None for fewer than 2 shared seeds or prompts.
    """
    shared = sorted(method.keys() & twin.keys())
    if len(shared) < 2 or len(method[shared[0]]) < 2:
        return None
    sides = [np.array([[mark == "1" for mark in side[s]] for s in shared], dtype=float).T for side in (method, twin)]
    table = sides[0] - sides[1]
    prompts, seeds = table.shape
    ms_prompt, ms_seed, ms_rest = effects.mean_squares(table)
    s2_a, s2_b = max(0.0, (ms_prompt - ms_rest) / seeds), max(0.0, (ms_seed - ms_rest) / prompts)
    return Components(s2_a, s2_b, ms_rest), prompts, seeds


def pooled(found: Sequence[tuple[Components, int]]) -> Components:
    """Average components over settings, weighted by seeds - 1 (`found`: components and seeds)."""
    weights = [seeds - 1 for _, seeds in found]
    parts = [[one.s2_a, one.s2_b, one.s2_e] for one, _ in found]
    return Components(*np.average(parts, axis=0, weights=weights).tolist())


def _fewest(reach: Callable[[int], float], wanted: float, least: int) -> int:
    """The smallest number from `least` on at which a falling quantity is no more than wanted; ValueError for none."""
    high = least
    while reach(high) > wanted:
        high *= 2
        if high > MOST:
            raise ValueError(f"not reached with {MOST} prompts or seeds")
    low = max(least, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if reach(middle) <= wanted else (middle + 1, high)
    return high
