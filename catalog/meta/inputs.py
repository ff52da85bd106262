"""What the commands of `hft meta` are given, as effects to pool."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from catalog.meta.analysis import ChoiceError, Data
from catalog.meta.moderators import design
from catalog.meta.settings import MEASURES, Effect, Settings
from catalog.meta.sizes import Measure, sizes
from catalog.meta.studies_csv import Studies
from catalog.meta.weighted import Matrix


def from_table(
    studies: Studies,
    *,
    yi: str | None,
    vi: str | None,
    measure: Measure | None,
    events: str | None,
    totals: str | None,
    cluster: str | None,
    level: str | None,
    mods: str | None = None,
) -> tuple[Data, Matrix, list[str]]:
    """Effects of a table, the design matrix of its moderators, and the names of their columns.

    Effects are given (`yi`, `vi`) or come from counts (`measure`, `events` and `totals`, each "method,reference").
    """
    clusters = studies.texts(cluster) if cluster else None
    levels = studies.texts(level) if level else None
    X, names = design(studies, columns_of(mods))
    labels = studies.labels
    repeated = tuple(f"{one.where}: {one.paper} {one.message}" for one in studies.warnings)
    if events or totals:
        if not (measure and events and totals) or yi or vi:
            raise ChoiceError("counts need --measure, --events and --totals, and no --yi or --vi")
        counts = studies.counts(_two("--events", events), _two("--totals", totals))
        found = sizes(measure, counts)
        places = np.flatnonzero(found.used)
        if len(places) == 0:
            raise ChoiceError(f"--measure {measure}: no table carries information; use RD")
        lost = [label for label, used in zip(labels, found.used, strict=True) if not used]
        notes = [*repeated, *found.notes]
        if lost:
            notes.append(f"excluded, all or no events in both arms: {', '.join(lost)}")
        totals_shown = (counts.total + counts.reference_total).astype(int).tolist()
        data = Data(
            labels=labels, yi=found.yi, vi=found.vi, measure=measure, counts=counts, clusters=clusters, levels=levels,
            excluded=len(lost), notes=tuple(notes), sizes=[str(n) for n in totals_shown], empty_arms=found.empty_arms,
        )  # fmt: skip
        return data.at(places), X[places], names
    if not (yi and vi):
        raise ChoiceError("give --yi and --vi, or --measure with --events and --totals")
    effects, variances = studies.effects(yi, vi)
    data = Data(
        labels=labels,
        yi=effects,
        vi=variances,
        measure=measure or "GEN",
        clusters=clusters,
        levels=levels,
        notes=repeated,
    )
    return data, X, names


def kept(studies: Studies, measure: Measure | None, events: str | None, totals: str | None) -> NDArray[np.intp]:
    """Places of the rows whose effects `from_table` keeps."""
    if not (measure and events and totals):
        return np.arange(len(studies.rows))
    counts = studies.counts(_two("--events", events), _two("--totals", totals))
    return np.flatnonzero(sizes(measure, counts).used)


def from_settings(settings: Settings, effect: Effect) -> Data:
    """Effects of a method by setting, its base models the clusters. ChoiceError when no setting has one."""
    found = settings.found
    if not found:
        raise ChoiceError(
            "no setting has runs of both the method and sft: " + "; ".join(settings.notes or ["none was run"])
        )
    return Data(
        labels=[one.label for one in found],
        yi=np.array([one.y for one in found]),
        vi=np.array([one.v for one in found]),
        measure=MEASURES[effect],
        clusters=[one.cluster for one in found],
        levels=[one.label for one in found],
        df=settings.df if settings.df > 0 else math.inf,
        excluded=settings.excluded,
        notes=settings.notes,
        sizes=[f"{one.prompts} × {one.seeds}" for one in found],
    )


def columns_of(text: str | None) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _two(option: str, text: str) -> Sequence[str]:
    names = columns_of(text)
    if len(names) != 2:
        raise ChoiceError(f"{option} {text}: two columns, of the method and of its reference, as in a,c")
    return names
