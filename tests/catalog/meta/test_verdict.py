"""The verdict rule: a worked case for every branch, boundaries included, that every other order of the rule fails."""

import datetime
import math

import pytest
from pydantic import ValidationError
from scipy.stats import norm, t, ttest_1samp
from statsmodels.stats.multitest import multipletests

from catalog.meta import ledger, margins
from catalog.meta.effects import over_seeds
from catalog.meta.ledger import Direction, Tried
from catalog.meta.margins import Margins
from catalog.meta.verdict import Claimed, Measured, jointly, judge, of_paper

MARGINS = Margins(
    version=1, date=datetime.date(2026, 11, 23), why="worked cases", m_sup=0.05, m_eq_floor=0.10, m_eq_share=1 / 3,
    m_fa=0.02, baseline=0.10, half_width=0.05, alpha=0.05,
)  # fmt: skip
Z95, Z90 = norm.ppf(0.975), norm.ppf(0.95)


def case(value, half, reported=-0.30, **claim):
    """A measured effect with a normal 95 % interval of this half-width, judged against a reported one."""
    return judge(Claimed(reported=reported, **claim), Measured.from_se(value, half / Z95), MARGINS)


# Each line by hand: R, estimate, half-width of the 95 % interval; half-width of the 90 % one is 0.8392 of it.
CASES = [
    ("practically null", -0.30, 0.00, 0.04, "not reproduced"),
    ("null although shown below 0: the order of the rule", -0.30, -0.03, 0.02, "not reproduced"),
    ("null although not weaker than reported by m_eq", -0.08, -0.03, 0.02, "not reproduced"),
    ("null although shown above 0", -0.30, 0.03, 0.01, "not reproduced"),
    ("harm", -0.30, 0.10, 0.06, "not reproduced"),
    ("as reported", -0.30, -0.29, 0.04, "reproduced"),
    ("a little weaker: 90 % upper end -0.2164 < -0.20", -0.30, -0.25, 0.04, "reproduced"),
    ("wide, yet clear: order, not width, decides", -0.60, -0.62, 0.15, "reproduced"),
    ("stronger", -0.30, -0.50, 0.05, "reproduced"),
    ("weaker than m_eq allows: 90 % upper end -0.1664", -0.30, -0.20, 0.04, "partially"),
    ("may be much weaker", -0.30, -0.30, 0.20, "partially"),
    ("includes 0 and more than m_sup", -0.30, -0.05, 0.08, "inconclusive"),
    ("as strong as reported, but noise", -0.30, -0.30, 0.35, "inconclusive"),
    ("too wide to be null", -0.30, 0.00, 0.10, "inconclusive"),
    ("harmful estimate, not shown", -0.30, 0.06, 0.08, "inconclusive"),
]


@pytest.mark.parametrize(("name", "reported", "value", "half", "expected"), CASES)
def test_worked_cases(name, reported, value, half, expected):
    assert case(value, half, reported).verdict == expected, name


@pytest.mark.parametrize(("name", "reported", "value", "half", "expected"), CASES)
def test_larger_is_better_is_the_mirror_image(name, reported, value, half, expected):
    assert case(-value, half, -reported, better="larger").verdict == expected, name


def rule(order, reported, value, half):
    """The four classes decided in another order, written down a second time."""
    se = half / Z95
    low95, high95, low90, high90 = (value + sign * z * se for z in (Z95, Z90) for sign in (-1, 1))
    m_eq = max(0.10, abs(reported) / 3)
    tests = {
        "null": (low90 > -0.05 and high90 < 0.05, "not reproduced"),
        "harm": (low95 > 0, "not reproduced"),
        "reproduced": (high95 < 0 and high90 < reported + m_eq, "reproduced"),
        "partially": (high95 < 0, "partially"),
        "wide": (half > 0.05, "inconclusive"),
    }
    return next((tests[name][1] for name in order if tests[name][0]), "inconclusive")


ORDER = ("null", "harm", "reproduced", "partially")


@pytest.mark.parametrize(
    ("order", "same"),
    [
        (ORDER, True),
        (("reproduced", "partially", "null", "harm"), False),
        (("harm", "reproduced", "null", "partially"), False),
        (("null", "harm", "partially", "reproduced"), False),
        (("null", "reproduced", "partially"), False),
        (("harm", "reproduced", "partially"), False),
        (("wide", *ORDER), False),
    ],
)
def test_the_worked_cases_tell_the_order_from_every_other(order, same):
    agree = [rule(order, *numbers) == expected for _, *numbers, expected in CASES]
    assert all(agree) is same


