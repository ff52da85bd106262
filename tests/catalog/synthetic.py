"""Catalogues of any size with invented papers, the same for the same seed."""

import random
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

HEAD = """# yaml-language-server: $schema=catalog/papers.schema.json
schema: 1
tags:
  perturbation: "Trains against a simulated shift"
  few-shot: "A handful of examples is enough"
venues:
  NeurIPS: {kind: conference, full: Conference on Neural Information Processing Systems}
  arXiv: {kind: preprint, full: arXiv preprint server}
papers:
"""
SYLLABLES = "ba ce di fo gu ha je ki lo mu na pe ri so tu va we xi yo zu".split()
COMMON = "safety alignment harmful fine-tuning attack defense model large robust embedding drift gradient noise".split()
MAIN = "track: main, status: accepted"
PREPRINT = "track: null, status: preprint"
FAMILY = ("Müller", "Żak", "Bell", "O'Hara", "van der Berg", "Núñez")


def write(path: Path, papers: int, seed: int = 0) -> None:
    """Write a papers.yaml of so many entries in canonical form, one to four authors each, names all single."""
    with path.open("w", encoding="utf-8") as file:
        file.write(HEAD)
        file.write("\n".join(entries(papers, seed)))


def entries(papers: int, seed: int = 0) -> Iterator[str]:
    """The text of each entry, by date and id."""
    draw = random.Random(seed)
    words = COMMON + ["".join(draw.choices(SYLLABLES, k=draw.randint(2, 4))) for _ in range(20_000)]
    # a few words in every other title, most of them in hardly any, as in real titles
    weights = list(accumulate([400.0] * len(COMMON) + [1000 / rank for rank in range(1, 20_001)]))
    for number in range(papers):
        month, day = divmod(number * 12 * 28 * 10 // papers, 28)
        year, month = 2015 + month // 12, month % 12 + 1
        title = " ".join(draw.choices(words, cum_weights=weights, k=draw.randint(6, 14))).capitalize()
        people = [f"{draw.choice(SYLLABLES).title()} {draw.choice(FAMILY)} {n}" for n in draw.sample(range(60_000), 4)]
        arxiv = f"{year % 100:02}{month:02}.{number % 100_000:05}"
        is_defense, is_accepted = draw.random() < 0.6, draw.random() < 0.4
        venue = "NeurIPS" if is_accepted else "arXiv"
        yield "\n".join(
            [
                f"  - id: paper-{number:06}",
                f'    title: "{title}"',
                f"    authors: [{', '.join(people[: draw.randint(1, 4)])}]",
                f"    date: {year}-{month:02}-{day + 1:02}",
                f'    ids: {{arxiv: "{arxiv}", openreview: null, doi: null, acl: null}}',
                f"    venue: {{name: {venue}, year: {year}, {MAIN if is_accepted else PREPRINT}}}",
                f"    type: {'defense' if is_defense else 'attack'}",
                *(["    stage: alignment"] if is_defense else []),
                f"    tags: [{draw.choice(('perturbation', 'few-shot'))}]",
                "    setting: {access: service, harmful_data: explicit, adapts: full}",
                f"    links: {{code: https://github.com/invented/paper-{number}}}",
                "    curation: {added: 2026-11-20, source: invented, checked: 2026-11-20}",
                "",
            ]
        )
