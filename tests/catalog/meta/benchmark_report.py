"""How long the whole report takes over 50,000 synthetic records, in processor time; the target is 10 s.

Run on demand, from the checkout: PYTHONPATH=. python tests/catalog/meta/benchmark_report.py

49 defenses and SFT under 5 declared conditions on 200 bases, 300 prompts for harm and 300 for accuracy. Records are in
memory, because the report is what is measured, not the disk.
"""

import sys
import time

import numpy as np

from catalog import measured
from catalog.conditions import DECLARED
from catalog.meta import margins, report

BASES, DEFENSES, PROMPTS = 200, 49, 300
FIXED = {
    "kind": "run",
    "protocol": "micro-9",
    "testbed": "micro",
    "arm": "main",
    "version": 1,
    "n": 1000,
    "task": "sentiment",
    "model": "tiny",
    "data": "world",
}


def marks(draw, share):
    return ((draw.random(PROMPTS) < share) + 48).astype("u1").tobytes().decode()


def record(draw, condition, number, seed):
    attack, mode, ratio = DECLARED[condition]
    paper = f"defense-{number}" if number else "sft"
    asked = {"paper": paper, "method": {"paper": paper}, "attack": attack, "mode": mode, "ratio": ratio, "seed": seed}
    outcomes = {"harmful": marks(draw, 0.7 - 0.01 * number), "accuracy": marks(draw, 0.85)}
    return {
        "key": f"{condition}-{number}-{seed}",
        "spec": FIXED | asked,
        "status": "ok",
        "reason": None,
        "metrics": {name: {"n": PROMPTS, "k": one.count("1"), "outcomes": one} for name, one in outcomes.items()},
        **{name: {} for name in ("before", "mechanisms", "curves", "cost", "digests")},
        "made": "2026-11-23T03:00:00Z",
    }


def main():
    draw = np.random.default_rng(0)
    found = [
        record(draw, condition, number, seed)
        for condition in list(DECLARED)[:5]
        for number in range(DEFENSES + 1)
        for seed in range(BASES)
    ]
    start = time.process_time()
    cells = measured.cells(found)
    paired = time.process_time() - start
    made = report.report(cells, [], {}, margins.load())
    took = time.process_time() - start
    said = f"{len(found)} records: {took:.1f} s, {paired:.1f} s of it to pair them with their twins"
    sys.stdout.write(f"{said}; {len(made.document['conclusions'])} conclusions, {len(made.networks)} networks\n")


if __name__ == "__main__":
    main()