def test_boundaries_are_strict():
    # 90 % interval from -0.05 to 0.03: its end is not inside (-m_sup, m_sup).
    half = 0.04 * Z95 / Z90
    assert case(-0.01, half).verdict == "inconclusive"
    assert case(-0.0099, half).verdict == "not reproduced"
    # 95 % interval that ends at 0.
    assert case(-0.30, 0.30).verdict == "inconclusive"
    assert case(-0.30, 0.2999).verdict == "partially"
    # 90 % upper end at R + m_eq = -0.20.
    half = 0.05 * Z95 / Z90
    assert case(-0.25, half).verdict == "partially"
    assert case(-0.2501, half).verdict == "reproduced"
    # harm that begins at 0
    assert case(0.20, 0.20).verdict == "inconclusive"
    assert case(0.20, 0.1999).verdict == "not reproduced"


def test_exceeds_is_shown_not_guessed():
    assert "exceeds" in case(-0.50, 0.05).flags
    assert case(-0.34, 0.05).verdict == "reproduced"
    assert "exceeds" not in case(-0.34, 0.05).flags, "90 % upper end -0.298 is above -0.30"
    assert "exceeds" in case(-0.3421, 0.05).flags


def test_margin_grows_with_the_reported_effect():
    assert [case(value, 0.01, value).margin for value in (-0.09, -0.30, -0.60)] == pytest.approx([0.10, 0.10, 0.20])
    assert case(-0.45, 0.04, -0.60).verdict == "reproduced"
    assert case(-0.43, 0.04, -0.60).verdict == "partially", "90 % upper end -0.396 is not below -0.40"


def test_width_is_flagged():
    assert "wide" in case(-0.60, 0.0501).flags
    assert "wide" not in case(-0.60, 0.05).flags


def test_baseline_comes_first():
    good = {"baseline_reported": 0.30, "baseline_measured": 0.40}
    assert case(-0.29, 0.04, **good).verdict == "reproduced", "0.4 - 0.3 is 10 points, whatever floating point says"
    for measured in (0.401, 0.199):
        judged = case(-0.50, 0.04, **good | {"baseline_measured": measured})
        assert judged.verdict == "baseline mismatch"
        assert "exceeds" not in judged.flags
    assert "above" in case(0, 0.01, **good | {"baseline_measured": 0.6}).reason, "even where the rule says null"
    assert "baseline not checked" in case(-0.29, 0.04).flags


@pytest.mark.parametrize(
    ("value", "half", "expected", "flag"),
    [
        (0.00, 0.019, "reproduced", False),
        (-0.01, 0.005, "reproduced", True),
        (0.05, 0.06, "reproduced", False),
        (-0.01, 0.01, "inconclusive", False),  # ends at the margin
        (0.00, 0.03, "inconclusive", False),
        (-0.03, 0.01, "inconclusive", False),  # begins at the margin
        (-0.03, 0.009, "not reproduced", False),
    ],
)
def test_accuracy_is_kept_when_a_loss_of_the_margin_is_excluded(value, half, expected, flag):
    judged = case(value, half, reported=0.0, better="larger", spare=0.02)
    assert judged.verdict == expected
    assert ("some loss" in judged.flags) is flag


def test_superiority_of_the_wrong_sign_is_refused():
    with pytest.raises(ValueError, match="not smaller"):
        case(-0.1, 0.01, reported=0.0)
    with pytest.raises(ValueError, match="not larger"):
        case(-0.1, 0.01, reported=-0.1, better="larger")


def test_t_intervals_and_p_values_agree_with_scipy():
    values = [-0.31, -0.22, -0.40, -0.28, -0.19]
    judged = judge(Claimed(reported=-0.3), Measured.from_estimate(over_seeds(values)), MARGINS)
    for alternative, tested in (("two-sided", -0.0), ("less", 0.0)):
        reference = ttest_1samp(values, tested, alternative=alternative)
        assert judged.p == pytest.approx(reference.pvalue * (1 if alternative == "two-sided" else 2))
    assert judged.interval == pytest.approx(tuple(ttest_1samp(values, 0).confidence_interval(0.95)))
    assert judged.narrow == pytest.approx(tuple(ttest_1samp(values, 0).confidence_interval(0.90)))


