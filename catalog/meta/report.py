"""The living analysis: everything that was measured, pooled anew, with what is concluded and what changed.

A pure function of cells, findings, entries, declared margins and the last report. Proportions throughout; effects are a
defense minus SFT. Nothing is pooled across testbeds.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from threadpoolctl import threadpool_limits

from catalog.conditions import DEFAULT
from catalog.measured import Cell
from catalog.meta import claims, conclusions, living_moderators, living_network, verdict_document
from catalog.meta.analysis import Data, clusters_of, pooled
from catalog.meta.conclusions import Conclusion
from catalog.meta.document import plain
from catalog.meta.gathered import EFFECTS, Bed, Line, data, lines
from catalog.meta.ledger import Ledger, ledger
from catalog.meta.living_stages import BY_CLUSTER, Stage, bounded, stages
from catalog.meta.margins import Margins
from catalog.meta.network_document import Analysis
from catalog.meta.pool import Pooled
from catalog.meta.settings import Effect
from catalog.schema import Paper
from catalog.studies import Finding

Document = dict[str, Any]
SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Report:
    """The document, and what its figures are drawn from: stages and networks by bed, condition and effect."""

    document: Document
    stages: dict[tuple[Bed, Effect], list[Stage]] = field(default_factory=dict)
    networks: dict[tuple[Bed, str, Effect], Analysis] = field(default_factory=dict)


def report(
    cells: Sequence[Cell],
    findings: Sequence[Finding],
    papers: Mapping[str, Paper],
    margins: Margins,
    before: Document | None = None,
) -> Report:
    """Analyse everything; `before` is the document of the last report, to say what changed."""
    found, judged = lines(cells), _ledger(cells, findings, papers, margins)
    concluded: dict[str, Conclusion] = {}
    made = Report({})
    beds = []
    # thousands of matrices of 50 × 50: threads of BLAS wait for one another longer than they compute
    with threadpool_limits(1, "blas"):  # type: ignore[no-untyped-call]
        for bed in sorted({line.bed for line in found}, key=lambda bed: bed.name):
            own = [line for line in found if line.bed == bed]
            beds.append(_bed(bed, own, papers, margins, made, concluded))
    concluded |= _of_ledger(judged, cells)
    records = sorted({run["key"] for cell in cells for run in cell.runs})
    digest = hashlib.sha256("\n".join(records).encode()).hexdigest()[:16]
    now = conclusions.document(concluded)
    made.document.update(
        {
            "schema": SCHEMA,
            "records": {"count": len(records), "digest": digest, "keys": records},
            **conclusions.history(now, records, digest, before),
            "margins": margins.model_dump(mode="json"),
            "method": METHOD,
            "testbeds": beds,
            "ledger": plain(verdict_document.document(judged)),
            "conclusions": now,
        }
    )
    return made


METHOD = {
    "effect": "defense minus SFT, as a proportion; harmful score (hs_rd): smaller is better, accuracy (fa_rd): larger",
    "cluster": "the base model; on micro every seed has its own",
    "pooling": "averages inside clusters, then REML with guarded Hartung-Knapp intervals of 95 % (never narrower than"
    " normal ones, so that equal answers of few bases are not certainty), cut at -1 and 1; fewer than 3 clusters carry"
    " no general claim",
    "prediction": "where a new cluster may lie (Higgins, Thompson & Spiegelhalter 2009)",
    "stages": "the interval is about the mean of these defenses on other bases, the prediction interval about another"
    " defense of the stage",
    "looks": "every report on other records is a look; intervals are not adjusted for their number",
}


def pooled_document(chosen: Sequence[Line], effect: Effect, found: tuple[Data, Pooled]) -> Document:
    """One pooled effect with everything a reader needs to weigh it."""
    effects, one = found
    spread = one.heterogeneity
    known = [line.effects[effect] for line in chosen if effect in line.effects]
    return {
        "estimate": one.estimate,
        "se": one.se,
        "ci_low": bounded(one.low),
        "ci_high": bounded(one.high),
        "pi_low": bounded(one.pi_low),
        "pi_high": bounded(one.pi_high),
        "p": one.p,
        "tau2": spread.tau2,
        "tau2_ci_low": spread.tau2_low,
        "tau2_ci_high": spread.tau2_high,
        "i2": spread.i2["tau2"],
        "q": spread.q,
        "q_df": spread.q_df,
        "k": len(effects.yi),
        "clusters": clusters_of(effects),
        "prompts": min(part.prompts for part in known),
        "seeds": max(len(part.seeds) for part in known),
        "notes": list(one.notes),
    }


def pool_lines(chosen: Sequence[Line], effect: Effect) -> tuple[Data, Pooled] | None:
    """Pool some lines of one defense by cluster; None when none has the outcome."""
    effects = data(chosen, effect)
    return None if effects is None else (effects, pooled(effects, BY_CLUSTER))


def _bed(
    bed: Bed,
    own: Sequence[Line],
    papers: Mapping[str, Paper],
    margins: Margins,
    made: Report,
    concluded: dict[str, Conclusion],
) -> Document:
    by_condition: dict[str, list[Line]] = defaultdict(list)
    for line in own:
        by_condition[line.condition].append(line)
    order = sorted(by_condition, key=lambda name: (name != DEFAULT, name))
    networks = []
    for condition in order:
        for effect in EFFECTS:
            analysis = living_network.analysis(by_condition[condition], effect)
            if analysis is None:
                continue
            made.networks[bed, condition, effect] = analysis
            networks.append({"condition": condition, "effect": effect, **living_network.document(analysis)})
            keys = sorted({key for line in by_condition[condition] for key in line.records})
            concluded[f"{bed.name}/network/{condition}/{effect}"] = Conclusion(analysis.notes[0], tuple(keys))
    by_stage: dict[Effect, list[Stage]] = {}
    usual = by_condition.get(DEFAULT, [])
    for effect in EFFECTS:
        made.stages[bed, effect] = by_stage[effect] = stages(usual, effect, papers)
        for stage in by_stage[effect]:
            says = conclusions.of_effect(stage.found, clusters_of(stage.data) or 0, effect, margins)
            concluded[f"{bed.name}/stage/{stage.name}/{effect}"] = Conclusion(says, stage.records)
    defenses = [
        _defense(bed, method, [line for line in own if line.method == method], papers, margins, concluded)
        for method in dict.fromkeys(line.method for line in own)
    ]
    return {
        "testbed": bed.testbed,
        "protocol": bed.protocol,
        "conditions": order,
        "defenses": plain(defenses),
        "stages": plain({effect: [stage.document() for stage in by_stage[effect]] for effect in EFFECTS}),
        "networks": networks,
        "moderators": plain(living_moderators.moderators(own, by_stage)),
    }


def _defense(
    bed: Bed,
    method: str,
    own: Sequence[Line],
    papers: Mapping[str, Paper],
    margins: Margins,
    concluded: dict[str, Conclusion],
) -> Document:
    groups: dict[str, list[Line]] = defaultdict(list)
    for line in own:
        groups[line.condition].append(line)
    conditions = []
    for condition, chosen in groups.items():
        row: Document = {"condition": condition, "ratio": chosen[0].ratio, "settings": [one.setting for one in chosen]}
        keys = tuple(sorted({key for line in chosen for key in line.records}))
        for effect in EFFECTS:
            found = pool_lines(chosen, effect)
            row[effect] = found and pooled_document(chosen, effect, found)
            if found:
                says = conclusions.of_effect(found[1], clusters_of(found[0]) or 0, effect, margins)
                row[effect]["conclusion"] = says
                concluded[f"{bed.name}/{method}/{condition}/{effect}"] = Conclusion(says, keys)
        conditions.append(row)
    paper = papers.get(method)
    overall: Document = {}
    for effect in EFFECTS:
        found = pool_lines(own, effect) if len(groups) > 1 else None
        overall[effect] = found and pooled_document(own, effect, found)
    named = {"method": method, "stage": paper.stage if paper else None}
    return named | {"conditions": conditions, "over_conditions": overall if len(groups) > 1 else None}


def _ledger(
    cells: Sequence[Cell], findings: Sequence[Finding], papers: Mapping[str, Paper], margins: Margins
) -> Ledger:
    wanted = [entry for entry in papers.values() if entry.reproduction]
    return ledger(claims.tried(wanted, cells, findings), margins)


def _of_ledger(judged: Ledger, cells: Iterable[Cell]) -> dict[str, Conclusion]:
    """Verdicts on papers and on claims; the records behind them are all of the paper's on that testbed."""
    keys: dict[tuple[str, str], set[str]] = defaultdict(set)
    for cell in cells:
        own = {run["key"] for one in (cell, cell.twin) if one for run in one.runs}
        for name in {cell.paper, cell.method}:
            keys[name, str(cell.condition.get("testbed"))] |= own
    made = {}
    for paper in judged.papers:
        if paper.verdict:
            records = tuple(sorted(keys[paper.paper, paper.testbed]))
            made[f"ledger/{paper.testbed}/{paper.paper}"] = Conclusion(paper.verdict, records)
    for unit in judged.units:
        one = unit.first
        claim = "+".join(entry.tried.claim for entry in unit.entries)
        name = "/".join(part for part in ("ledger", one.testbed, one.paper, claim, one.setting) if part)
        made[name] = Conclusion(cast("str", unit.verdict), tuple(sorted(keys[one.paper, one.testbed])))
    return made
