"""The program `hft`: parses, delegates, formats. Everything heavy is imported inside its command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from catalog.meta import command as meta
from catalog.taxonomy import BASELINES, PaperType, Stage, Status
from catalog.terminal import card, complain, emit, table

if TYPE_CHECKING:
    from catalog.schema import Paper

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="HFT Atlas: the literature on harmful fine-tuning, reproduced and measured.",
)
export = typer.Typer(no_args_is_help=True, help="Write the catalogue in another format.")
app.add_typer(export, name="export")
app.add_typer(meta.app, name="meta")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="File to write.")]


# -- catalogue


@app.command()
def check(as_json: Json = False) -> None:
    """Check papers.yaml, modules, records and everything generated from them."""
    from catalog import lint

    found = lint.check(root())
    problems = [problem for problem in found if not problem.warning]
    complain([problem for problem in found if problem.warning or not as_json])
    if as_json:
        emit([problem.as_dict() for problem in problems])
    elif not problems:
        typer.echo("no problems")
    raise typer.Exit(1 if problems else 0)


@app.command("fmt")
def fmt(
    as_json: Json = False,
    check_only: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 if something would.")] = False,
) -> None:
    """Write papers.yaml in its canonical form, and the JSON Schema beside it."""
    from catalog import canonical

    with refusals():
        changed = canonical.write(root(), dry=check_only)
    if as_json:
        emit({"changed": changed})
    else:
        verb = "would change" if check_only else "changed"
        typer.echo("\n".join(f"{verb} {name}" for name in changed) or "already canonical")
    raise typer.Exit(1 if check_only and changed else 0)


@app.command()
def build(
    as_json: Json = False,
    to: Annotated[Path | None, typer.Option("--db", help="File to write [default: build/hft.sqlite].")] = None,
) -> None:
    """Build the SQLite database from papers.yaml and the run records."""
    from catalog import db

    home = root()
    path = to or home / db.FILE_NAME
    with refusals():
        counts = db.build(home, path)
    if as_json:
        emit({"db": str(path), "rows": counts})
    else:
        typer.echo(f"{path}: {counts['paper']} papers, {counts['claim']} claims, {counts['run']} runs")


@app.command("list")
def list_papers(
    kind: Annotated[PaperType | None, typer.Option("--type", help="Type of paper.")] = None,
    stage: Annotated[Stage | None, typer.Option(help="Where a defense acts.")] = None,
    year: Annotated[int | None, typer.Option(help="Year of the first public version.")] = None,
    tag: Annotated[str | None, typer.Option(help="A tag of the controlled list.")] = None,
    status: Annotated[Status | None, typer.Option(help="How far it is reproduced.")] = None,
    as_json: Json = False,
) -> None:
    """List papers that pass all filters, by date."""
    from catalog import db, query
    from catalog.problems import did_you_mean

    with refusals():
        engine = db.current(root())
        if tag is not None and tag not in (known := query.tags(engine)):
            fail(f"papers.yaml: no tag '{tag}'; {did_you_mean(tag, known)}", 2)
        rows = query.papers(engine, kind=kind, stage=stage, year=year, tag=tag, status=status)
    if as_json:
        emit(rows)
        return
    shown = [(r["id"], r["date"], r["type"], r["stage"] or "", f"{r['venue']} {r['year']}", r["status"]) for r in rows]
    table(["id", "date", "type", "stage", "venue", "status"], shown)
    typer.echo(f"{len(rows)} papers")


@app.command()
def show(
    paper: Annotated[str, typer.Argument(metavar="ID", help="Slug, arXiv id, DOI or URL.")],
    as_json: Json = False,
) -> None:
    """Show one paper: its facts, claims, reported numbers and reproduction."""
    from catalog import db, papers, query

    with refusals():
        home = root()
        entry = find_paper(paper, papers.load(home / papers.FILE)[1])
        facts = query.show(db.current(home), entry)
    if as_json:
        emit(facts)
    else:
        card(facts)


@app.command()
def search(
    words: Annotated[list[str], typer.Argument(metavar="TEXT", help="Words that must all occur.")],
    limit: Annotated[int, typer.Option(min=1, help="At most so many papers.")] = 20,
    as_json: Json = False,
) -> None:
    """Search titles, authors, tags, claims and ids."""
    from catalog import db, query

    with refusals():
        hits = query.search(db.current(root()), " ".join(words), limit)
    if as_json:
        emit(hits)
    else:
        table(["id", "title", "where"], [(hit["id"], hit["title"], hit["snippet"]) for hit in hits])


@export.command()
def bibtex(output: Output) -> None:
    """Write all papers as a BibTeX file."""
    from catalog import exporters, papers

    with refusals():
        head, entries = papers.load(root() / papers.FILE)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(exporters.bibliography(entries, head.venues), encoding="utf-8")
    typer.echo(f"{output}: {len(entries)} entries", err=True)


# -- reproduction and site


@app.command()
def run(
    papers_: Annotated[
        list[str] | None, typer.Argument(metavar="ID...", help="Slugs, arXiv ids, URLs, sft, non-aligned.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every module and both baselines.")] = False,
    kinds: Annotated[str, typer.Option("--type", help="With --all: only these types, as in attack,defense.")] = "",
    stages: Annotated[str, typer.Option("--stage", help="With --all: only defenses of these stages.")] = "",
    testbed: Annotated[str, typer.Option(help="micro, or hub:PATH for a local Hugging Face model.")] = "micro",
    seeds: Annotated[str, typer.Option(help="How many replicates, or which: 5 or 0,3.")] = "5",
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
    main: Annotated[
        bool,
        typer.Option("--main", help="Only the main configuration: no ablations, controls, studies beside a method."),
    ] = False,
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
        running.either(papers_, every, kinds, stages)
        asked = [running.module_of(t, entries) for t in papers_ or []]
        names = running.all_modules(entries, kinds, stages) if every else asked
        request = running.request(
            names, testbed=testbed, seeds=seeds, ratios=ratios, attack=attack, task=task, n=n, mode=mode,
            fields=settings or [], arms=not main, sweep=sweep, papers=entries, device=device, dtype=dtype,
            split=split, again=again, results=results,
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
        table(*measured.summary(records))
        typer.echo(running.compared(records, request.results))
    raise typer.Exit(1 if problems else 0)


@app.command()
def results(
    paper: Annotated[str | None, typer.Argument(metavar="[ID|verify]", help="A paper, or the word verify.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--results", help="Where records are [default: reproduce/results].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what was measured, with 95 % intervals in percent: how each defense stands, then every cell.

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
    if as_json:
        emit(measured.tidy(records, entries))
    else:
        for lines in (*measured.standing_tables(records, entries), measured.summary(records)):
            table(*lines)
            typer.echo()


@app.command()
def readme(
    check_only: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 on drift.")] = False,
) -> None:
    """Regenerate the measured parts of README.md."""
    from catalog import readme as generated

    with refusals():
        if not check_only:
            generated.write(root())
        drift = generated.drift(root())
    typer.echo("\n".join(drift) or "README.md is current")
    raise typer.Exit(1 if drift else 0)


@app.command()
def site(
    serve: Annotated[bool, typer.Option("--serve", help="Serve it on http://127.0.0.1:8000 afterwards.")] = False,
) -> None:
    """Build the site from the catalogue and the records."""
    from catalog import pages

    try:
        with refusals():
            built = pages.build(root())
    except RuntimeError as error:
        fail(f"site/mkdocs.yml: the build failed:\n{error}", 1)
    typer.echo(f"site: {built / 'index.html'}; to read it: hft site --serve")
    if serve:
        pages.serve(built)


# -- shared by the commands


def root() -> Path:
    """The directory that holds papers.yaml: here or above, or beside the installed package."""
    here = Path.cwd()
    folders = (here, *here.parents, Path(__file__).resolve().parent.parent)
    found = next((folder for folder in folders if (folder / "papers.yaml").is_file()), None)
    if found is None:
        fail(f"papers.yaml: not found in {here} or above; change to a checkout of HFT Atlas", 1)
    return found


def find_paper(text: str, entries: list[Paper]) -> Paper:
    """The entry a user means; ends the program with exit code 2 and the nearest ids when there is none."""
    from catalog import ids

    try:
        return ids.resolve(text, entries)
    except ids.UnknownPaperError as error:
        fail(str(error), 2)


def find_subject(text: str, entries: list[Paper]) -> str:
    """The slug of a baseline or of the entry a user means."""
    return text if text in BASELINES else find_paper(text, entries).id


@contextmanager
def refusals() -> Iterator[None]:
    """Turn refused input, and files that cannot be read or written, into messages on stderr and exit code 1."""
    from catalog.problems import RefusedError

    try:
        yield
    except RefusedError as refused:
        complain(refused.problems)
        raise typer.Exit(1) from None
    except OSError as error:
        fail(f"{error.filename2 or error.filename}: {error.strerror}; check the path and its permissions", 1)


def fail(message: str, code: int) -> NoReturn:
    """End the program with a message on stderr."""
    typer.echo(message, err=True)
    raise typer.Exit(code)