def test_p_is_one_where_the_effect_points_the_other_way():
    assert case(0.30, 0.05).p == 1
    lost = judge(Claimed(reported=0, better="larger", spare=0.02), Measured.from_se(-0.01, 0.004, 7), MARGINS)
    assert lost.p == pytest.approx(2 * t.sf(0.01 / 0.004, 7))


def test_skewed_interval_keeps_its_sides():
    found = Measured.from_interval(-0.2, -0.30, -0.15)
    low, high = found.interval(0.90)
    assert (low, high) == pytest.approx((-0.2 - 0.1 * Z90 / Z95, -0.2 + 0.05 * Z90 / Z95))
    assert found.mirrored().interval(0.90) == pytest.approx((-high, -low))


def test_one_seed_gives_no_verdict():
    assert Measured.from_estimate(over_seeds([-0.3])) is None


def test_replication_against_the_sampling_error_of_the_original():
    judged = case(-0.10, 0.02 * Z95, reported_se=0.06)
    spread = math.hypot(0.02, 0.06)
    assert judged.z == pytest.approx(0.20 / spread)
    assert judged.predicted == pytest.approx((-0.30 - Z95 * spread, -0.30 + Z95 * spread))
    power = norm.cdf(abs(judged.detectable) / 0.06 - Z95)
    assert power == pytest.approx(1 / 3), "the effect for which the original had a power of 33 %"
    assert judged.detectable < 0
    assert judged.undetectable is False, "90 % lower end -0.133 lies beyond -0.092"
    assert case(-0.02, 0.02 * Z95, reported_se=0.06).undetectable is True
    assert case(0.02, 0.02 * Z95, reported=0.3, reported_se=0.06, better="larger").undetectable is True
    assert case(-0.10, 0.02).z is None


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ("reproduced reproduced", "reproduced"),
        ("reproduced,partially", "partially"),
        ("reproduced,inconclusive", "inconclusive"),
        ("partially,inconclusive", "inconclusive"),
        ("reproduced,not reproduced", "not reproduced"),
        ("inconclusive,not reproduced", "not reproduced"),
        ("not reproduced,baseline mismatch", "baseline mismatch"),
    ],
)
def test_a_joint_claim_needs_all_its_parts(parts, expected):
    assert jointly(parts.split("," if "," in parts else " ")) == expected


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ([], None),
        (["reproduced", "reproduced"], "reproduced"),
        (["not reproduced", "inconclusive"], "not reproduced"),
        (["not reproduced", "partially"], "not reproduced"),
        (["not reproduced", "baseline mismatch"], "not reproduced"),
        (["not reproduced", "reproduced"], "partially"),
        (["reproduced", "inconclusive"], "partially"),
        (["reproduced", "baseline mismatch"], "partially"),
        (["partially", "inconclusive"], "partially"),
        (["partially"], "partially"),
        (["inconclusive", "inconclusive"], "inconclusive"),
        (["inconclusive", "baseline mismatch"], "inconclusive"),
        (["baseline mismatch", "baseline mismatch"], "baseline mismatch"),
    ],
)
def test_verdict_on_a_paper(claims, expected):
    assert of_paper(claims) == expected
    assert of_paper(claims[::-1]) == expected


def tried(paper, claim, value=-0.3, half=0.04, *, joint=None, primary=True, testbed="", **claimed):
    asked = Claimed(**{"reported": -0.3} | claimed)
    found = Measured.from_se(value, half / Z95)
    return Tried(paper=paper, claim=claim, testbed=testbed, joint=joint, primary=primary, claimed=asked, found=found)


KEPT = {"reported": 0.0, "better": "larger", "spare": 0.02}
OFF = {"baseline_reported": 0.3, "baseline_measured": 0.9}


