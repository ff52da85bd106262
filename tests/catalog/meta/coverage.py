"""Coverage of nominal 95 % intervals for the mean risk difference of one method, as in section 0 of the design.

Run on demand, from the checkout: PYTHONPATH=. python tests/catalog/meta/coverage.py [repetitions]  (1500: minutes)

Every repetition draws base models, settings and seeds with the standard deviations of a row (points), 200 prompts
an arm, and a true mean of -20 points; then pools it naively (every record a binomial study, common effect), as
records or settings with REML, and by the default of `hft meta pool --method … --records …`.
"""

import sys
from collections.abc import Callable

import numpy as np

from catalog.meta import inputs
from catalog.meta.analysis import Choices, Data, pooled
from catalog.meta.replicates import from_csv
from catalog.meta.sizes import Counts, sizes
from catalog.meta.studies_csv import Row, Studies

COLUMNS = ("method", "model", "ratio", "seed", "harmful_k", "harmful_n")
TRUTH, UNDEFENDED, PROMPTS = -0.20, 0.50, 200
DESIGNS = [  # base models, ratios, seeds; standard deviations between models, settings and seeds in points
    (4, 3, 5, 6, 3, 3),
    (4, 3, 5, 3, 3, 3),
    (4, 3, 5, 0, 5, 3),
    (8, 3, 3, 6, 3, 3),
    (3, 3, 3, 6, 3, 3),
]
ANALYSES: dict[str, Callable[[Data, Data], tuple[Data, Choices]]] = {
    "records, common z": lambda records, _: (records, Choices(model="common", ci="z", pi="none")),
    "records, REML z": lambda records, _: (records, Choices(ci="z", pi="none")),
    "settings, REML z": lambda _, settings: (settings, Choices(ci="z", pi="none")),
    "settings, REML HK": lambda _, settings: (settings, Choices(ci="hk", pi="none")),
    "default: clusters": lambda _, settings: (settings, Choices(model="clusters", ci="hk", pi="none")),
}


def table(draw: np.random.Generator, design: tuple[int, ...]) -> Studies:
    """One drawn table of counts."""
    models, ratios, seeds, *spreads = design
    rows = []
    for model in range(models):
        by_model = draw.normal(0, spreads[0] / 100)
        for ratio in range(ratios):
            by_setting = draw.normal(0, spreads[1] / 100)
            for seed in range(seeds):
                defended = UNDEFENDED + TRUTH + by_model + by_setting + draw.normal(0, spreads[2] / 100)
                for method, share in (("sft", UNDEFENDED), ("guard", min(max(defended, 0), 1))):
                    cells = (
                        method,
                        f"m{model}",
                        f"0.{ratio + 1}",
                        str(seed),
                        str(draw.binomial(PROMPTS, share)),
                        str(PROMPTS),
                    )
                    rows.append(Row(len(rows) + 2, "", dict(zip(COLUMNS, cells, strict=True))))
    return Studies("drawn.csv", COLUMNS, tuple(rows), ())


def as_records(drawn: Studies) -> Data:
    """Every seed a study of its own: the error the design warns of."""
    k = {method: np.array([float(r.cells["harmful_k"]) for r in drawn.rows if r.cells["method"] == method])
         for method in ("guard", "sft")}  # fmt: skip
    n = np.full(len(k["sft"]), float(PROMPTS))
    found = sizes("RD", Counts(k["guard"], n, k["sft"], n))
    return Data(labels=[str(number) for number in range(len(n))], yi=found.yi, vi=found.vi, measure="RD")


def coverage(design: tuple[int, ...], repetitions: int, seed: int = 0) -> tuple[dict[str, float], float]:
    """Share of intervals that hold the truth, by analysis, and the mean half-width of the default in points."""
    draw = np.random.default_rng(seed)
    held, width = dict.fromkeys(ANALYSES, 0), 0.0
    for _ in range(repetitions):
        drawn = table(draw, design)
        settings = inputs.from_settings(from_csv(drawn, "guard", "hs_rd"), "hs_rd")
        for name, choose in ANALYSES.items():
            found = pooled(*choose(as_records(drawn), settings), profile=False)
            held[name] += found.low <= TRUTH <= found.high
        width += (found.high - found.low) / 2
    return {name: count / repetitions for name, count in held.items()}, 100 * width / repetitions


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
    sys.stdout.write(" | ".join(["design", *ANALYSES, "half-width"]) + "\n")
    for design in DESIGNS:
        shares, width = coverage(design, wanted)
        sizes_, spreads = "x".join(map(str, design[:3])), "/".join(map(str, design[3:]))
        line = [f"{sizes_}; {spreads}", *(f"{share:.3f}" for share in shares.values()), f"{width:.1f}"]
        sys.stdout.write(" | ".join(line) + "\n")
        sys.stdout.flush()
