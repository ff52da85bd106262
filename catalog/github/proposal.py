"""A new-paper form becomes one entry in papers.yaml and the texts of a pull request and a comment."""

import datetime
from pathlib import Path

from catalog import atomic, contribute
from catalog.candidates import Candidate
from catalog.github import form
from catalog.github.markdown import fenced, joined, payload
from catalog.papers import FILE
from catalog.problems import Problem, RefusedError
from catalog.sources.arxiv import Server
from catalog.taxonomy import PAPER_TYPES, STAGES

TEMPLATE = form.TEMPLATES / "new-paper.yml"
MARK = "<!-- hft form -->"
BRANCH = "paper/issue-{}"


def propose(root: Path, event: Path, folder: Path, server: Server | None, today: datetime.date) -> bool:
    """Add the paper of a form to the catalogue in `root`; whether there is something to propose.

    Writes into `folder` comment.json (the answer to the issue) and, when an entry was added, the pull request: all
    request bodies for GitHub's API. RefusedError leaves papers.yaml as it was and is told in
    comment.json as well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        submission = form.read(event, root / TEMPLATE)
        outcome = contribute.add(root / FILE, candidate(submission), server, today)
    except RefusedError as refused:
        problems = fenced("\n".join(f"{each.message}; {each.fix}" for each in refused.problems))
        text = "This cannot be added yet. Edit the issue, and it is read again."
        _comment(folder, [text, problems])
        raise
    if outcome.known:
        text = f"Entry `{outcome.id}` is this paper already ({outcome.known}). To correct it, use the correction form."
        _comment(folder, [text, *_notes(outcome)])
        return False
    parts = [f"Closes #{submission.number}", "The entry, made from the form:", fenced(outcome.text, "yaml")]
    if outcome.unsure:
        parts.append(f"Guessed, to be looked up: {', '.join(outcome.unsure)}.")
    title, body = f"[paper] {outcome.id}", joined([*parts, *_notes(outcome)])
    write_pull(folder, title, BRANCH.format(submission.number), body)
    _comment(folder, [f"A pull request adds this as `{outcome.id}`; a maintainer will look at it."])
    return True


def write_pull(folder: Path, title: str, branch: str, body: str) -> None:
    """Write the request bodies that open a pull request (pull.json) and that renew an open one (update.json)."""
    text = {"title": title, "body": body}
    atomic.write(folder / "pull.json", payload(**text, head=branch, base="main", maintainer_can_modify=True))
    atomic.write(folder / "update.json", payload(**text))


def candidate(submission: form.Submission) -> Candidate:
    """The paper that a form describes; RefusedError names answers that cannot be read."""
    answers, problems = submission.answers, []
    where = f"issue {submission.number}"
    kind = next((k for k in PAPER_TYPES if k == answers.get("type")), None)
    stage = next((s for s in STAGES if s == answers.get("stage")), None)
    identity, day = None, None
    try:
        identity = contribute.identify(answers["paper"])
    except ValueError as error:
        problems.append(Problem("form", where, "", str(error), "paste the address of the paper on arXiv"))
    try:
        day = datetime.date.fromisoformat(answers["date"]) if "date" in answers else None
    except ValueError as error:
        problems.append(Problem("form", where, "", f"date: {error}", "write it as 2024-02-29"))
    if stage and kind not in (None, "defense"):
        problems.append(Problem("form", where, "", f"a stage with type {kind}", "only defenses have a stage"))
    if identity is None or problems:
        raise RefusedError(problems)
    return Candidate(
        title=" ".join(answers.get("title", "").split()),
        authors=tuple(name for name in (part.strip() for part in answers.get("authors", "").split(";")) if name),
        date=day,
        ids={identity.kind: identity.value},
        venue=answers.get("venue"),
        links={"code": answers["code"]} if "code" in answers else {},
        origin=where,
        type=kind,
        stage=stage,
    )


def _comment(folder: Path, parts: list[str]) -> None:
    atomic.write(folder / "comment.json", payload(body=joined([MARK, *parts])))


def _notes(outcome: contribute.Outcome) -> list[str]:
    return [fenced("\n".join(outcome.notes))] if outcome.notes else []