def test_joint_claims_count_once_with_the_larger_p():
    made = ledger.ledger(
        [
            tried("a", "C1", joint="1"),
            tried("a", "C1b", value=0.0, half=0.015, joint="1", **KEPT),
            tried("a", "C2", value=-0.2, half=0.19),
            tried("b", "C1", value=-0.1, half=0.11),
            tried("b", "C2", **OFF),
        ],
        MARGINS,
    )
    first, second, third, off = made.units
    assert [len(unit.entries) for unit in made.units] == [2, 1, 1, 1]
    accuracy = made.entries[1].judgement.p
    assert first.adjusted.p == accuracy > made.entries[0].judgement.p
    ps = [unit.p for unit in (first, second, third)]
    for name in ("bh", "by"):
        expected = multipletests(ps, method=f"fdr_{name}")[1]
        assert [getattr(unit.adjusted, name) for unit in (first, second, third)] == pytest.approx(expected)
    assert [first.adjusted.holm, second.adjusted.holm] == pytest.approx(sorted([min(1, 2 * min(ps[:2])), max(ps[:2])]))
    assert third.adjusted.holm == ps[2], "Holm is within a paper: one claim of it is in the family"
    assert off.adjusted is None, "a claim that was not judged is in no family"


def test_lower_harm_at_the_price_of_accuracy_is_not_reproduced():
    made = ledger.ledger(
        [tried("a", "C1", joint="1"), tried("a", "C1b", value=-0.28, half=0.1, joint="1", **KEPT)], MARGINS
    )
    assert [entry.judgement.verdict for entry in made.entries] == ["reproduced", "not reproduced"]
    assert made.papers[0].verdict == "not reproduced"


def test_testbeds_are_families_of_their_own():
    two = [tried("a", "C1", half=0.1, testbed="micro"), tried("a", "C1", half=0.5, testbed="hub:x")]
    made = ledger.ledger(two, MARGINS)
    assert [unit.adjusted.bh for unit in made.units] == [unit.p for unit in made.units]
    assert {one.testbed: one.verdict for one in made.papers} == {"micro": "reproduced", "hub:x": "inconclusive"}


def test_only_primary_claims_decide_a_paper_and_what_was_not_run_is_counted():
    rows = [
        tried("a", "C1", testbed="micro"),
        tried("a", "C2", value=0.2, testbed="micro", primary=False),
        Tried(paper="a", claim="C3", unjudged="not run"),
        Tried(paper="b", claim="C1", unjudged="not run"),
    ]
    a, b = ledger.ledger(rows, MARGINS).papers
    assert (a.testbed, a.verdict, a.unjudged) == ("micro", "reproduced", 1)
    assert (b.testbed, b.verdict, b.unjudged) == ("", None, 1)


@pytest.mark.parametrize(
    ("low", "high", "bound", "expected"),
    [
        (-0.3, -0.05, {"at_most": -0.05}, "holds"),
        (-0.3, -0.04, {"at_most": -0.05}, "open"),
        (-0.05, 0.1, {"at_most": -0.05}, "open"),
        (-0.04, 0.1, {"at_most": -0.05}, "fails"),
        (0.05, 0.3, {"at_least": 0.05}, "holds"),
        (0.0, 0.04, {"at_least": 0.05}, "fails"),
        (0.0, 0.05, {"at_least": 0.05}, "open"),
        (math.nan, math.nan, {"at_least": 0.05}, "no interval"),
    ],
)
def test_direction(low, high, bound, expected):
    assert Direction(quantity="q", of="a - b", unit="own", value=0, low=low, high=high, **bound).outcome == expected


# The numbers of every version that verdicts were printed with: a change without a new version fails here.
FROZEN = {
    1: {
        "m_sup": 0.05,
        "m_eq_floor": 0.10,
        "m_eq_share": 1 / 3,
        "m_fa": 0.02,
        "baseline": 0.10,
        "half_width": 0.05,
        "alpha": 0.05,
    }
}


def test_declared_margins_are_never_edited():
    newest = margins.load()
    assert newest.version == len(FROZEN)
    for version, numbers in FROZEN.items():
        assert margins.load(version).model_dump(exclude={"version", "date", "why"}) == numbers


def test_margins_file_is_checked(tmp_path):
    text = margins.FILE.read_text(encoding="utf-8")
    file = tmp_path / "margins.yaml"
    for old, new in (("version: 1", "version: 2"), ("m_fa: 0.02", "m_fa: 2.0"), ("m_fa", "m_far")):
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(ValidationError):
            margins.load(file=file)
    with pytest.raises(KeyError, match="declares versions 1 to"):
        margins.load(99)
