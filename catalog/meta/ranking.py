"""Ranks of treatments in a network, with how sure they are.

A P-score (Rücker & Schwarzer 2015) is the mean certainty that a treatment beats the others. It is a function of
estimates and standard errors and no test, so ranks come with intervals and with the probability of being best.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from catalog.meta.network import Network, Study, Tau2, components, network

Better = Literal["smaller", "larger"]
DRAWS = 10_000
SEED = 2026


@dataclass(frozen=True)
class Rank:
    """Rank 1 is best; median and 95 % limits of the rank, and the share of draws in which it is best."""

    median: float
    low: float
    high: float
    best: float


@dataclass(frozen=True)
class LeftOut:
    """The ranking without one cluster: P-scores and ranks of the treatments that remain comparable.

    When the rest falls into parts, only the part of the reference is ranked; `missing` are the treatments gone.
    """

    cluster: str
    studies: int
    tau2: float
    p_scores: dict[str, float]
    ranks: dict[str, float]
    missing: tuple[str, ...]


def p_scores(found: Network, better: Better) -> dict[str, float]:
    """Mean over the others of Φ(±difference / se); their mean over treatments is always one half."""
    sign = -1.0 if better == "smaller" else 1.0
    se = found.se + np.eye(len(found.treatments))
    certain = norm.cdf(sign * found.estimate / se)
    np.fill_diagonal(certain, 0.0)
    shares = certain.sum(axis=1) / (len(found.treatments) - 1)
    return dict(zip(found.treatments, map(float, shares), strict=True))


def ranks(found: Network, better: Better, draws: int = DRAWS, seed: int = SEED) -> dict[str, Rank]:
    """Rank intervals from a seeded parametric bootstrap of the network estimates, θ ~ N(θ, cov)."""
    order = sorted(range(len(found.treatments)), key=lambda at: found.treatments[at])  # draws ignore the reference
    drawn = _draws(found, order, draws, seed)
    if better == "larger":
        drawn = -drawn
    places = np.empty(drawn.shape, dtype=np.int16)
    np.put_along_axis(places, np.argsort(drawn, axis=1), np.arange(1, len(order) + 1, dtype=np.int16)[None, :], axis=1)
    limits = np.quantile(places, [0.5, 0.025, 0.975], axis=0, method="nearest")
    best = (places == 1).mean(axis=0)
    made = {
        found.treatments[at]: Rank(float(median), float(low), float(high), float(share))
        for at, median, low, high, share in zip(order, *limits, best, strict=True)
    }
    return {name: made[name] for name in found.treatments}


def leader(found: Network, better: Better) -> str:
    """Say who is first by P-score, or that nobody is: only with intervals of first minus every other free of 0.

    The second alone would not do: a treatment further down, of which little is known, may still be better.
    """
    scores = p_scores(found, better)
    first, *others = sorted(scores, key=lambda name: -scores[name])
    at = found.treatments.index(first)
    low, high = (side[at] for side in found.interval())
    for other in others:
        to = found.treatments.index(other)
        if low[to] <= 0 <= high[to]:
            return f"no winner: the interval of {first} (highest P-score) minus {other} includes 0"
    return f"{first} ranks first: the interval of its difference from each other treatment excludes 0"


def without_clusters(studies: Sequence[Study], reference: str, method: Tau2, better: Better) -> list[LeftOut]:
    """Rank again without each cluster in turn, in alphabetical order."""
    names = sorted({study.cluster for study in studies})
    return [_without(name, studies, reference, method, better) for name in names]


def first_places(left: Sequence[LeftOut]) -> str | None:
    """Say that first place hangs on a cluster; None when it stays where it is whichever is left out."""
    first = {max(one.p_scores, key=lambda name: one.p_scores[name]) for one in left if one.p_scores}
    if len(first) < 2:
        return None
    return f"first place depends on the clusters: without one of them it goes to {', '.join(sorted(first))}"


def _without(cluster: str, studies: Sequence[Study], reference: str, method: Tau2, better: Better) -> LeftOut:
    everything = {name for study in studies for name in study.treatments}
    rest = [study for study in studies if study.cluster != cluster]
    part = next((part for part in components(rest) if reference in part), ())
    kept = [study for study in rest if study.treatments[0] in part]
    missing = tuple(sorted(everything.difference(part)))
    if not kept:
        return LeftOut(cluster, 0, float("nan"), {}, {}, missing)
    found = network(kept, reference, method)
    scores = p_scores(found, better)
    places = rankdata([-scores[name] for name in found.treatments])
    return LeftOut(
        cluster=cluster,
        studies=len(kept),
        tau2=found.tau2,
        p_scores=scores,
        ranks=dict(zip(found.treatments, map(float, places), strict=True)),
        missing=missing,
    )


def _draws(found: Network, order: Sequence[int], draws: int, seed: int) -> NDArray[np.float64]:
    """Draws of the estimates relative to their mean, whose covariance is the same whichever the reference."""
    n = len(order)
    centre = np.eye(n) - 1 / n
    covariance = centre @ found.covariance[np.ix_(order, order)] @ centre
    values, vectors = np.linalg.eigh(covariance)
    # symmetric root: unlike a Cholesky factor it does not depend on the order or signs of eigenvectors
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    noise = np.random.default_rng(seed).standard_normal((draws, n))
    theta = found.theta[order]
    return np.asarray(theta - theta.mean() + noise @ root)
