"""Everything `hft meta network` says, as one JSON document; proportions and full precision, NaN as null."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np

from catalog.meta.clusters import claim_note
from catalog.meta.document import plain
from catalog.meta.inconsistency import Inconsistency, NetHeat, inconsistency, net_heat
from catalog.meta.network import Matrix, Network, Study, Tau2, components, network
from catalog.meta.network_studies import Scale
from catalog.meta.ranking import (
    DRAWS,
    SEED,
    Better,
    LeftOut,
    Rank,
    first_places,
    leader,
    p_scores,
    ranks,
    without_clusters,
)
from catalog.meta.splitting import NOT_TESTABLE, Split, splits
from catalog.problems import Problem, RefusedError

FIELDS = ("estimate", "se", "ci_low", "ci_high", "pi_low", "pi_high")
UNITS = {"RD": "risk difference, a proportion", "OR": "natural logarithm of the odds ratio", "MD": "mean difference"}


@dataclass(frozen=True, eq=False)
class Analysis:
    """A network with all that is derived from it; `left_out` is None when no clusters were named."""

    scale: Scale
    better: Better
    studies: Sequence[Study]
    found: Network
    p_scores: dict[str, float]
    ranks: dict[str, Rank]
    inconsistency: Inconsistency
    heat: NetHeat | None
    splits: list[Split]
    left_out: list[LeftOut] | None
    notes: list[str]


def analyse(
    studies: Sequence[Study], reference: str, scale: Scale, tau2: Tau2, better: Better, where: str = "the network"
) -> Analysis:
    """Fit, rank and test a network; RefusedError names the components of one that is not connected."""
    parts = components(studies)
    if len(parts) > 1:
        named = "; ".join(f"component {number}: {', '.join(part)}" for number, part in enumerate(parts, 1))
        message = f"the network is disconnected, in {len(parts)} components that no study links: {named}"
        fix = "treatments of different components cannot be compared; give each component as a file of its own"
        raise RefusedError([Problem("network-disconnected", where, "", message, fix)])
    found = network(studies, reference, tau2)
    tested = inconsistency(studies, found)
    clusters = {study.cluster for study in studies}
    left_out = without_clusters(studies, reference, tau2, better) if clusters != {""} else None
    return Analysis(
        scale=scale,
        better=better,
        studies=studies,
        found=found,
        p_scores=p_scores(found, better),
        ranks=ranks(found, better),
        inconsistency=tested,
        heat=net_heat(studies, found, tested.tau2_within) if tested.testable else None,
        splits=splits(studies, found),
        left_out=left_out,
        notes=_notes(studies, found, tested, scale, better, left_out),
    )


def document(analysis: Analysis, notes: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON document; effects[a][b] is a minus b."""
    found = analysis.found
    body = {
        "measure": analysis.scale,
        "model": "common" if found.method == "common" else "random",
        "method": {
            "unit": UNITS[analysis.scale],
            "effects": "effects[a][b] is a minus b; intervals of 95 % by the normal distribution",
            "tau2": found.method,
            "prediction": "t with df of Q minus 1",
            "p_scores": f"{analysis.better} is better",
            "ranks": f"parametric bootstrap, {DRAWS} draws, seed {SEED}",
        },
        "reference": found.treatments[0],
        "treatments": list(found.treatments),
        "k": len(analysis.studies),
        "tau2": found.tau2,
        "q": found.q,
        "q_df": found.df,
        "q_p": analysis.inconsistency.total.p,
        "i2": found.i2,
        "p_scores": analysis.p_scores,
        "ranks": {name: asdict(rank) for name, rank in analysis.ranks.items()},
        "inconsistency": _inconsistency(analysis.inconsistency),
        "net_heat": _heat(analysis.heat),
        "splits": [_split(split) for split in analysis.splits],
        "leave_one_cluster_out": [asdict(left) for left in analysis.left_out or ()],
        "notes": [*notes, *analysis.notes],
    }
    return cast("dict[str, Any]", plain(body)) | {"effects": effects(found)}


def effects(found: Network) -> dict[str, dict[str, dict[str, float | None]]]:
    """All contrasts with confidence and prediction limits, without those of a treatment with itself."""
    tables: list[Matrix] = [found.estimate, found.se, *found.interval(), *found.prediction()]
    columns = [matrix.astype(object) for matrix in tables]
    for column, matrix in zip(columns, tables, strict=True):
        column[np.isnan(matrix)] = None
    return {
        one: {
            other: dict(zip(FIELDS, (column[i, j] for column in columns), strict=True))
            for j, other in enumerate(found.treatments)
            if i != j
        }
        for i, one in enumerate(found.treatments)
    }


def verdict(tested: Inconsistency) -> str:
    """What the test of inconsistency allows to be said; agreement is never proved."""
    if not tested.testable:
        return "not testable"
    return "inconsistent" if tested.between_random.p < 0.05 else "no inconsistency found"


def _inconsistency(tested: Inconsistency) -> dict[str, Any]:
    return {
        "testable": tested.testable,
        "verdict": verdict(tested),
        "q": tested.between.q,
        "df": tested.between.df,
        "p": tested.between.p,
        "q_within": tested.within.q,
        "df_within": tested.within.df,
        "p_within": tested.within.p,
        "random": {
            "tau2_within": tested.tau2_within,
            "q": tested.between_random.q,
            "df": tested.between_random.df,
            "p": tested.between_random.p,
        },
    }


def _heat(heat: NetHeat | None) -> dict[str, Any] | None:
    if heat is None:
        return None
    return {
        "designs": list(heat.designs),
        "q": heat.share.tolist(),
        "change": heat.change.tolist(),
        "influence": heat.influence.tolist(),
        "tau2": heat.tau2,
    }


def _split(split: Split) -> dict[str, Any]:
    return asdict(split) | {"reason": None if split.testable else NOT_TESTABLE}


def _notes(
    studies: Sequence[Study], found: Network, tested: Inconsistency, scale: Scale, better: Better,
    left_out: list[LeftOut] | None,
) -> list[str]:  # fmt: skip
    notes = [f"{leader(found, better)}; P-scores order estimates by their standard errors and test nothing"]
    if not tested.testable:
        shape = "a star or tree" if len(studies) and _tree(studies) else "designs close no loop with one another"
        notes.append(
            f"inconsistency not testable: {shape}, so no comparison is reached in two ways; not shown to agree"
        )
    if found.method != "common" and found.df < 2:
        notes.append(f"no prediction intervals: {found.df} degrees of freedom of Q, two are needed")
    elif found.method != "common" and scale == "RD" and _beyond_points(found):
        notes.append(
            "prediction intervals pass what a risk difference can be: read them as ending at -100 or 100 points"
        )
    if left_out is None:
        notes.append(
            "intervals take studies as independent; with --cluster the ranking is repeated without each cluster"
        )
        return notes
    few = claim_note(len(left_out))
    if few:
        notes.append(few)
    if moved := first_places(left_out):
        notes.append(moved)
    notes.append(
        "intervals take the studies of a cluster as independent; leave_one_cluster_out shows how much hangs on each"
    )
    return notes


def _beyond_points(found: Network) -> bool:
    """Does a prediction interval of two different treatments leave -100 to 100 points?"""
    apart = ~np.eye(len(found.treatments), dtype=bool)
    return any(bool((np.abs(side[apart]) > 1).any()) for side in found.prediction())


def _tree(studies: Sequence[Study]) -> bool:
    pairs = {study.design for study in studies}
    return all(len(pair) == 2 for pair in pairs)
