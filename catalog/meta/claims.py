"""The claims of papers.yaml with what the run records measured for them, ready for the verdict rule.

A verdict needs a reported number on the scale that is measured: a proportion (percent in papers.yaml). All other
claims keep the direction test that they declare.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from catalog import contrasts
from catalog.contrasts import PROPORTIONS, Contrast
from catalog.measured import Cell, canonical
from catalog.meta.effects import Estimate
from catalog.meta.ledger import Direction, Scale, Tried
from catalog.meta.verdict import Claimed, Measured
from catalog.results import attack_name
from catalog.schema import Claim, FindingTest, MechanismTest, MetricTest, Paper, RunTest, TrendTest
from catalog.studies import Finding

PRIMARY = "headline"
LEVEL, KEPT = "harmful_score", "fine_tune_accuracy"  # a claim on both is one claim: lower harm, accuracy kept


def tried(papers: Iterable[Paper], cells: Sequence[Cell], findings: Sequence[Finding]) -> list[Tried]:
    """Every claim of every paper in every setting that was run; one without a setting where none was."""
    return [one for paper in papers for claim in paper.claims for one in _of_claim(paper, claim, cells, findings)]


def _of_claim(paper: Paper, claim: Claim, cells: Sequence[Cell], findings: Sequence[Finding]) -> Iterator[Tried]:
    primary = claim.kind == PRIMARY
    base = Tried(paper=paper.id, claim=claim.id, type=paper.type, primary=primary, kind=claim.kind, says=claim.says)
    if claim.test is None:
        yield replace(base, unjudged="no test")
        return
    if isinstance(claim.test, FindingTest):
        tested = [_of_finding(base, claim.test, one) for one in findings if one.paper == paper.id]
        made = [one for one in tested if one]
    else:
        found = contrasts.measure(claim.test, paper.id, cells)
        settings = _settings(claim.test, [one.cell for one in found])
        joint = _joint(paper, claim)
        made = [
            _of_contrast(replace(base, setting=setting, joint=joint), claim, claim.test, one)
            for setting, one in zip(settings, found, strict=True)
        ]
    yield from made or [replace(base, unjudged="not run")]


def _of_finding(base: Tried, test: FindingTest, found: Finding) -> Tried | None:
    if found.name != test.finding or found.estimate is None:
        return None
    return replace(
        base,
        testbed=str(found.condition["testbed"]),
        setting=found.arm if found.arm != "main" else "",
        direction=direction(test, found.estimate),
        unjudged="its test is a finding, which no reported number is compared with",
    )


def _of_contrast(base: Tried, claim: Claim, test: RunTest, found: Contrast) -> Tried:
    base = replace(base, testbed=str(found.cell.condition["testbed"]), direction=direction(test, found.estimate))
    if not isinstance(test, MetricTest):
        return replace(base, unjudged="its test is a trend or a bound, which no reported number is compared with")
    if claim.reported is None or claim.reported.baseline is None:
        return replace(base, unjudged="no reported number")
    if claim.reported.unit != "percent" or test.quantity not in PROPORTIONS or test.scale != "points":
        return replace(base, unjudged=f"reported {claim.reported.metric} ({claim.reported.unit}) is on another scale")
    baseline = claim.reported.baseline / 100
    claimed = Claimed(
        reported=claim.reported.method / 100 - baseline,
        better=test.better,
        spare=-test.margin / 100 if test.margin < 0 else None,
        baseline_reported=baseline,
        baseline_measured=found.baseline,
    )
    return replace(base, claimed=claimed, found=Measured.from_estimate(found.estimate))


def _joint(paper: Paper, claim: Claim) -> str | None:
    """The number that C1 and C1b share, when one is on the harmful score and the other on keeping accuracy."""
    number, asked = _number(claim), _compares(claim)
    alike = [other for other in paper.claims if _number(other) == number and asked and _compares(other) == asked]
    metrics = [other.test.metric for other in alike if isinstance(other.test, MetricTest)]
    return number if sorted(map(str, metrics)) == sorted((LEVEL, KEPT)) else None


def _number(claim: Claim) -> str:
    return re.sub(r"[a-z]$", "", claim.id)


def _compares(claim: Claim) -> tuple[object, ...] | None:
    """Arms and conditions of a claim that a harmful score is lower, or that accuracy is not lost."""
    test = claim.test
    if not isinstance(test, MetricTest):
        return None
    lower = test.metric == LEVEL and test.better == "smaller" and test.margin >= 0
    kept = test.metric == KEPT and test.better == "larger" and test.margin < 0
    return (test.contrast, test.attack, test.ratio, test.task) if lower or kept else None


def direction(test: RunTest | FindingTest, estimate: Estimate) -> Direction:
    """The test of a claim with the number measured for it, and so its outcome."""
    if isinstance(test, FindingTest):
        return _bounded(test, estimate, test.finding, "study")
    if isinstance(test, TrendTest):
        return _bounded(test, estimate, test.quantity, f"{test.of} over {test.over}", "rank correlation")
    if not isinstance(test, MetricTest):
        return _bounded(test, estimate, test.mechanism, test.of)
    plain = test.scale == "points" and test.quantity in PROPORTIONS
    bound = test.margin / 100 if plain else test.margin
    return Direction(
        quantity=test.quantity,
        of=test.contrast,
        unit="proportion" if plain else "ratio" if test.scale == "ratio" else "own",
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        at_least=bound if test.better == "larger" else None,
        at_most=-bound if test.better == "smaller" else None,
    )


def _bounded(
    test: TrendTest | MechanismTest | FindingTest, estimate: Estimate, quantity: str, of: str, unit: Scale = "own"
) -> Direction:
    return Direction(
        quantity=quantity,
        of=of,
        unit=unit,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        at_least=test.at_least,
        at_most=test.at_most,
    )


def _settings(test: RunTest, cells: Sequence[Cell]) -> list[str]:
    """Attack, harmful share and task of each cell, and whatever else tells cells apart that agree in these."""
    names = []
    for cell in cells:
        share = None if cell.ratio is None or isinstance(test, TrendTest) else f"{cell.ratio:.0%} harmful"
        names.append(", ".join(str(part) for part in (attack_name(cell), share, cell.condition.get("task")) if part))
    twice = [cell for cell, name in zip(cells, names, strict=True) if names.count(name) > 1]
    differ = [key for key in sorted(twice[0].condition) if _differs(key, twice)] if twice else []
    return [
        f"{name} ({', '.join(f'{key} {cell.condition.get(key)}' for key in differ)})" if names.count(name) > 1 else name
        for cell, name in zip(cells, names, strict=True)
    ]


def _differs(key: str, cells: Sequence[Cell]) -> bool:
    return len({canonical(cell.condition.get(key)) for cell in cells}) > 1
