"""What a person decides about pending candidates: into the catalogue, or into excluded.yaml with a rule."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

from catalog import atomic, contribute, excluded, excluding, lint, papers, pending
from catalog.contribute import Outcome
from catalog.excluded import Excluded
from catalog.pending import Decided, Pending, Queue
from catalog.problems import Problem, RefusedError, did_you_mean
from catalog.schema import Ids
from catalog.taxonomy import PaperType, Stage


def identify(queue: Queue, text: str) -> str:
    """The arXiv id of the pending candidate that an id or address means; ValueError when none is meant."""
    name = contribute.identify(text).value
    if name not in queue.papers:
        near = f"; {did_you_mean(name, queue.papers)}" if queue.papers else ""
        raise ValueError(f"{name} is not pending{near}")
    return name


def accept(root: Path, name: str, kind: PaperType | None, stage: Stage | None, today: datetime.date) -> Outcome:
    """Add a candidate to papers.yaml as `hft add` does, and take it off the queue; that order loses nothing.

    What is not given is as predicted, and marked as a guess. A candidate that is there already only leaves the queue.
    """
    queue = pending.load(root)
    each = queue.papers[name]
    kind_, stage_ = kind or ("defense" if stage else each.type), stage
    if kind_ == "defense" and stage is None and each.type == "defense":
        stage_ = each.stage
    guessed = [
        key for key, given, used in (("type", kind or stage, kind_), ("stage", stage, stage_)) if used and not given
    ]
    paper = replace(
        each.candidate(name),
        type=kind_,
        stage=stage_,
        venue=contribute.published(each.journal_ref, each.comment, each.published),
        unsure=tuple(guessed),
    )
    outcome = contribute.add(root / papers.FILE, paper, None, today)
    _take_off(root, queue, name)
    return outcome


def reject(root: Path, name: str, rule: str, why: str | None, today: datetime.date) -> str:
    """Move a candidate to excluded.yaml, and say where it stands: there, or in the catalogue if it is known already.

    RefusedError when SCOPE.md has no such rule, or the candidate is in the catalogue.
    """
    known = excluded.rules(root)
    if rule not in known:
        fix = did_you_mean(rule, known) if known else f"name the rules in {excluded.SCOPE}"
        raise RefusedError([Problem("unknown-rule", excluded.SCOPE, "", f"no rule '{rule}'", fix)])
    queue = pending.load(root)
    each = queue.papers[name]
    decided = Decided(lint.sound(root / papers.FILE), excluded.read(root))
    said = decided.about(each.candidate(name))
    if said and said[0] == "known":
        message, fix = f"{name} is {said[1]}", "remove that entry first, if it is out of scope"
        raise RefusedError([Problem("both-in-and-out", str(pending.FILE), "", message, fix)])
    if said is None:
        names = Ids.model_validate(dict(each.candidate(name).ids))
        entry = Excluded(
            title=each.title, ids=names, date=each.published, decision="out", rule=rule, why=why, decided=today
        )
        excluding.add(root, entry)
    _take_off(root, queue, name)
    return said[1] if said else f"left out by the rule {rule}"


def _take_off(root: Path, queue: Queue, name: str) -> None:
    rest: dict[str, Pending] = {key: each for key, each in queue.papers.items() if key != name}
    atomic.write(root / pending.FILE, Queue(papers=rest).text().encode())
