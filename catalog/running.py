"""`hft run` and `hft results` between the catalogue and the harness: names to modules, progress, the measured table."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from catalog import ids
from catalog.problems import Problem, RefusedError, did_you_mean
from catalog.schema import Paper
from catalog.taxonomy import BASELINES, PaperType, Stage
from reproduce import record
from reproduce.baselines import CONDITIONS
from reproduce.protocol import MODES, RequestError
from reproduce.testbeds import protocol_of

if TYPE_CHECKING:
    from reproduce.engine import Arms, Job, Request

SPLITS = ("test", "validation")


class UsageError(ValueError):
    """What was asked for does not exist or does not fit together."""


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn unknown ids and unusable options into a message on stderr and exit code 2."""
    try:
        yield
    except (ids.UnknownPaperError, UsageError, RequestError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


def module_of(text: str, papers: Sequence[Paper]) -> str:
    """The module name, or the baseline, that a user means by a slug, module name, arXiv id, other id or URL.

    Names joined by "+" are defenses deployed together.
    """
    if "+" in text:
        return "+".join(module_of(part, papers) for part in text.split("+"))
    if text in BASELINES:
        return text
    paper = ids.resolve(text, papers)
    if paper.reproduction is None:
        known = ", ".join(p.id for p in papers if p.reproduction)
        raise UsageError(f"{paper.id}: no module yet; reproduced are {known}, sft and non-aligned")
    return paper.reproduction.module


def either(names: Sequence[str] | None, every: bool, only_all: Mapping[str, str | bool]) -> None:
    """Refuse names beside --all, and the options that go only with it, rather than drop one of them in silence."""
    if names and every:
        raise UsageError("give papers or --all, not both")
    for option, chosen in only_all.items():
        if chosen and not every:
            raise UsageError(f"{option}{'' if chosen is True else f' {chosen}'}: goes with --all")


def arms(every: bool, whole: bool, main: bool) -> "Arms":
    """What --all, --arms and --main ask for: a paper by its id comes with all its arms, --all is the default grid."""
    if whole and main:
        raise UsageError("give --arms or --main, not both")
    if main:
        return "main"
    return "grid" if every and not whole else "all"


def all_modules(papers: Iterable[Paper], types: str, stages: str) -> list[str]:
    """Every module of the catalogue, baselines first; `types` and `stages` (comma-separated) keep only those."""
    kinds, when = _chosen("--type", types, PaperType), _chosen("--stage", stages, Stage)
    chosen = [p for p in papers if p.reproduction and p.type in kinds and (not stages or p.stage in when)]
    return [*BASELINES, *(p.reproduction.module for p in chosen if p.reproduction)]


def _chosen(option: str, text: str, known: Any) -> Sequence[str]:
    wanted = [part for part in text.split(",") if part]
    for unknown in set(wanted).difference(names := get_args(known)):
        raise UsageError(f"{option} {unknown}: {did_you_mean(unknown, names)}")
    return wanted or names


def request(
    modules: Sequence[str], *, seeds: str, ratios: str | None, attack: str, mode: str, fields: Sequence[str],
    results: Path | None, papers: Sequence[Paper], **rest: Any,
) -> "Request":  # fmt: skip
    """The options of `hft run` as the harness takes them; UsageError names the option that does not fit."""
    from reproduce.engine import Request

    if not modules:
        raise UsageError("name at least one paper, sft or non-aligned; or --all")
    if rest["sweep"] and fields:
        raise UsageError("--sweep and --set both choose values; give one of them")
    tasks = protocol_of(rest["testbed"]).tasks
    if rest["task"] is not None and rest["task"] not in tasks:
        raise UsageError(f"--task {rest['task']}: {did_you_mean(rest['task'], tasks)}")
    if rest["device"].partition(":")[0] not in ("cpu", "cuda"):
        raise UsageError(f"--device {rest['device']}: choose cpu or cuda")
    if mode not in MODES:
        raise UsageError(f"--mode {mode}: {did_you_mean(mode, MODES)}")
    if rest["split"] not in SPLITS:
        raise UsageError(f"--split {rest['split']}: {did_you_mean(rest['split'], SPLITS)}")
    for text in fields:
        if "=" not in text:
            raise UsageError(f"--set {text}: write NAME=VALUE, as in --set rho=5")
    return Request(
        modules=tuple(modules), seeds=_seeds(seeds), ratios=_ratios(ratios) if ratios else None,
        attacks=_attacks(attack, papers), mode=mode,
        fields=dict(f.split("=", 1) for f in fields), results=(results or record.RESULTS).absolute(), **rest,
    )  # fmt: skip


def _attacks(text: str, papers: Sequence[Paper]) -> tuple[str, ...]:
    """Names of conditions, and papers' own attacks as MODULE:ARM."""
    if text == "all":
        return tuple(CONDITIONS)
    return tuple(_attack(part, papers) for part in text.split(","))


def _attack(text: str, papers: Sequence[Paper]) -> str:
    if text in CONDITIONS:
        return text
    name, _, arm = text.partition(":")
    try:
        paper = ids.resolve(name, papers)
    except ids.UnknownPaperError:
        raise UsageError(f"--attack {text}: {did_you_mean(text, [*CONDITIONS, 'all'])}, or an attack paper") from None
    if paper.type != "attack":
        raise UsageError(f"--attack {text}: {paper.id} is a {paper.type}, not an attack")
    return f"{module_of(paper.id, papers)}:{arm}"


def _seeds(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 0 or text == "0":
        raise UsageError(f"--seeds {text}: give how many (5) or which (0,3; a single one with a comma: 3,)")
    return numbers if "," in text else tuple(range(numbers[0]))


def _ratios(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = (-1.0,)
    if not all(0 <= number <= 1 for number in numbers):
        raise UsageError(f"--ratios {text}: give numbers from 0 to 1 with commas between, as in 0,0.1")
    return numbers


def plan(wanted: "Request") -> "list[Job]":
    """All jobs of a request, done or not."""
    from reproduce import engine

    return engine.plan(wanted)


def execute(jobs: "Sequence[Job]", processes: int) -> list[str]:
    """Run what is not there yet under a progress bar on stderr; the problems of jobs that failed."""
    from reproduce import engine

    problems: list[str] = []
    missing = engine.pending(jobs)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("training" if missing else "all records are there", total=len(missing))

        def report(job: "Job", problem: str | None) -> None:
            progress.update(bar, advance=1, description=job.label)
            if problem:
                problems.append(problem)
            if problem or not progress.console.is_terminal:
                progress.console.print(f"{job.label}: {problem or 'done'}", markup=False)

        engine.execute(missing, processes, report)
    return problems


def read(place: Path) -> list[record.Record]:
    """All records of a folder; RefusedError names one that cannot be read."""
    try:
        return list(record.read(place))
    except ValueError as error:
        where, _, rest = str(error).partition(": ")
        message, _, fix = rest.partition("; ")
        raise RefusedError([Problem("unreadable", where, "", message, fix)]) from error


def records_of(jobs: "Iterable[Job]") -> list[record.Record]:
    """The records of the jobs that have one, in the order of the jobs."""
    return [record.load(job.path) for job in jobs if job.done]


OUTCOMES = ("metrics", "findings")  # of a run, of a study


def compared(records: Iterable[record.Record], place: Path) -> str:
    """How fresh records agree with the committed ones of the same keys and bases, in one line."""
    committed = {_place(r): r for r in record.read(record.RESULTS)} if place != record.RESULTS else {}
    pairs = [(r, committed[_place(r)]) for r in records if _place(r) in committed and r["status"] == "ok"]
    if not pairs:
        return f"records: {place}"
    same = sum(all(fresh.get(what) == old.get(what) for what in OUTCOMES) for fresh, old in pairs)
    gap = max(abs(_harm(fresh) - _harm(old)) for fresh, old in pairs)
    return (
        f"records: {place}; {same} of {len(pairs)} runs and studies have exactly the outcomes of the committed record, "
        f"largest difference in harmful score {100 * gap:.1f} points"
    )


def _place(run: record.Record) -> tuple[str, str | None]:
    return run["key"], run["digests"].get("base")


def _harm(run: record.Record) -> float:
    metric = run.get("metrics", {}).get("harmful")  # a study has none
    return metric["k"] / metric["n"] if metric else 0.0
