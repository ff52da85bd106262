"""The replication ledger: verdicts on claims, on claims made together, and on papers, with multiplicity kept in view.

A family of tests is what stands in one paper (Holm 1979) and what stands in the whole ledger (Benjamini & Hochberg
1995; Benjamini & Yekutieli 2001 where tests depend on one another strongly), each on one testbed. Claims without a
verdict of their own, and those whose baseline does not match, are in no family. Verdicts rest on unadjusted intervals.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from statsmodels.stats.multitest import multipletests

from catalog.meta.margins import Margins
from catalog.meta.verdict import Claimed, Judgement, Measured, Verdict, jointly, judge, of_paper
from catalog.taxonomy import PaperType

Outcome = Literal["holds", "fails", "open", "no interval"]
Scale = Literal["proportion", "ratio", "rank correlation", "own"]


@dataclass(frozen=True, kw_only=True)
class Direction:
    """The claim's own test: the measured value against a bound, in the unit of the quantity.

    It holds when the whole 95 % interval keeps to the bound, fails when all of it does not, and is open between.
    """

    quantity: str
    of: str
    unit: Scale
    value: float
    low: float
    high: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def outcome(self) -> Outcome:
        if self.low != self.low:
            return "no interval"
        if self.at_least is not None:
            return "holds" if self.low >= self.at_least else "fails" if self.high < self.at_least else "open"
        assert self.at_most is not None
        return "holds" if self.high <= self.at_most else "fails" if self.low > self.at_most else "open"


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One claim in one setting: what the paper says, what was measured, or why there is no verdict.

    `setting` tells the settings of a claim apart; results of different testbeds never come together. Claims of one
    paper that share `joint` are parts of one claim and hold only together.
    """

    paper: str
    claim: str
    type: PaperType | None = None
    testbed: str = ""
    setting: str = ""
    primary: bool = True
    joint: str | None = None
    kind: str = "headline"
    says: str = ""
    claimed: Claimed | None = None
    found: Measured | None = None
    direction: Direction | None = None
    unjudged: str | None = None


@dataclass(frozen=True, kw_only=True)
class Adjusted:
    """p-values adjusted over the claims of the paper, and over the ledger."""

    p: float
    holm: float
    bh: float
    by: float


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A claim with its judgement, if there can be one."""

    tried: Tried
    judgement: Judgement | None
    unjudged: str | None


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What counts as one claim: an entry, or the parts of a joint one, whose p-value is the largest of theirs."""

    entries: tuple[Entry, ...]
    verdict: Verdict
    adjusted: Adjusted | None = None

    @property
    def first(self) -> Tried:
        return self.entries[0].tried

    @property
    def p(self) -> float:
        return max(entry.judgement.p for entry in self.entries if entry.judgement)


@dataclass(frozen=True, kw_only=True)
class OfPaper:
    """The verdict on a paper on one testbed, from its primary claims; `unjudged` counts those without a verdict."""

    paper: str
    testbed: str
    verdict: Verdict | None
    claims: tuple[Unit, ...]
    unjudged: int


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """All of it under one version of the margins."""

    margins: Margins
    entries: tuple[Entry, ...]
    units: tuple[Unit, ...]
    papers: tuple[OfPaper, ...]


def ledger(tried: Iterable[Tried], margins: Margins) -> Ledger:
    """Judge what was tried, in the order given."""
    entries = tuple(_entry(one, margins) for one in tried)
    units = _adjust(_units(entries))
    return Ledger(margins=margins, entries=entries, units=tuple(units), papers=tuple(_papers(entries, units)))


def _papers(entries: Sequence[Entry], units: Sequence[Unit]) -> Iterator[OfPaper]:
    """Each paper on each testbed with numbers of it, or on none; claims that were not run are missing on all."""
    testbeds: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        testbeds[entry.tried.paper].add(entry.tried.testbed)
    for paper, known in testbeds.items():
        own = [entry for entry in entries if entry.tried.paper == paper and entry.tried.primary]
        for testbed in sorted(known - {""}) or [""]:
            primary = [
                unit
                for unit in units
                if (unit.first.paper, unit.first.testbed) == (paper, testbed)
                and any(entry.tried.primary for entry in unit.entries)
            ]
            yield OfPaper(
                paper=paper,
                testbed=testbed,
                verdict=of_paper([unit.verdict for unit in primary]),
                claims=tuple(primary),
                unjudged=sum(entry.judgement is None and entry.tried.testbed in ("", testbed) for entry in own),
            )


def _entry(tried: Tried, margins: Margins) -> Entry:
    unjudged, judgement = tried.unjudged, None
    if unjudged is None and tried.claimed and tried.found:
        try:
            judgement = judge(tried.claimed, tried.found, margins)
        except ValueError as error:
            unjudged = str(error)
    elif unjudged is None:
        unjudged = "no interval" if tried.claimed else "no reported number"
    return Entry(tried=tried, judgement=judgement, unjudged=unjudged)


def _units(entries: Sequence[Entry]) -> list[Unit]:
    """Judged claims, parts of a joint one together; a joint claim with an unjudged part has no verdict as a whole."""
    groups: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for entry in entries:
        one = entry.tried
        name = ("joint", one.joint) if one.joint else ("claim", one.claim)
        groups[one.testbed, one.paper, *name, one.setting].append(entry)
    units = []
    for group in groups.values():
        judged = [entry for entry in group if entry.judgement]
        if len(judged) < len(group):
            units += [_unit([entry]) for entry in judged]
        else:
            units.append(_unit(group))
    return units


def _unit(group: Sequence[Entry]) -> Unit:
    return Unit(entries=tuple(group), verdict=jointly([one.judgement.verdict for one in group if one.judgement]))


def _adjust(units: Sequence[Unit]) -> list[Unit]:
    families: dict[str, list[int]] = defaultdict(list)
    for place, unit in enumerate(units):
        if unit.verdict != "baseline mismatch":
            families[unit.first.testbed].append(place)
    found = list(units)
    for places in families.values():
        p = [units[place].p for place in places]
        bh, by = (_adjusted(p, method) for method in ("fdr_bh", "fdr_by"))
        holm = [0.0] * len(p)
        papers: dict[str, list[int]] = defaultdict(list)
        for at, place in enumerate(places):
            papers[units[place].first.paper].append(at)
        for own in papers.values():
            for at, value in zip(own, _adjusted([p[at] for at in own], "holm"), strict=True):
                holm[at] = value
        for at, place in enumerate(places):
            adjusted = Adjusted(p=p[at], holm=holm[at], bh=bh[at], by=by[at])
            found[place] = replace(units[place], adjusted=adjusted)
    return found


def _adjusted(p: Sequence[float], method: str) -> list[float]:
    return [float(value) for value in multipletests(p, method=method)[1]]  # type: ignore[no-untyped-call]
