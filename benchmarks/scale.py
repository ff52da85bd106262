"""How the catalogue grows: build, check and search on invented papers, each size in a process of its own.

Run as: python -m benchmarks.scale 10000 30000 100000

Prints one line a size: seconds of the processor and of the clock for `hft build` and the checks of the entries, peak
memory of the process, and the 95th percentile of the time of one search, over 300 searches of one to three words.

Measured on 2026-11-23 (two virtual cores, Python 3.11, other work on the second one):

| papers | build s (processor) | build s (clock) | check s (processor) | memory MB | search p50 ms | search p95 ms |
|---:|---:|---:|---:|---:|---:|---:|
| 10,000 | 4.7 | 4.8 | 2.9 | 192.7 | 4.4 | 7.3 |
| 30,000 | 13.7 | 13.8 | 8.3 | 352.3 | 4.2 | 7.2 |
| 100,000 | 49.6 | 50.6 | 33.1 | 842.2 | 6.4 | 12.6 |

Ten times the papers take ten and a half times the build: what grows faster is the look for near-equal titles.

A search is what `hft search` does, the look whether the database is current included. Only the newest
1,000 matches are ranked; ranking all took 52 to 118 ms.

`hft fmt --check`, and the check of the form in `hft check`, take about 13 ms an entry, nearly all of it ruamel.yaml's
reading and writing: two seconds for 173 papers, and no part of the build.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.catalog import synthetic

COLUMNS = ("papers", "megabytes of YAML", "build s (processor)", "build s (clock)", "check s (processor)")
COLUMNS += ("search p50 ms", "search p95 ms", "peak memory MB", "database MB")
BUDGET = {"build s (processor)": 60.0, "search p95 ms": 20.0, "peak memory MB": 1000.0}
"""What 100,000 papers may take."""


def measure(papers: int, folder: Path) -> dict[str, float]:
    """Build, check and search a catalogue of so many papers in this process, which should be a fresh one."""
    from catalog import db, lint, query
    from catalog.papers import read

    path, database = folder / "papers.yaml", folder / db.FILE_NAME
    synthetic.write(path, papers)
    built, on_the_clock = timed(lambda: db.build(folder, database))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000  # in kilobytes on Linux
    times = sorted(timed(lambda words=words: query.search(db.current(folder), words))[0] for words in queries(path))
    checked, _ = timed(lambda: lint.examine(read(path)))
    sizes = [file.stat().st_size / 1e6 for file in (path, database)]
    values = [papers, sizes[0], built, on_the_clock, checked]
    values += [1000 * times[len(times) // 2], 1000 * times[len(times) * 95 // 100], peak, sizes[1]]
    return dict(zip(COLUMNS, values, strict=True))


def timed(action: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of the processor, and of the clock."""
    start = time.process_time(), time.perf_counter()
    action()
    return time.process_time() - start[0], time.perf_counter() - start[1]


def queries(path: Path) -> list[str]:
    """300 searches: one to three words of titles, the last one cut short in a third of them."""
    with path.open(encoding="utf-8") as file:
        titles = [line.split('"')[1].split() for line in file if line.startswith("    title:")]
    step = max(1, len(titles) // 300)
    picked = [title[: 1 + number % 3] for number, title in enumerate(titles[::step][:300])]
    return [" ".join(words)[: -2 if number % 3 == 0 else None] for number, words in enumerate(picked)]


def main(sizes: list[int]) -> None:
    """Measure each size in a new process, one after the other."""
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---:|" * len(COLUMNS))  # noqa: T201
    for size in sizes:
        command = [sys.executable, "-m", "benchmarks.scale", "--one", str(size)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        row = json.loads(done.stdout)
        print("| " + " | ".join(f"{row[name]:,.1f}".removesuffix(".0") for name in COLUMNS) + " |", flush=True)  # noqa: T201


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        with tempfile.TemporaryDirectory() as place:
            print(json.dumps(measure(int(sys.argv[2]), Path(place))))  # noqa: T201
    else:
        main([int(size) for size in sys.argv[1:]] or [10_000, 30_000, 100_000])
