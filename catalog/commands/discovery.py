"""Commands that find papers and decide on them: discover, triage."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from catalog.commands.shared import Json, calendar_day, fail, refusals, root
from catalog.taxonomy import PaperType, Stage
from catalog.terminal import emit, table

if TYPE_CHECKING:
    from catalog.discover import Report
    from catalog.pending import Queue
    from catalog.relevance import Evaluation, Guessing


def discover(
    since: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="Papers first submitted on this day or later.")
    ] = None,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Ask nobody; only say how good the ranking is.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report, and write nothing.")] = False,
    arxiv_url: Annotated[str | None, typer.Option(help="Another arXiv server [default: HFT_ARXIV_URL].")] = None,
    delay: Annotated[
        float | None,
        typer.Option(envvar="HFT_ARXIV_DELAY", help="Seconds between requests [default: 3]; less only elsewhere."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask arXiv for papers the catalogue lacks; rank them and queue them for `hft triage`."""
    from catalog.sources.arxiv import Server

    today = datetime.date.today()
    try:
        day = calendar_day("--since", since) if since else None
        server = Server.given(arxiv_url, delay)
    except ValueError as error:
        fail(f"{error}", 2)
    if (day is None) != evaluate:
        fail("give either --since YYYY-MM-DD or --evaluate", 2)
    if day and day > today:
        fail(f"--since {day} lies in the future", 2)
    with refusals():
        from catalog import discover as discovering
        from catalog import expressions

        home = root()
        if day is None:
            figures = discovering.evaluation(home)
            if as_json:
                emit(figures.as_dict())
            else:
                _print_figures(figures)
            return
        searched = expressions.load()
        report = discovering.run(
            home, day, server, searched, today, dry=dry_run, tell=lambda line: typer.echo(line, err=True)
        )
    if as_json:
        emit(report.as_dict())
    else:
        _print(report)


def triage(
    papers: Annotated[
        list[str] | None, typer.Argument(metavar="list | ID", help="Pending papers [default: list them].")
    ] = None,
    accept: Annotated[bool, typer.Option("--accept", help="Add them to papers.yaml.")] = False,
    reject: Annotated[bool, typer.Option("--reject", help="Move them to excluded.yaml; needs --rule.")] = False,
    kind: Annotated[PaperType | None, typer.Option("--type", help="With --accept: type [default: predicted].")] = None,
    stage: Annotated[Stage | None, typer.Option(help="With --accept: where a defense acts.")] = None,
    rule: Annotated[str | None, typer.Option(help="With --reject: the rule of SCOPE.md.")] = None,
    why: Annotated[str | None, typer.Option(help="With --reject: a remark for later cases.")] = None,
    as_json: Json = False,
) -> None:
    """List pending papers, or accept or reject them."""
    from catalog import pending
    from catalog import triage as deciding

    named = [] if papers in (None, ["list"]) else list(papers or [])
    if named and accept == reject:
        fail("give either --accept or --reject", 2)
    if not named and (accept or reject):
        fail("say which: hft triage ID --accept, or ID --reject --rule RULE", 2)
    if (rule is None and reject) or ((rule or why) and not reject):
        fail("--reject goes with --rule (a rule of SCOPE.md) and may go with --why", 2)
    if (kind or stage) and not accept:
        fail("--type and --stage go with --accept", 2)
    if stage and kind not in (None, "defense"):
        fail(f"--stage {stage} is for defenses, not for --type {kind}", 2)
    today = datetime.date.today()
    with refusals():
        home = root()
        queue = pending.load(home)
        if not named:
            _list(queue, as_json)
            return
        try:
            chosen = list(dict.fromkeys(deciding.identify(queue, each) for each in named))
        except ValueError as error:
            fail(f"{error}", 2)
        told: list[dict[str, object]] = []
        for name in chosen:
            if accept:
                outcome = deciding.accept(home, name, kind, stage, today)
                told.append({"arxiv": name, **outcome.as_dict()})
                guessed = f"; predicted, to be confirmed: {', '.join(outcome.unsure)}" if outcome.unsure else ""
                said = f"there already as {outcome.id}" if outcome.known else f"added {outcome.id}{guessed}"
                typer.echo(f"{outcome.where}: {said}", err=as_json)
            else:
                said = deciding.reject(home, name, rule or "", why, today)
                told.append({"arxiv": name, "excluded": said})
                typer.echo(f"excluded.yaml: {name}: {said}", err=as_json)
    if as_json:
        emit(told)
    elif accept:
        typer.echo("next: hft readme, hft check", err=True)


def _list(queue: Queue, as_json: bool) -> None:
    ranked = queue.ranked()
    if as_json:
        emit([{"arxiv": name, **each.model_dump(mode="json")} for name, each in ranked])
        return
    _table(queue, [name for name, _ in ranked])
    typer.echo(f"{len(ranked)} pending; hft triage ID --accept, or ID --reject --rule RULE (SCOPE.md)")


def _table(queue: Queue, names: list[str]) -> None:
    rows = []
    for name in names:
        each = queue.papers[name]
        score = "-" if each.score is None else f"{each.score:.2f}"
        guess = " / ".join(part for part in (each.type, each.stage) if part)
        rows.append((name, score, guess, each.title, " ".join(each.found_by)))
    if rows:
        table(["arXiv", "score", "looks like", "title", "found by"], rows)


def _print(report: Report) -> None:
    _table(report.queue, [name for name, _ in report.queue.ranked() if name in set(report.new)])
    typer.echo(
        f"{report.found} papers since {report.since} by {len(report.hits)} expressions (version {report.version}): "
        f"{len(report.known)} in the catalogue, {len(report.excluded)} left out before, "
        f"{len(report.withdrawn)} withdrawn, {len(report.twins)} twins, {len(report.again)} pending already, "
        f"{len(report.new)} new; {len(report.queue.papers)} pending; written: {', '.join(report.written) or 'nothing'}"
    )
    for name, reason in report.decided.items():
        typer.echo(f"no longer pending: {name}: {reason}")
    if report.evaluation:
        _print_figures(report.evaluation)
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)


def _print_figures(figures: Evaluation) -> None:
    if ranking := figures.relevance:
        typer.echo(f"ranking by {figures.reads}, cross-validated ({figures.folds}):")
        typer.echo(f"  average precision {ranking.average_precision}; a random order has {ranking.chance:.3f}")
        typer.echo(f"  work saved over sampling at 95 % recall {ranking.work_saved}; at most {ranking.most:.3f}")
        typer.echo(f"  specificity at 95 % recall {ranking.specificity}")
    else:
        typer.echo("ranking: too few decisions to learn from")
    _print_guess("type", figures.type)
    _print_guess("stage", figures.stage)
    typer.echo(f"  {figures.caveat}")


def _print_guess(name: str, guess: Guessing | None) -> None:
    if guess:
        counts = ", ".join(f"{count} {label}" for label, count in guess.counts.items())
        typer.echo(f"  {name} ({counts}): accuracy {guess.accuracy}; always the commonest {guess.majority:.3f}")
