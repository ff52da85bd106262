"""Everything the generators show, read once: the catalogue, the measured numbers, the calibration.

The one place where generators meet the files; from here on they see plain values.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from catalog import excluded as left_out
from catalog import integrity, measured, papers, standings, studies
from catalog.excluded import Excluded
from catalog.exports import keys
from catalog.measured import Cell, Failure, Record
from catalog.schema import Head, Paper
from catalog.standings import Standing
from catalog.studies import Figure, Finding
from reproduce import record
from reproduce.calibration import calibration

REPORT = Path("reproduce", "report", "report.json")  # the last committed report of hft meta report
BASELINES = {"sft": "SFT, undefended", "non-aligned": "Never aligned"}


@dataclass(frozen=True, kw_only=True)
class Atlas:
    """Catalogue entries by id, what was left out by which rule, and what was measured; `calibrations` by testbed.

    `tuning` are the cells on validation prompts that chose the knobs of the defenses; nothing else shows them.
    """

    papers: dict[str, Paper]
    head: Head
    cells: list[Cell]
    standings: list[Standing]
    findings: list[Finding]
    figures: list[Figure]
    failed_studies: dict[str, tuple[Failure, ...]]
    calibrations: dict[str, dict[str, Any]]
    repository: str | None
    records: int
    tuning: list[Cell]
    excluded: tuple[Excluded, ...] = ()
    last_report: dict[str, Any] | None = None
    rules: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def citation_keys(self) -> dict[str, str]:
        """The BibTeX key of each paper, by id."""
        return keys.of(self.papers.values())

    def name(self, slug: str) -> str:
        """What to call a method that we ran: its label, else what its paper calls it; A + B for a combination."""
        if "+" in slug:
            return " + ".join(self.name(part) for part in slug.split("+"))
        paper = self.papers.get(slug)
        return (paper and paper.reproduction and paper.reproduction.label) or self.called(slug)

    def called(self, slug: str) -> str:
        """What its paper calls a method: its nickname, else its slug."""
        paper = self.papers.get(slug)
        return BASELINES.get(slug) or (paper and paper.nickname) or slug

    def who(self, cell: Cell) -> str:
        """What to call an arm: its method, and the arm or the attack where that is what differs."""
        name = self.name(cell.method)
        if cell.method_arm != "main":
            name = f"{name} · {cell.method_arm}"
        if cell.arm == "main":
            return name
        return f"{name.partition(',')[0]} · {cell.arm}"

    def standing(self, cell: Cell) -> Standing | None:
        """The standing that a cell under a declared condition is part of."""
        return next((standing for standing in self.standings if standing.holds(cell)), None)

    def of(self, paper: str) -> list[Cell]:
        """All cells of one paper: its own runs, and its method under the attacks of others."""
        return [cell for cell in self.cells if paper in (cell.paper, cell.method)]


def read(root: Path) -> Atlas:
    """Read papers.yaml, excluded.yaml and the run records of a checkout; RefusedError when a record was edited."""
    head, entries = papers.load(root / "papers.yaml")
    _, records = integrity.reproduction(root)
    tuning = list(record.read(root / "reproduce/tuning"))
    made = assemble(head, entries, records, calibration(records), _repository(root), tuning)
    last = root / REPORT
    report = json.loads(last.read_text(encoding="utf-8")) if last.is_file() else None
    return replace(made, excluded=tuple(left_out.read(root)), rules=left_out.rules(root), last_report=report)


def assemble(
    head: Head,
    entries: Iterable[Paper],
    records: Sequence[Record],
    calibrations: Mapping[str, dict[str, Any]],
    repository: str | None = None,
    tuning: Sequence[Record] = (),
) -> Atlas:
    """Put catalogue entries and run records together; runs on validation prompts are for tuning and stay out."""
    records = [one for one in records if one["spec"].get("split", "test") == "test"]
    entries, cells = list(entries), measured.cells(records)
    return Atlas(
        papers={paper.id: paper for paper in entries},
        head=head,
        cells=cells,
        standings=standings.standings(cells, entries),
        findings=studies.findings(records),
        figures=studies.figures(records),
        failed_studies=studies.failed(records),
        calibrations=dict(calibrations),
        repository=repository,
        records=len(records),
        tuning=measured.cells(tuning),
    )


def _repository(root: Path) -> str | None:
    """Address of the repository, from `[project.urls]` of pyproject.toml; None when it is not given."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    address = project.get("urls", {}).get("Repository")
    return str(address).rstrip("/") if address else None
