"""Options that the commands of `hft meta` share, what they bring, and how their faults end the program."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from catalog.commands.shared import fail, find_subject, refusals, root
from catalog.terminal import complain

if TYPE_CHECKING:
    from catalog.meta.analysis import Data
    from catalog.meta.settings import Effect
    from catalog.meta.studies_csv import Studies

Csv = Annotated[Path | None, typer.Option("--csv", help="Table with a header and one row a study.", dir_okay=False)]
Yi = Annotated[str | None, typer.Option("--yi", metavar="COL", help="Column of effects.")]
Vi = Annotated[str | None, typer.Option("--vi", metavar="COL", help="Column of their sampling variances.")]
MeasureOf = Annotated[
    Literal["RD", "OR", "RR", "AS"] | None,
    typer.Option("--measure", help="Risk difference, log odds ratio, log risk ratio, arcsine difference."),
]
Events = Annotated[str | None, typer.Option(metavar="COL,COL", help="Columns of events, method's and reference's.")]
Totals = Annotated[str | None, typer.Option(metavar="COL,COL", help="Columns of totals in the same order.")]
Label = Annotated[str | None, typer.Option(metavar="COL", help="Column of names [default: label, study, …].")]
Tau2 = Annotated[Literal["REML", "DL", "PM", "ML"], typer.Option("--tau2", help="Estimator of tau².")]
ModelOf = Annotated[
    Literal["random", "common", "mh", "peto", "clusters", "three-level"] | None,
    typer.Option("--model", help="[default: random; clusters with --cluster; three-level with --level too]"),
]
Ci = Annotated[
    Literal["z", "hk", "hk-guarded", "cr2"] | None,
    typer.Option(
        "--ci", help="Normal, Hartung-Knapp, never narrower than normal, cluster-robust. [default: hk; fixed z]"
    ),
]
Pi = Annotated[Literal["hts", "metafor", "none"], typer.Option("--pi", help="Prediction interval.")]
Cluster = Annotated[str | None, typer.Option(metavar="COL", help="Column of the base model or paper of each effect.")]
Level = Annotated[str | None, typer.Option(metavar="COL", help="Column of settings inside clusters.")]
Results = Annotated[
    Path | None,
    typer.Option(help="Where records are, in place of reproduce/results.", exists=True, file_okay=False),
]
Mods = Annotated[str | None, typer.Option(metavar="COL,…", help="Moderators: numbers, or words to be told apart.")]


def read_table(csv: Path | None, label: str | None) -> Studies:
    """The table of --csv; ChoiceError without one."""
    from catalog.meta import studies_csv
    from catalog.meta.analysis import ChoiceError

    if csv is None:
        raise ChoiceError("give a table with --csv")
    studies = studies_csv.read(csv, label)
    complain(studies.warnings)
    return studies


def of_method(method: str, effect: Effect, testbed: str, attack: str, table: Path | None, results: Path | None) -> Data:
    """Effects of a method by setting: from a table of counts, or from the records of one testbed."""
    from catalog.meta import inputs, settings, studies_csv

    if table is not None:
        from catalog.meta.replicates import from_csv

        studies = studies_csv.read(table)
        complain(studies.warnings)
        return inputs.from_settings(from_csv(studies, method, effect), effect)
    from catalog import measured, papers, running
    from catalog import results as cells
    from catalog.conditions import DECLARED
    from catalog.meta.analysis import ChoiceError
    from catalog.problems import did_you_mean
    from reproduce import record

    slug = find_subject(method, papers.load(root() / papers.FILE)[1])
    wanted = [] if attack == "all" else inputs.columns_of(attack)
    for name in wanted:
        if name not in DECLARED:
            raise ChoiceError(f"--attack {name}: {did_you_mean(name, [*DECLARED, 'all'])}")
    found = measured.cells(cells.select(running.read(results or record.RESULTS), slug))
    return inputs.from_settings(settings.from_cells(found, slug, effect, testbed, wanted), effect)


@contextmanager
def faults() -> Iterator[None]:
    """Faulty rows and unreadable files end the program with 1, options that do not fit with 2."""
    from catalog.meta.analysis import ChoiceError
    from catalog.meta.studies_csv import ColumnError

    with refusals():
        try:
            yield
        except (ChoiceError, ColumnError) as error:
            fail(str(error), 2)
