"""Commands that measure and show what was measured: run, results."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from catalog.commands.shared import Json, fail, find_subject, refusals, root
from catalog.terminal import emit, table


def run(
    papers_: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Slugs, arXiv ids, URLs, sft, non-aligned.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every module and both baselines: the default grid.")] = False,
    kinds: Annotated[str, typer.Option("--type", help="With --all: only these types, as in attack,defense.")] = "",
    stages: Annotated[str, typer.Option("--stage", help="With --all: only defenses of these stages.")] = "",
    testbed: Annotated[str, typer.Option(help="micro, or hub:PATH for a local Hugging Face model.")] = "micro",
    seeds: Annotated[
        str, typer.Option(help="How many replicates (5), or which (0,3; a single one with a comma: 3,).")
    ] = "5",
    ratios: Annotated[
        str | None, typer.Option(help="Shares of harmful samples [default: 0,0.05,0.1,0.2 graded, else 0.1].")
    ] = None,
    attack: Annotated[
        str, typer.Option(help="Conditions, as in graded,strong,steps-600; all; or a paper's own attack, as PAPER:ARM.")
    ] = "graded",
    task: Annotated[str | None, typer.Option(help="Downstream task: sentiment or card.")] = None,
    n: Annotated[int | None, typer.Option(min=1, help="Number of user samples.")] = None,
    mode: Annotated[str, typer.Option(help="full, single-lora or double-lora.")] = "full",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Change a field of the module.")
    ] = None,
    arms: Annotated[
        bool,
        typer.Option("--arms", help="With --all: also ablations and controls of defenses, studies beside them."),
    ] = False,
    main: Annotated[bool, typer.Option("--main", help="Only the main configuration of each module.")] = False,
    sweep: Annotated[bool, typer.Option("--sweep", help="Each defense at every value of its main knob.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes [default: one per core].")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    split: Annotated[str, typer.Option(help="test reports, validation chooses hyper-parameters.")] = "test",
    again: Annotated[bool, typer.Option("--again", help="Measure anew beside records that exist.")] = False,
    results: Annotated[Path | None, typer.Option(help="Where records go [default: reproduce/results].")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run.")] = False,
    as_json: Json = False,
) -> None:
    """Reproduce papers: align, attack, measure; skips records that exist and resumes after a stop."""
    from catalog import papers, running
    from catalog import results as measured

    with refusals(), running.usage_errors():
        entries = papers.load(root() / papers.FILE)[1]
        running.either(papers_, every, {"--type": kinds, "--stage": stages, "--arms": arms})
        asked = [running.module_of(t, entries) for t in papers_ or []]
        names = running.all_modules(entries, kinds, stages) if every else asked
        request = running.request(
            names, testbed=testbed, seeds=seeds, ratios=ratios, attack=attack, task=task, n=n, mode=mode,
            fields=settings or [], arms=running.arms(every, arms, main), sweep=sweep, papers=entries, device=device,
            dtype=dtype, split=split, again=again, results=results,
        )  # fmt: skip
        planned = running.plan(request)
    if dry_run:
        rows = [{"label": j.label, "path": str(j.path), "done": j.done} for j in planned]
        if as_json:
            emit(rows)
        else:
            table(["run", "state"], [(str(r["label"]), "there" if r["done"] else "missing") for r in rows])
        return
    problems = running.execute(planned, jobs or os.cpu_count() or 1)
    records = running.records_of(planned)
    if as_json:
        emit(records)
    else:
        for columns, lines in (measured.summary(records), measured.findings(records)):
            if lines:
                table(columns, lines)
        typer.echo(running.compared(records, request.results))
    raise typer.Exit(1 if problems else 0)


def results(
    paper: Annotated[str | None, typer.Argument(metavar="ID|verify", help="A paper, or the word verify.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--results", help="Where records are [default: reproduce/results].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what was measured, with 95 % intervals: how each defense stands, every cell, the findings of studies.

    The word `verify` checks instead that no record was edited.
    """
    from catalog import papers, running
    from catalog import results as measured
    from reproduce import record

    place = folder or record.RESULTS
    if not place.is_dir():
        fail(f"--results {place}: no such folder", 2)
    if paper == "verify":
        found = record.verify(place)
        if as_json:
            emit(found)
        else:
            typer.echo(
                "\n".join(f"{p['path']}: {p['message']}; {p['fix']}" for p in found)
                or f"{len(record.paths(place))} records, all intact"
            )
        raise typer.Exit(1 if found else 0)
    with refusals(), running.usage_errors():
        entries = papers.load(root() / papers.FILE)[1]
        slug = "+".join(find_subject(part, entries) for part in paper.split("+")) if paper else None
        records = measured.select(running.read(place), slug)
        if paper and slug and not any(measured.is_of(one, slug) for one in records):
            running.module_of(paper, entries)
            fail(f"{slug}: no records in {place}; hft run {slug} makes them", 1)
    if as_json:
        emit(measured.tidy(records, entries))
    else:
        every = (*measured.standing_tables(records, entries), measured.summary(records), measured.findings(records))
        for columns, lines in every:
            if lines:
                table(columns, lines)
                typer.echo()
