"""All defenses of one condition against SFT and one another, from what they answered to the same prompts.

A study is a base model in one setting. Its contrasts are paired by prompt: the variance of a difference is that of the
differences over prompts, so arms that share their prompts and their SFT twin are not taken for independent.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from catalog.meta import network_document
from catalog.meta.clusters import claim_note
from catalog.meta.document import plain
from catalog.meta.effects import crossed
from catalog.meta.gathered import Line
from catalog.meta.inconsistency import inconsistency
from catalog.meta.network import Matrix, Study, Tau2, Vector, components, network
from catalog.meta.network_document import Analysis
from catalog.meta.ranking import Better, first_places, leader, p_scores, ranks, without_clusters
from catalog.meta.settings import SEED_IS_BASE, Effect
from catalog.meta.splitting import holm

REFERENCE = "sft"
ITERATED = 3000  # contrasts up to which tau² is by REML; with more, the moment estimate is as good and needs no search
LEFT_OUT = 20  # clusters up to which each is left out in turn
BETTER: dict[Effect, Better] = {"hs_rd": "smaller", "fa_rd": "larger"}


def analysis(lines: Sequence[Line], effect: Effect) -> Analysis | None:
    """The network of all defenses of one bed under one condition; None with fewer than two that SFT connects."""
    studies = _studies(lines, effect)
    if not studies:
        return None
    part = next(part for part in components(studies) if REFERENCE in part)
    if len(part) < 3:
        return None
    method: Tau2 = "REML" if sum(len(study.treatments) - 1 for study in studies) <= ITERATED else "DL"
    found = network(studies, REFERENCE, method)
    better, clusters = BETTER[effect], sorted({study.cluster for study in studies})
    left = without_clusters(studies, REFERENCE, method, better) if 1 < len(clusters) <= LEFT_OUT else None
    notes = [leader(found, better)]
    if note := claim_note(len(clusters)):
        notes.append(note)
    if left is None and len(clusters) > 1:
        notes.append(f"{len(clusters)} clusters: none is left out in turn, each carries little of the weight")
    if moved := first_places(left or []):
        notes.append(moved)
    return Analysis(
        scale="RD",
        better=better,
        studies=studies,
        found=found,
        p_scores=p_scores(found, better),
        ranks=ranks(found, better),
        inconsistency=inconsistency(studies, found),
        heat=None,
        splits=[],
        left_out=left,
        notes=notes,
    )


def document(found: Analysis) -> dict[str, Any]:
    """The document of `hft meta network`, with the p-values of every defense against SFT adjusted after Holm (1979)."""
    fitted = found.found
    z = fitted.estimate[1:, 0] / fitted.se[1:, 0]
    adjusted = holm(2 * norm.sf(np.abs(z)))
    made = network_document.document(found)
    for name in ("splits", "net_heat", "inconsistency"):
        del made[name]
    made["p_holm"] = plain(dict(zip(fitted.treatments[1:], adjusted.tolist(), strict=True)))
    made["clusters"] = len({study.cluster for study in found.studies})
    return made


def _studies(lines: Sequence[Line], effect: Effect) -> list[Study]:
    """One study a cluster and setting; prompts that differ in number cannot be paired and make studies of their own."""
    groups: dict[tuple[str, str, int], dict[str, tuple[Line, int]]] = defaultdict(dict)
    for line in lines:
        if one := line.effects.get(effect):
            for place, cluster in enumerate(one.clusters):
                groups[cluster, line.setting, one.prompts][line.method] = line, place
    return [_study(*key, group, effect) for key, group in sorted(groups.items())]


def _study(cluster: str, setting: str, prompts: int, group: dict[str, tuple[Line, int]], effect: Effect) -> Study:
    names = sorted(group)
    if next(iter(group.values()))[0].bed.testbed in SEED_IS_BASE:
        columns = [group[name][0].effects[effect].gaps[:, group[name][1]] for name in names]
        gaps = np.vstack([np.zeros(prompts), *columns])
        spread = np.cov(gaps, ddof=0) / prompts
        diagonal = np.diag(spread)
        variances = diagonal[:, None] + diagonal[None, :] - 2 * spread
        effects = gaps.mean(axis=1)
    else:
        effects, variances = _over_seeds([group[name][0] for name in names], effect)
    # half an answer of doubt in every arm, so that arms that answered alike still differ by something
    share = 0.5 / (prompts + 1)
    variances = variances + 2 * share * (1 - share) / (prompts + 1)
    np.fill_diagonal(variances, 0.0)
    return Study(f"{cluster}, {setting}", (REFERENCE, *names), effects, variances, cluster)


def _over_seeds(lines: Sequence[Line], effect: Effect) -> tuple[Vector, Matrix]:
    """Effects and variances of contrasts of arms with several seeds on one model, over the seeds all of them have."""
    known = [line.effects[effect] for line in lines]
    shared = sorted(set.intersection(*(set(one.seeds) for one in known)))
    tables = [one.gaps[:, [one.seeds.index(seed) for seed in shared]].astype(float) for one in known]
    cube = np.array([np.zeros_like(tables[0]), *tables])
    covariance = crossed(cube)
    diagonal = np.diag(covariance)
    return cube.mean(axis=(1, 2)), diagonal[:, None] + diagonal[None, :] - 2 * covariance
