"""The page of one paper: what it claims, what it reports, what was measured here."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog import contrasts
from catalog.atlas import Atlas
from catalog.exports import bibtex
from catalog.measured import Failure
from catalog.meta.claims import direction
from catalog.meta.effects import Estimate
from catalog.meta.ledger import Outcome
from catalog.pages import pictures, sheets, stress, sweeps, words
from catalog.pages.pictures import Picture
from catalog.pages.sheets import Sheet
from catalog.pages.stress import Stress
from catalog.pages.sweeps import Sweep
from catalog.schema import Claim, FindingTest, MetricTest, Paper, RunTest, Setting, TrendTest
from catalog.studies import Finding

REPAIR = "post-fine-tuning"
OUTCOMES = {  # in words, of one test and of several
    "holds": ("holds", "hold"),
    "fails": ("fails", "fail"),
    "open": ("is open", "are open"),
    "no interval": ("has no interval", "have no interval"),
    "not measured": ("is not measured", "are not measured"),
}


@dataclass(frozen=True)
class Tested:
    """A claim's own test: what is asked, and each number measured for it: where, (value, interval, count), outcome."""

    claim: str
    asks: str
    measured: list[tuple[str, tuple[str, str, str], Outcome]]


@dataclass(frozen=True)
class Page:
    """All a paper template needs."""

    paper: Paper
    name: str
    status: str
    tested: list[Tested]
    outcomes: str
    stresses: list[Stress]
    sweeps: list[Sweep]
    frontiers: list[Picture]
    sheets: list[Sheet]
    borrowed: bool
    together: list[str]
    findings: list[Finding]
    figures: list[Picture]
    failures: tuple[Failure, ...]
    records: list[str]
    near: list[Paper]
    bibtex: str


def page(atlas: Atlas, paper: Paper, figures: Path) -> Page:
    """Gather the page of a paper and draw its figures."""
    findings = [finding for finding in atlas.findings if finding.paper == paper.id]
    failures = atlas.failed_studies.get(paper.id, ())
    testbeds = {cell.condition["testbed"] for cell in atlas.of(paper.id)}
    testbeds |= {finding.condition["testbed"] for finding in findings}
    tested = [_tested(atlas, paper, claim) for claim in paper.claims if claim.test]
    return Page(
        paper=paper,
        name=paper.nickname or paper.title,
        status=status(atlas, paper),
        tested=tested,
        outcomes=outcomes(tested),
        stresses=stress.stresses(atlas, paper.id, figures),
        sweeps=sweeps.sweeps(atlas, paper.id, figures),
        frontiers=sweeps.frontiers(atlas, paper.id, figures) if paper.stage == REPAIR else [],
        sheets=sheets.sheets(atlas, paper.id, figures),
        borrowed=any(cell.borrowed for cell in atlas.of(paper.id)),
        together=sorted({atlas.name(cell.method) for cell in atlas.cells if paper.id in cell.combined}),
        findings=findings,
        figures=[pictures.study(figure, figures) for figure in atlas.figures if figure.paper == paper.id],
        failures=failures,
        records=[f"reproduce/results/{testbed}/{paper.id}" for testbed in sorted(testbeds)],
        near=near(atlas, paper),
        bibtex=bibtex.bibliography([paper], atlas.head.venues, names=atlas.citation_keys),
    )


def status(atlas: Atlas, paper: Paper) -> str:
    """How far the reproduction is, in words."""
    if not paper.reproduction:
        return "not reproduced yet"
    cells = atlas.of(paper.id)
    if any(cell.metrics for cell in cells) or any(finding.paper == paper.id for finding in atlas.findings):
        return "measured"
    return "run without numbers" if cells or paper.id in atlas.failed_studies else "module, not run yet"


def outcomes(tested: Sequence[Tested]) -> str:
    """How many tests of claims came out how, in words; empty where nothing was measured for any."""
    counted = Counter[str](outcome for test in tested for _, _, outcome in test.measured)
    counted["not measured"] = sum(not test.measured for test in tested)
    told = [f"{counted[one]} {said[counted[one] > 1]}" for one, said in OUTCOMES.items() if counted[one]]
    return "tests of its claims: " + ", ".join(told) if counted.total() > counted["not measured"] else ""


