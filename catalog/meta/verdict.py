"""The verdict on one claim: reproduced, partially, not reproduced, inconclusive; or a baseline that does not match.

Effects are method minus baseline, in proportions. With margins declared before the runs (margins.py) and in this order:

1. not reproduced: the 90 % interval lies inside (-m_sup, m_sup), so the effect is practically null (TOST, Schuirmann
   1987), or the 95 % interval lies wholly on the harmful side of 0;
2. reproduced: the 95 % interval lies on the claimed side of 0 and the 90 % interval shows that the effect is not
   weaker than reported by m_eq; flagged "exceeds" when it is shown to be stronger than reported;
3. partially: the 95 % interval lies on the claimed side of 0, but (2) fails;
4. inconclusive: all else.

Before any of these the baseline has to come out as reported, else the verdict is "baseline mismatch" and says nothing
about the method. A claim of non-inferiority (accuracy is not lost) is reproduced when the 95 % interval excludes a
loss of the margin, not reproduced when it lies wholly beyond it, and inconclusive otherwise.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scipy.special import ndtr, ndtri, stdtr

from catalog.meta.effects import Estimate
from catalog.meta.margins import Margins
from catalog.meta.pool import quantile

Verdict = Literal["reproduced", "partially", "not reproduced", "inconclusive", "baseline mismatch"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "partially", "not reproduced", "inconclusive", "baseline mismatch")
Better = Literal["smaller", "larger"]
Interval = tuple[float, float]

TOLERANCE = 1e-9  # numbers closer than this are equal, so that 0.4 - 0.3 is not above 0.1
SMALL_POWER = 1 / 3  # of the original study at the small-telescope effect (Simonsohn 2015)


@dataclass(frozen=True)
class Measured:
    """A measured effect; `below` and `above` are the standard errors of its two sides, alike unless it is skewed."""

    value: float
    below: float
    above: float
    df: float = math.inf

    @classmethod
    def from_se(cls, value: float, se: float, df: float = math.inf) -> "Measured":
        """A symmetric effect with a t interval on df degrees of freedom."""
        return cls(value, se, se, df)

    @classmethod
    def from_interval(cls, value: float, low: float, high: float, df: float = math.inf) -> "Measured":
        """An effect known by its 95 % interval; intervals at other levels keep the skew of this one."""
        reach = quantile(df, 0.95)
        return cls(value, (value - low) / reach, (high - value) / reach, df)

    @classmethod
    def from_estimate(cls, estimate: Estimate) -> "Measured | None":
        """What the records give; None when a single seed gives no interval."""
        if estimate.se > 0:
            return cls.from_se(estimate.value, estimate.se, estimate.df)
        if math.isnan(estimate.low):
            return None
        return cls.from_interval(estimate.value, estimate.low, estimate.high)

    @property
    def se(self) -> float:
        return (self.below + self.above) / 2

    def interval(self, level: float) -> Interval:
        """The two-sided interval of this level, inside [-1, 1]."""
        reach = quantile(self.df, level)
        return max(-1.0, self.value - reach * self.below), min(1.0, self.value + reach * self.above)

    def mirrored(self) -> "Measured":
        return Measured(-self.value, self.above, self.below, self.df)


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """What a paper says: its effect, which direction is better, and its baseline.

    `spare` makes it a claim of non-inferiority: the loss it allows. The standard error of the reported effect and the
    two baselines are None when unknown.
    """

    reported: float
    better: Better = "smaller"
    spare: float | None = None
    reported_se: float | None = None
    baseline_reported: float | None = None
    baseline_measured: float | None = None

    @property
    def sign(self) -> float:
        """What turns effects so that negative is the claimed direction."""
        return 1.0 if self.better == "smaller" else -1.0

    @property
    def baseline_gap(self) -> float | None:
        """Measured minus reported baseline."""
        if self.baseline_reported is None or self.baseline_measured is None:
            return None
        return self.baseline_measured - self.baseline_reported


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A verdict with what it rests on.

    `margin` is m_eq, or the spared loss of a non-inferiority claim. `p` is two-sided in the claimed direction: 1 where
    the effect points the other way, and below alpha just where the 1 - alpha interval excludes the bound. The last
    four need the standard error of the reported effect: `z` compares measured and reported, `predicted` is where a
    replication was to be expected (Patil, Peng & Leek 2016), `detectable` the effect for which the original study had
    a power of a third, `undetectable` whether the measured one is shown to be smaller than that (Simonsohn 2015).
    """

    verdict: Verdict
    reason: str
    flags: tuple[str, ...]
    interval: Interval
    narrow: Interval
    margin: float
    p: float
    z: float | None = None
    predicted: Interval | None = None
    detectable: float | None = None
    undetectable: bool | None = None


