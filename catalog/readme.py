"""The generated regions of README.md, and the pictures they show."""

import re
from pathlib import Path

from catalog import atlas as atlases
from catalog import charts, pages
from catalog.atlas import Atlas
from catalog.pages import boards
from catalog.schema import Paper

FILE = "README.md"
FOLDER = "site/pages/assets"
LIMIT = 200_000
REGION = re.compile(r"(<!-- generated:([a-z-]+) -->\n)(.*?)(<!-- /generated:\2 -->)", re.DOTALL)


def regions(root: Path) -> dict[str, str]:
    """The text of every generated region, by name, from papers.yaml and the run records of a checkout."""
    return _regions(atlases.read(root))


def write(root: Path) -> None:
    """Rewrite the generated regions of README.md and its pictures; text outside the regions stays."""
    atlas = atlases.read(root)
    path = root / FILE
    path.write_text(_filled(path.read_text(encoding="utf-8"), _regions(atlas)), encoding="utf-8")
    for place, drawing in _drawings(atlas).items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(drawing, encoding="utf-8")


def drift(root: Path) -> list[str]:
    """What of README.md and its pictures is not what `write` would make; one sentence with the fix each."""
    atlas = atlases.read(root)
    text = (root / FILE).read_text(encoding="utf-8")
    present = {found[2]: found[3] for found in REGION.finditer(text)}
    found = []
    fresh_regions = _regions(atlas)
    for name, fresh in fresh_regions.items():
        if name not in present:
            found.append(f"{FILE}: no region {name}; add <!-- generated:{name} --> and its end marker")
        elif present[name] != fresh:
            found.append(f"{FILE}: region {name} is out of date; run `hft readme`")
    unknown = sorted(present.keys() - fresh_regions.keys())
    found += [f"{FILE}: unknown region {name}; delete it" for name in unknown]
    for place, drawing in _drawings(atlas).items():
        if not (root / place).is_file() or (root / place).read_text(encoding="utf-8") != drawing:
            found.append(f"{place}: out of date; run `hft readme`")
    size = len(_filled(text, fresh_regions).encode())
    if size > LIMIT:
        found.append(f"{FILE}: {size} bytes, more than {LIMIT}; shorten the tables")
    return found


def _filled(text: str, fresh: dict[str, str]) -> str:
    return REGION.sub(lambda found: found[1] + fresh.get(found[2], found[3]) + found[4], text)


def _regions(atlas: Atlas) -> dict[str, str]:
    env = pages.environment(atlas)
    cells = boards.headline(atlas)
    picture = boards.headline_picture(atlas, cells) if cells else None
    sft = next((cell for cell in cells if cell.method == "sft"), None)
    drawn = {
        "counts": env.get_template("readme-counts.md.j2").render(counts=pages.counts(atlas)),
        "headline": env.get_template("readme-headline.md.j2").render(picture=picture, folder=FOLDER),
        "taxonomy": env.get_template("readme-taxonomy.md.j2").render(sections=_sections(atlas), sft=sft),
    }
    return {name: re.sub(r"\n{3,}", "\n\n", text).strip() + "\n" for name, text in drawn.items()}


def _drawings(atlas: Atlas) -> dict[str, str]:
    """Text of each picture by its path below the root."""
    cells = boards.headline(atlas)
    if not cells:
        return {}
    picture, chart = boards.headline_picture(atlas, cells), charts.ladder(boards.ladder_rows(atlas, cells))
    return {f"{FOLDER}/{picture.stem}-{scheme}.svg": charts.svg(chart, scheme) for scheme in charts.SCHEMES}


def _sections(atlas: Atlas) -> list[tuple[str, str, list[Paper]]]:
    """Heading marks, heading and papers: attacks, defenses by stage, mechanisms, benchmarks, surveys."""
    everything = list(atlas.papers.values())
    found: list[tuple[str, str, list[Paper]]] = []
    for title, papers in pages.by_type(everything):
        if papers and papers[0].type == "defense":
            found.append(("###", title, []))
            found += [("####", heading, listed) for heading, listed in pages.by_stage(title, papers)]
        elif papers:
            found.append(("###", title, papers))
    return found
