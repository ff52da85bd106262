"""Read the arms or the contrasts of a network from a CSV file; what cannot be right is refused by line and study."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from catalog.meta.network import Study
from catalog.meta.network_studies import (
    Arm,
    Contrast,
    Mean,
    Scale,
    StudyError,
    from_contrasts,
    from_counts,
    from_means,
    single,
)
from catalog.meta.studies_csv import Studies
from catalog.meta.studies_csv import read as read_csv
from catalog.problems import Problem, RefusedError

Form = Literal["arms", "contrasts"]
POSITIVE = "its square is a variance, which is above 0: check the column, or delete the row"


def read(
    path: Path, form: Form, scale: Scale, cluster: str | None = None
) -> tuple[list[Study], list[Problem], list[str]]:
    """Return the studies of the file, warnings on repeated rows, and notes on what was left out or corrected.

    Arms: study, treatment, events, n (with MD: mean, sd, n); contrasts: study, treat1, treat2, te, se, where te is
    treat1 minus treat2, with OR its natural logarithm. A row that repeats another in every cell counts once.
    RefusedError names rows, ColumnError a missing column.
    """
    table = read_csv(path, "study")
    rows = {tuple(row.cells.values()): row for row in reversed(table.rows)}
    kept = tuple(sorted(rows.values(), key=lambda row: row.line))
    table, repeats = replace(table, rows=kept), [replace(w, fix="it counts once; delete it") for w in table.warnings]
    clusters = table.texts(cluster) if cluster else [""] * len(kept)
    _one_cluster_each(table, clusters)
    places = [f"{table.file}:{row.line}" for row in kept]
    notes = [f"{warning.where}: study {warning.paper}: {warning.message}; counted once" for warning in repeats]
    try:
        if form == "contrasts":
            studies, more = from_contrasts(_contrasts(table, places, clusters))
        else:
            alone = single(table.texts("study"))
            more = [f"excluded, one arm compares nothing: {', '.join(alone)}"] if alone else []
            studies, corrected = _arms(table, places, clusters, scale)
            more += corrected
    except StudyError as error:
        raise RefusedError([Problem("study", error.where, "", error.message, error.fix)]) from None
    if not studies:
        fix = "a study is two rows or more with the same name in column study"
        raise RefusedError([Problem("network", table.file, "", "no study compares treatments", fix)])
    return studies, repeats, notes + more


def _arms(
    table: Studies, places: Sequence[str], clusters: Sequence[str], scale: Scale
) -> tuple[list[Study], list[str]]:
    names = places, table.texts("study"), table.texts("treatment")
    if scale != "MD":
        return from_counts([Arm(*row) for row in zip(*names, *table.arm("events", "n"), clusters, strict=True)], scale)
    mean, sd, n = (table.numbers(column) for column in ("mean", "sd", "n"))
    table.refuse(sd, sd <= 0, "sd", POSITIVE)
    table.refuse(n, n <= 0, "n", "delete the row of the empty arm")
    return from_means([Mean(*row) for row in zip(*names, mean, sd**2 / n, clusters, strict=True)]), []


def _contrasts(table: Studies, places: Sequence[str], clusters: Sequence[str]) -> list[Contrast]:
    one, other = table.texts("treat1"), table.texts("treat2")
    effect, se = table.numbers("te"), table.numbers("se")
    table.refuse(se, se <= 0, "se", POSITIVE)
    same = [(row, a) for row, a, b in zip(table.rows, one, other, strict=True) if a == b]
    if same:
        raise RefusedError([table.fault(row, f"{a} is compared with itself", "name two treatments") for row, a in same])
    rows = zip(places, table.texts("study"), one, other, effect, se**2, clusters, strict=True)
    return [Contrast(*row) for row in rows]


def _one_cluster_each(table: Studies, clusters: Sequence[str]) -> None:
    first: dict[str, str] = {}
    faults = [
        table.fault(row, f"the study lies in the clusters {first[row.label]} and {name}", "give the parts other names")
        for row, name in zip(table.rows, clusters, strict=True)
        if first.setdefault(row.label, name) != name
    ]
    if faults:
        raise RefusedError(faults)
