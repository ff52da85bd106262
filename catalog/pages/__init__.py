"""The site: real Markdown files from catalogue and records, then a strict MkDocs build."""

import contextlib
import functools
import os
import shutil
import subprocess
import sys
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from catalog import atlas as atlases
from catalog import charts, costs, ids, measured
from catalog.atlas import Atlas
from catalog.exports import bibtex, dictionary, ris, rows
from catalog.pages import boards, combinations, matrix, meta, paper, pictures, sheets, stress, words
from catalog.schema import Paper
from catalog.taxonomy import BASELINES
from reproduce.protocol import HUB, MICRO


def build(root: Path) -> Path:
    """Generate all pages of a checkout and build the site; returns the folder of the built site.

    Raises RuntimeError with MkDocs' own words when the strict build finds a problem.
    """
    generate(atlases.read(root), root / "site/pages/generated")
    # Not --quiet: it silences the warnings that --strict counts.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "site/mkdocs.yml"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=root, env=environment, text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"site: mkdocs failed; mend the page it names\n{done.stdout}{done.stderr}")
    return root / "site/_build"


def serve(site: Path, port: int = 8000) -> None:
    """Serve a built site on localhost until interrupted; search needs http, so opening the files is not enough."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=site)
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


def generate(atlas: Atlas, out: Path) -> None:
    """Write every generated page, figure and download below `out`, replacing what was there."""
    shutil.rmtree(out, ignore_errors=True)
    figures = out / "figures"
    figures.mkdir(parents=True)
    env = environment(atlas)
    for entry in atlas.papers.values():
        page = paper.page(atlas, entry, figures)
        _write(env, "paper.md.j2", out / f"papers/{entry.id}.md", page=page)
    everything = list(atlas.papers.values())
    _write(env, "papers.md.j2", out / "papers/index.md", title="Papers", groups=by_type(everything))
    for kind, title in words.TYPES.items():
        listed = [entry for entry in everything if entry.type == kind]
        _write(env, "papers.md.j2", out / f"taxonomy/{kind}.md", title=title, groups=by_stage(title, listed))
    _write(env, "leaderboard.md.j2", out / "leaderboard.md", boards=boards.boards(atlas, figures))
    by_condition, by_attack = matrix.by_condition(atlas), matrix.by_attack(atlas)
    _write(env, "matrix.md.j2", out / "matrix.md", conditions=by_condition, attacks=by_attack)
    _write(env, "combinations.md.j2", out / "combinations.md", page=combinations.combinations(atlas, figures))
    _write(env, "excluded.md.j2", out / "excluded.md", excluded=atlas.excluded, rules=atlas.rules)
    _write(env, "meta.md.j2", out / "meta.md", page=meta.living(atlas, figures))
    _parts(env, atlas, out)
    measured.frame(atlas.cells).to_csv(out / "measured.csv", index=False)
    _downloads(env, atlas, out)


def environment(atlas: Atlas) -> Environment:
    """The Jinja environment of all templates; everything printed is escaped for HTML."""
    env = Environment(
        loader=PackageLoader("catalog", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    env.filters |= {"md": words.markdown, "conditions": paper.conditions, "threat": paper.threat}
    env.filters |= {"addresses": ids.links}
    env.globals |= {"atlas": atlas, "words": words, "columns": sheets.columns, "costed": sheets.costed}
    env.globals |= {"status": paper.status, "standing": boards.standing, "aside": boards.aside}
    env.globals |= {"stressed": stress.worst, "costs": costs.ratios, "divided": divided}
    return env


def by_type(papers: list[Paper]) -> list[tuple[str, list[Paper]]]:
    """Papers under the heading of their type, newest first."""
    return [(title, newest([p for p in papers if p.type == kind])) for kind, title in words.TYPES.items()]


def by_stage(title: str, papers: list[Paper]) -> list[tuple[str, list[Paper]]]:
    """Defenses under their stage, anything else under one heading, newest first."""
    groups = {stage: newest([p for p in papers if p.stage == stage]) for stage in words.STAGES}
    found = [(f"{stage.capitalize()} stage", group) for stage, group in groups.items() if group]
    return found or [(f"All {title.lower()}", newest(papers))]


def divided(atlas: Atlas, papers: list[Paper]) -> tuple[list[Paper], list[Paper]]:
    """Papers with a measured number or finding, and those without, each in their order."""
    studied = {finding.paper for finding in atlas.findings}
    runs = ("attack", "defense")
    done = [p for p in papers if (boards.standing(atlas, p.id) if p.type in runs else p.id in studied)]
    return done, [p for p in papers if p not in done]


def newest(papers: list[Paper]) -> list[Paper]:
    """By date, newest first, then by id."""
    return sorted(papers, key=lambda entry: (-entry.date.toordinal(), entry.id))


def counts(atlas: Atlas) -> dict[str, Any]:
    """How much there is: papers by type and stage, measured papers, records."""
    papers = atlas.papers.values()
    return {
        "papers": len(papers),
        "types": Counter(entry.type for entry in papers),
        "stages": Counter(entry.stage for entry in papers if entry.stage),
        "modules": sum(entry.reproduction is not None for entry in papers),
        "measured": sum(paper.status(atlas, entry) == "measured" for entry in papers),
        "records": atlas.records,
    }


def _downloads(env: Environment, atlas: Atlas, out: Path) -> None:
    """The catalogue in every format of `hft export`, and the page that says what their columns mean."""
    papers, venues = list(atlas.papers.values()), atlas.head.venues
    texts = {
        "papers.bib": bibtex.bibliography(papers, venues, names=atlas.citation_keys),
        "papers.csv": rows.to_csv(papers),
        "papers.json": rows.to_json(atlas.head, papers),
        "papers.ris": ris.references(papers, venues),
    }
    for name, text in texts.items():
        (out / name).write_bytes(text.encode())
    _write(env, "downloads.md.j2", out / "downloads.md", lines=dictionary.dictionary())


def _parts(env: Environment, atlas: Atlas, out: Path) -> None:
    """Fragments that hand-written pages include."""
    cells = boards.headline(atlas)
    picture = boards.headline_picture(atlas, cells) if cells else None
    if picture:
        picture = pictures.draw(charts.ladder(boards.ladder_rows(atlas, cells)), out / "figures", picture)
    _write(env, "home.md.j2", out / "parts/home.md", counts=counts(atlas), picture=picture)
    fixed = {p.name: p for p in (MICRO, HUB)}
    _write(env, "calibration.md.j2", out / "parts/calibration.md", runs=_runs(atlas), fixed=fixed, tuned=_tuned(atlas))
    _write(env, "vocabulary.md.j2", out / "parts/vocabulary.md")


def _tuned(atlas: Atlas) -> list[dict[str, Any]]:
    """What each defense was tried with on validation prompts, and whether that is what it runs with."""
    used = [(cell.method, cell.settings) for cell in atlas.cells if cell.arm == "main"]
    return [
        {"cell": cell, "chosen": (cell.method, cell.settings) in used}
        for cell in sorted(atlas.tuning, key=lambda cell: (cell.method, str(cell.attack), str(cell.settings)))
        if cell.method not in BASELINES
    ]


def _runs(atlas: Atlas) -> list[dict[str, Any]]:
    """What was run under each protocol, from the records themselves."""
    found: dict[tuple[str, str], dict[str, set[Any]]] = {}
    for cell in atlas.cells:
        condition = cell.condition
        row = found.setdefault((condition["testbed"], condition["protocol"]), {})
        for name in ("model", "data", "task", "mode", "n"):
            row.setdefault(name, set()).add(condition[name])
        row.setdefault("strength", set()).add(cell.attack.get("strength"))
        row.setdefault("ratio", set()).add(cell.ratio)
        row.setdefault("seeds", set()).add(cell.seeds)
        row.setdefault("prompts", set()).update(e.prompts for k, e in cell.metrics.items() if k == "harmful")
    return [
        {"testbed": testbed, "protocol": protocol}
        | {name: sorted(value for value in values if value not in (None, "")) for name, values in row.items()}
        for (testbed, protocol), row in sorted(found.items())
    ]


def _write(env: Environment, template: str, path: Path, **context: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(env.get_template(template).render(context).strip() + "\n", encoding="utf-8")