def judge(claim: Claimed, found: Measured, margins: Margins) -> Judgement:
    """Apply the rule; ValueError for a superiority claim whose own reported effect is not in the claimed direction."""
    reported = claim.sign * claim.reported
    if claim.spare is None and not _below(reported, 0):
        raise ValueError(f"the paper reports {claim.reported:g}, which is not {claim.better} than the baseline")
    turned = found if claim.sign > 0 else found.mirrored()
    wide, narrow = turned.interval(1 - margins.alpha), turned.interval(1 - 2 * margins.alpha)
    if claim.spare is None:
        margin, bound = margins.m_eq(reported), 0.0
        verdict, reason, flags = _superior(wide, narrow, reported, margin, margins)
        if _below(-margins.m_sup, reported):
            flags.append("reported effect below m_sup")
    else:
        margin = bound = claim.spare
        verdict, reason, flags = _non_inferior(wide, margin)
    gap = claim.baseline_gap
    if gap is None:
        flags.append("baseline not checked")
    elif _below(margins.baseline, abs(gap)):
        verdict, flags = "baseline mismatch", [flag for flag in flags if flag != "exceeds"]
        reason = f"the baseline is {100 * abs(gap):.1f} points {'above' if gap > 0 else 'below'} the reported one"
    if _below(margins.half_width, (wide[1] - wide[0]) / 2):
        flags.append("wide")
    return Judgement(
        verdict=verdict,
        reason=reason,
        flags=tuple(flags),
        interval=found.interval(1 - margins.alpha),
        narrow=found.interval(1 - 2 * margins.alpha),
        margin=margin,
        p=_directed(turned, bound),
        **_against(claim, found, narrow, margins),
    )


def jointly(parts: Collection[Verdict]) -> Verdict:
    """The verdict on a claim that needs all its parts, such as a lower harmful score without loss of accuracy.

    By intersection-union: each part at the full level, reproduced only if all are, not reproduced if one is not.
    """
    for decisive in ("baseline mismatch", "not reproduced", "inconclusive", "partially"):
        if decisive in parts:
            return decisive
    return "reproduced"


def of_paper(primary: Sequence[Verdict]) -> Verdict | None:
    """The verdict on a paper from its primary claims; None without any.

    All reproduced: reproduced. None reproduced and one not: not reproduced. Else partially if any was at least in
    part, whatever the others; inconclusive if none was; baseline mismatch if no claim could be judged at all.
    """
    if not primary:
        return None
    known = set(primary)
    if known == {"reproduced"} or known == {"baseline mismatch"}:
        return primary[0]
    if "not reproduced" in known and "reproduced" not in known:
        return "not reproduced"
    return "partially" if known & {"reproduced", "partially"} else "inconclusive"


def _superior(
    wide: Interval, narrow: Interval, reported: float, m_eq: float, margins: Margins
) -> tuple[Verdict, str, list[str]]:
    """The rule for effects turned so that negative is claimed."""
    if _below(-margins.m_sup, narrow[0]) and _below(narrow[1], margins.m_sup):
        return "not reproduced", f"practically null: within {100 * margins.m_sup:g} points of 0", []
    if _below(0, wide[0]):
        return "not reproduced", "the effect goes the other way", []
    if _below(wide[1], 0):
        if _below(narrow[1], reported + m_eq):
            exceeds = ["exceeds"] if _below(narrow[1], reported) else []
            return "reproduced", f"not weaker than reported by {100 * m_eq:.3g} points", exceeds
        return "partially", f"in the claimed direction, but may be weaker by {100 * m_eq:.3g} points", []
    return "inconclusive", "the interval includes 0 and effects worth having", []


def _non_inferior(wide: Interval, spare: float) -> tuple[Verdict, str, list[str]]:
    """The same turn: what is positive is lost."""
    if _below(wide[1], spare):
        return "reproduced", f"no loss of {100 * spare:g} points", ["some loss"] if _below(0, wide[0]) else []
    if _below(spare, wide[0]):
        return "not reproduced", f"a loss of more than {100 * spare:g} points", []
    return "inconclusive", f"the interval includes a loss of {100 * spare:g} points", []


def _directed(turned: Measured, bound: float) -> float:
    """Twice the one-sided p-value of lying below the bound."""
    gap = turned.value - bound
    if turned.above <= 0:
        return 0.0 if gap < 0 else 1.0
    t = gap / turned.above
    return min(1.0, 2 * float(ndtr(t) if math.isinf(turned.df) else stdtr(turned.df, t)))


def _against(claim: Claimed, found: Measured, narrow: Interval, margins: Margins) -> dict[str, Any]:
    """Comparisons with the sampling error of the original study; none when it is unknown."""
    if claim.reported_se is None:
        return {}
    spread = math.hypot(found.se, claim.reported_se)
    reach = quantile(math.inf, 1 - margins.alpha)
    compared: dict[str, Any] = {
        "z": (found.value - claim.reported) / spread,
        "predicted": (claim.reported - reach * spread, claim.reported + reach * spread),
    }
    if claim.spare is None:
        small = claim.reported_se * (reach + float(ndtri(SMALL_POWER)))
        compared |= {"detectable": -claim.sign * small, "undetectable": _below(-small, narrow[0])}
    return compared


def _below(one: float, other: float) -> bool:
    return bool(one < other - TOLERANCE)
