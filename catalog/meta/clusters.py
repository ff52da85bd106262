"""Effects that come in clusters (base models, papers): average inside, infer across, and know when not to.

A cluster is the unit a conclusion generalises over; settings inside one share its quirks (design, section 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catalog.meta.pool import quantile, two_sided

Vector = NDArray[np.float64]
FEWEST = 3  # clusters below which nothing is claimed beyond them (design, section 0)


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, in the unit of the effects; NaN where there is none."""

    estimate: float
    se: float
    df: float
    low: float
    high: float
    p: float


def aggregate(yi: Vector, vi: Vector, cluster: Sequence[str]) -> tuple[list[str], Vector, Vector]:
    """Average the effects of each cluster with weights 1/vi; clusters in order of first appearance.

    The variance of an average is 1/Σ(1/vi). What settings of a cluster share beyond their sampling error is not
    in it: pooling the averages with REML and Hartung-Knapp estimates that from how the clusters differ.
    """
    names = list(dict.fromkeys(cluster))
    place = {name: number for number, name in enumerate(names)}
    codes = np.array([place[name] for name in cluster])
    weight = np.bincount(codes, weights=1 / vi)
    return names, np.bincount(codes, weights=yi / vi) / weight, 1 / weight


def means_t(yi: Vector, vi: Vector, cluster: Sequence[str], level: float = 0.95) -> Interval:
    """Estimate the unweighted mean of cluster averages with a t interval over clusters (k - 1 degrees of freedom)."""
    averages = aggregate(yi, vi, cluster)[1]
    k = len(averages)
    estimate = float(averages.mean())
    se = float(averages.std(ddof=1)) / k**0.5 if k > 1 else float("nan")
    return interval(estimate, se, k - 1, level)


def interval(estimate: float, se: float, df: float, level: float = 0.95) -> Interval:
    """Return estimate ± t_df · se with its two-sided p-value; NaN limits without degrees of freedom."""
    if not (df > 0 and se > 0):
        return Interval(estimate, se, df, float("nan"), float("nan"), float("nan"))
    reach = quantile(df, level) * se
    return Interval(estimate, se, df, estimate - reach, estimate + reach, two_sided(estimate / se, df))


def claim_note(clusters: int) -> str | None:
    """Say in words that so few clusters carry no general claim; None when there are enough."""
    if clusters >= FEWEST:
        return None
    named = "one cluster" if clusters == 1 else f"{clusters} clusters"
    return (
        f"no general claim: {named}, fewer than {FEWEST}; the numbers describe this fixed set and say nothing about "
        "clusters outside it"
    )