def _tested(atlas: Atlas, paper: Paper, claim: Claim) -> Tested:
    assert claim.test, f"{paper.id}: {claim.id} has no test"
    if not isinstance(claim.test, FindingTest):
        return Tested(claim.id, asks(claim.test), _contrast(atlas, paper, claim.test))
    numbers = [
        (
            str(finding.condition["testbed"]),
            words.number(finding.estimate),
            direction(claim.test, finding.estimate).outcome,
        )
        for finding in atlas.findings
        if finding.estimate and (finding.paper, finding.name) == (paper.id, claim.test.finding)
    ]
    return Tested(claim.id, asks(claim.test), numbers)


def _contrast(atlas: Atlas, paper: Paper, test: RunTest) -> list[tuple[str, tuple[str, str, str], Outcome]]:
    return [
        (
            f"{found.cell.condition['testbed']}: {words.scenario(found.cell)}",
            _contrasted(test, found.estimate),
            direction(test, found.estimate).outcome,
        )
        for found in contrasts.measure(test, paper.id, atlas.cells)
    ]


def _contrasted(test: RunTest, estimate: Estimate) -> tuple[str, str, str]:
    if not isinstance(test, MetricTest):
        return words.number(estimate)
    if test.scale == "ratio":
        return words.points(estimate, " %")
    return words.points(estimate, " points") if test.quantity in contrasts.PROPORTIONS else words.number(estimate)


def asks(test: RunTest | FindingTest) -> str:
    """The test of a claim as a sentence."""
    if isinstance(test, FindingTest):
        return f"{_spoken(test.finding)} {_reached(test.at_least, test.at_most)}"
    where = f" at {100 * test.ratio:g} % harmful data" if test.ratio is not None else ""
    where += f" on the task {test.task}" if test.task else ""
    where += f" under {test.attack}" if ":" in test.attack else ""
    if isinstance(test, MetricTest):
        return f"{_spoken(test.quantity)}, {_sides(test.contrast)}{where}: {_bound(test)}"
    bound = _reached(test.at_least, test.at_most)
    if isinstance(test, TrendTest):
        what = f"{_spoken(test.quantity)}, {_sides(test.of)}{where}"
        among = f" among {', '.join(f'{x:g}' for x in test.among)}" if test.among else ""
        return f"{what}: rank correlation with {_spoken(test.over)}{among} {bound}"
    return f"{_spoken(test.mechanism)}, {_sides(test.of)}{where}: {bound}"


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _sides(text: str) -> str:
    return text.replace(" - ", " − ").replace(contrasts.BEFORE, " before fine-tuning")


def _reached(at_least: float | None, at_most: float | None) -> str:
    bound = f"at least {at_least:g}" if at_least is not None else f"at most {at_most:g}"
    return bound.replace("-", "−")


def _bound(test: MetricTest) -> str:
    """The margin in words; a negative one is what a thing may lose and still count as kept."""
    size = abs(test.margin)
    plain = f"{size:g} points" if test.quantity in contrasts.PROPORTIONS else f"{size:g}"
    unit = f"{100 * size:g} %" if test.scale == "ratio" else plain
    worse = "larger" if test.better == "smaller" else "smaller"
    if test.margin > 0:
        return f"{test.better} by at least {unit}"
    return f"{worse} by at most {unit}" if size else f"not {worse}"


def near(atlas: Atlas, paper: Paper, most: int = 6) -> list[Paper]:
    """Papers that share the most tags with one, those of the same type and stage first, then the newest."""
    own = set(paper.tags)
    found = [other for other in atlas.papers.values() if own & set(other.tags) and other.id != paper.id]

    def distance(other: Paper) -> tuple[int, int, int, str]:
        alike = (other.type == paper.type) + (other.stage == paper.stage)
        return -len(own & set(other.tags)), -alike, -other.date.toordinal(), other.id

    return sorted(found, key=distance)[:most]


def conditions(setting: Any) -> str:
    """The known conditions of a number in one line."""
    known = setting.model_dump(exclude_none=True)
    named = ("ratio", "n", "judge", "attack")
    return ", ".join(f"{name} {value}" if name in named else str(value) for name, value in known.items())


def threat(setting: Setting) -> str:
    """Who the attacker is in one line, as far as it is known."""
    has = {"weights": "the weights", "service": "a fine-tuning service"}
    known = [
        setting.access and f"attacker has {has[setting.access]}",
        setting.harmful_data and f"harmful data {setting.harmful_data}",
        setting.adapts and f"adapts {setting.adapts}",
    ]
    return "; ".join(words for words in known if words)
