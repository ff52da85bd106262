"""Effects by setting from a table of counts: one row a method, model, ratio and seed."""

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import expit

from catalog.meta.settings import MEASURES, Effect, Setting, Settings
from catalog.meta.sizes import Counts, Measure, Sizes, sizes
from catalog.meta.studies_csv import ColumnError, Row, Studies
from catalog.meta.weighted import Vector
from catalog.problems import RefusedError, did_you_mean

REFERENCE = "sft"
COUNTS: dict[Effect, str] = {"hs_rd": "harmful", "hs_or": "harmful", "fa_rd": "correct"}
SHARED_PROMPTS = "the variance is that between seeds, which share their prompts: conclusions are for this prompt set"
BINOMIAL = "seeds do not vary or there is one each: variances are binomial over prompts"

Place = tuple[str, str]  # model and ratio
Arm = dict[Place, dict[str, tuple[float, float]]]  # k and n by seed


def from_csv(studies: Studies, method: str, effect: Effect) -> Settings:
    """Settings (model × ratio) of a method against the rows of method `sft`, paired by seed.

    The variance of a setting's mean over S seeds is s²/S, s² being the variance between seeds pooled over all
    settings of the method (design, section 2); for OR relative to the binomial one, which the base rates decide.
    hs leaves out rows without harmful data, because nothing attacks there.
    """
    arms, notes = _arms(studies, method, effect)
    paired, lonely, empty = _paired(arms[method], arms[REFERENCE])
    if lonely:
        notes.append(f"{lonely} seeds have no partner in the other arm and are left out")
    measure = MEASURES[effect]
    informative = {place: one for place, one in paired.items() if one.sums(measure).used[0]}
    excluded = [_label(*place) for place in (*empty, *(paired.keys() - informative.keys()))]
    if excluded:
        notes.append(f"excluded (no pair of seeds, or no information on odds): {'; '.join(sorted(excluded))}")
    freedom = sum(one.seeds - 1 for one in informative.values())
    squares = sum(one.squares(measure) for one in informative.values())
    between = squares / freedom if freedom else 0.0
    settings = [
        Setting(
            label=_label(*place),
            cluster=place[0],
            y=one.effect(measure),
            v=between * one.unit(measure) / one.seeds if between > 0 else float(one.means(measure).vi[0]),
            seeds=one.seeds,
            prompts=int(one.n1.min()),
        )
        for place, one in informative.items()
    ]
    notes.append(SHARED_PROMPTS if between > 0 else BINOMIAL)
    return Settings(tuple(settings), len(excluded), tuple(notes), float(freedom) if between > 0 else math.inf)


@dataclass(frozen=True)
class _Paired:
    """Counts of the seeds both arms have, in one setting."""

    k1: Vector
    n1: Vector
    k0: Vector
    n0: Vector

    @property
    def seeds(self) -> int:
        return len(self.k1)

    def sums(self, measure: Measure) -> Sizes:
        """Effect size of the counts added up; its variance takes answers for independent and is only a yardstick."""
        return sizes(measure, Counts(*(side.sum(keepdims=True) for side in (self.k1, self.n1, self.k0, self.n0))))

    def means(self, measure: Measure) -> Sizes:
        """Effect size of the mean counts, its variance as if all seeds were one."""
        return sizes(measure, Counts(*(side.mean(keepdims=True) for side in (self.k1, self.n1, self.k0, self.n0))))

    def effect(self, measure: Measure) -> float:
        return float(self.gaps.mean()) if measure == "RD" else float(self.sums(measure).yi[0])

    def unit(self, measure: Measure) -> float:
        """What the variance between seeds is measured in: 1, or the binomial variance of one seed's log odds ratio."""
        return 1.0 if measure == "RD" else float(self.sums(measure).vi[0]) * self.seeds

    def squares(self, measure: Measure) -> float:
        """Sum of squares between seeds, in units; of the linearised log odds ratios for OR."""
        gaps = self.gaps if measure == "RD" else _slope(self.k1, self.n1) - _slope(self.k0, self.n0)
        return float(((gaps - gaps.mean()) ** 2).sum()) / self.unit(measure)

    @cached_property
    def gaps(self) -> Vector:
        return np.asarray(self.k1 / self.n1 - self.k0 / self.n0)


def _slope(k: Vector, n: Vector) -> Vector:
    """Each seed's proportion over the slope p (1-p) of the logistic curve at the common one."""
    events, others = float(k.sum()), float((n - k).sum())
    correction = 0.5 if min(events, others) == 0 else 0.0
    share = float(expit(math.log((events + correction) / (others + correction))))
    return np.asarray(k / n / (share * (1 - share)))


def _arms(studies: Studies, method: str, effect: Effect) -> tuple[dict[str, Arm], list[str]]:
    """Counts of the method and its reference by setting and seed. A seed given twice must agree with itself."""
    methods, models, ratios, seeds = (studies.texts(column) for column in ("method", "model", "ratio", "seed"))
    if method not in methods:
        raise ColumnError(f"{studies.file}: no rows of method '{method}'; {did_you_mean(method, sorted(set(methods)))}")
    if REFERENCE not in methods or method == REFERENCE:
        raise ColumnError(
            f"{studies.file}: effects are against method '{REFERENCE}'; give its rows and another --method"
        )
    shares = [f"{share:g}" for share in studies.numbers("ratio")]
    k, n = studies.arm(f"{COUNTS[effect]}_k", f"{COUNTS[effect]}_n")
    arms: dict[str, Arm] = {who: defaultdict(dict) for who in (method, REFERENCE)}
    first: dict[tuple[str, ...], Row] = {}
    idle = 0
    for at, row in enumerate(studies.rows):
        if methods[at] not in arms:
            continue
        if effect != "fa_rd" and float(ratios[at]) == 0:
            idle += 1
            continue
        place = models[at], shares[at]
        before = first.setdefault((methods[at], *place, seeds[at]), row)
        if before.cells != row.cells:
            message = f"line {before.line} has the same method, model, ratio and seed with other numbers"
            raise RefusedError([studies.fault(row, message, "keep one of them, or give the replicate its own seed")])
        arms[methods[at]][place][seeds[at]] = float(k[at]), float(n[at])
    return arms, [f"{idle} rows without harmful data are left out: nothing attacks there"] if idle else []


def _paired(ours: Arm, theirs: Arm) -> tuple[dict[Place, _Paired], int, list[Place]]:
    """Settings with seeds in both arms, how many seeds are in one only, and settings without a pair."""
    paired, lonely, empty = {}, 0, []
    for place, by_seed in ours.items():
        reference = theirs.get(place, {})
        shared = sorted(by_seed.keys() & reference.keys())
        lonely += len(by_seed.keys() ^ reference.keys())
        if shared:
            columns = np.array([[*by_seed[seed], *reference[seed]] for seed in shared]).T
            paired[place] = _Paired(*columns)
        else:
            empty.append(place)
    return paired, lonely, empty


def _label(model: str, ratio: str) -> str:
    return f"{model}, {float(ratio):.3g} harmful"
