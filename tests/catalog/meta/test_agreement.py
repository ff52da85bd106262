"""Agreement against Bland & Altman's own numbers, R, and data whose answer is known beforehand."""

import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr
from typer.testing import CliRunner

from catalog.cli import app
from catalog.meta import agreement, pairs
from catalog.meta.agreement import Pairs, agree
from catalog.meta.ledger import Direction, Tried
from catalog.meta.verdict import Claimed, Measured

R = json.loads(Path(__file__).with_name("reference_agreement.json").read_text())


def made(x, y, papers=None, settings=None):
    own = tuple(str(place) for place in range(len(x)))
    return Pairs(own, tuple(papers or own), tuple(settings or [""] * len(x)), np.array(x), np.array(y))


def bounds(one):
    return [one.value, one.low, one.high]


@pytest.mark.parametrize("data", ["pefr", "claims"])
def test_every_number_agrees_with_r(data):
    r = R[data]
    found = agree(made(r["x"], r["y"], r["cluster"]))
    assert not found.exploratory
    assert [found.bias.estimate, found.bias.low, found.bias.high] == pytest.approx(r["bias"], abs=1e-9)
    assert found.bias.df == pytest.approx(r["df"])
    assert found.limits.sd == pytest.approx(r["sd"])
    for name in ("ccc", "spearman", "kendall"):
        assert bounds(getattr(found, name)) == pytest.approx(r[name], abs=1e-9)


@pytest.mark.parametrize("data", ["pefr", "claims"])
@pytest.mark.parametrize("ratio", ["1", "0.25", "3"])
def test_deming_lines_agree_with_principal_components_in_r(data, ratio):
    x, y = (np.array(R[data][side]) for side in "xy")
    line, r = agreement.deming(x, y, float(ratio)), R[data]["deming"][ratio]
    assert bounds(line.slope) == pytest.approx(r["slope"], rel=1e-8)
    assert bounds(line.intercept) == pytest.approx(r["intercept"], rel=1e-8)
    upside_down = agreement.deming(x, y, 1 / float(ratio)).slope.value
    assert (upside_down == pytest.approx(r["slope"][0], rel=1e-4)) is (ratio == "1"), "the ratio has a direction"


def test_limits_of_peak_flow_as_published():
    # Bland & Altman (1986): mean -2.1 (-22.0 to 17.8), sd 38.8, and with 2 sd limits of -79.7 and 75.5, the lower one
    # from -114.3 to -45.1 and the upper one from 40.9 to 110.1.
    large, mini = (np.array(R["pefr"][side], dtype=float) for side in "xy")
    found = agree(made(mini, large))
    assert (found.bias.estimate, found.bias.low, found.bias.high) == pytest.approx((-2.1, -22.0, 17.8), abs=0.05)
    assert found.limits.sd == pytest.approx(38.8, abs=0.05)
    shift = (2 - 1.96) * found.limits.sd
    published = {"low": (-79.7, -114.3, -45.1), "high": (75.5, 40.9, 110.1)}
    for name, numbers in published.items():
        turned = -shift if name == "low" else shift
        assert [end + turned for end in bounds(getattr(found.limits, name))] == pytest.approx(numbers, abs=0.25)


def test_error_in_the_reported_numbers_does_not_flatten_the_slope():
    rng = np.random.default_rng(3)
    truth = rng.normal(-0.3, 0.15, 4000)
    x, y = truth + rng.normal(0, 0.1, 4000), 0.8 * truth + rng.normal(0, 0.05, 4000)
    found = agreement.deming(x, y, 0.25).slope
    assert found.low < 0.8 < found.high
    assert np.polyfit(x, y, 1)[0] < 0.62, "least squares is attenuated: why it is not the headline"


def test_ratio_comes_from_the_standard_errors():
    x, y = np.array(R["claims"]["x"]), np.array(R["claims"]["y"])
    known = Pairs(*[made(x, y).labels] * 3, x, y, np.full(len(x), 0.04), np.full(len(x), 0.02))
    assert agree(known).deming.ratio == pytest.approx(0.25)
    assert agree(known, 3).deming.ratio == 3
    assert agree(made(x, y)).deming.ratio == 1
    assert any("equal error variances" in note for note in agree(made(x, y)).notes)


def test_claims_of_one_paper_widen_the_interval_of_bias():
    gaps = np.repeat([-0.1, 0.0, 0.1, 0.2], 5)
    apart, together = (
        agreement.clustered_mean(gaps, names) for names in (list(range(20)), list("aaaaabbbbbcccccddddd"))
    )
    assert together.se == pytest.approx(np.std([-0.1, 0.0, 0.1, 0.2], ddof=1) / 2)
    assert together.high - together.low > 2 * (apart.high - apart.low)
    assert math.isnan(agreement.clustered_mean(gaps, ["a", "b"] * 10).low), "two papers carry no claim beyond them"


def test_few_pairs_are_exploratory_and_resampled_by_paper():
    x, y, papers = (R["claims"][side][:8] for side in ("x", "y", "cluster"))
    found = agree(made(x, y, papers))
    assert found.exploratory
    assert any("exploratory" in note for note in found.notes)
    assert bounds(found.ccc) == bounds(agree(made(x, y, papers)).ccc)
    assert bounds(found.ccc) != bounds(agree(made(x, y, papers), seed=1).ccc)
    assert found.ccc.low < found.ccc.value < found.ccc.high
    assert bounds(found.ccc)[1:] != pytest.approx(bounds(agreement.concordance(np.array(x), np.array(y)))[1:], abs=0.01)
    few = agree(made(x[:4], y[:4], ["a", "a", "b", "b"]))
    assert math.isnan(few.deming.slope.low)
    assert any("nothing to resample" in note for note in few.notes)


def test_ranks_that_are_resampled_are_those_of_scipy():
    rng = np.random.default_rng(2)
    for _ in range(20):
        x, y = rng.integers(0, 5, (2, 9)).astype(float)
        expected = (spearmanr(x, y).statistic, kendalltau(x, y).statistic)
        assert agreement._rank_correlations(x, y) == pytest.approx(expected)


def test_perfect_agreement_and_reversal():
    x = np.linspace(-0.5, 0.1, 12)
    found = agree(made(x, x))
    assert (found.ccc.value, found.kendall.value, found.deming.slope.value) == pytest.approx((1, 1, 1))
    assert found.bias.estimate == 0
    assert any("which is which" in note for note in found.notes)
    assert not any("which is which" in note for note in agree(made(x - 0.2, x)).notes)
    turned = agree(made(x, -x))
    assert (turned.spearman.value, turned.kendall.value) == pytest.approx((-1, -1))
    assert turned.ccc.value < 0


def test_rank_inside_settings_is_not_fooled_by_differences_between_them():
    # Between settings everything rises together; inside each the order is reversed.
    x = [-0.1, -0.2, -0.3, -1.1, -1.2, -1.3, -2.1, -2.2, -2.3, 0.5]
    y = [-0.3, -0.2, -0.1, -1.3, -1.2, -1.1, -2.3, -2.2, -2.1, 0.5]
    found = agree(made(x, y, settings=["a"] * 3 + ["b"] * 3 + ["c"] * 3 + ["d"]))
    assert found.spearman.value > 0.8
    assert found.within.tau.value == -1
    assert (found.within.settings, found.within.pairs) == (3, 9)
    assert agree(made(x, y)).within.settings == 0


@pytest.mark.parametrize("columns", [([-0.1, -0.2], [-0.1, -0.2]), ([-0.1] * 5, [-0.1, -0.2, 0, 0.1, 0.2])])
def test_too_little_to_compare_is_refused(columns):
    with pytest.raises(ValueError, match=r"at least 3|the same"):
        agree(made(*columns))


def test_pairs_are_the_claims_with_both_numbers():
    def tried(claim, quantity="harmful_score", testbed="micro", **given):
        kept = {"claimed": Claimed(reported=-0.3), "found": Measured.from_se(-0.2, 0.05, 4), "type": "defense"}
        kept |= {"direction": of("method - sft", quantity)} | given
        return Tried(paper="guard", claim=claim, testbed=testbed, setting="graded", **kept)

    def of(contrast, quantity="harmful_score"):
        return Direction(quantity=quantity, of=contrast, unit="proportion", value=0, low=0, high=0, at_most=0)

    rows = [
        tried("C1"),
        tried("C2", quantity="fine_tune_accuracy"),
        tried("C3", testbed="hub:x"),
        tried("C4", claimed=None),
        tried("C5", found=None),
        tried("C6", direction=of("method - safe")),
        tried("C7", direction=of("identity - aligned"), type="attack"),
        tried("C8", direction=of("method - sft"), type="mechanism"),
    ]
    found = pairs.from_claims(rows, "micro", "harmful_score")
    assert found.labels == ("guard C1",)
    assert found.measured.tolist() == [-0.2]
    assert found.spans[0] == pytest.approx(Measured.from_se(-0.2, 0.05, 4).interval(0.95))
    assert pairs.from_claims(rows, "micro", "harmful_score", "attack").labels == ("guard C7",)
    everything = pairs.from_claims(rows, "micro", "harmful_score", "all").labels
    assert everything == ("guard C1", "guard C6", "guard C7", "guard C8")


@pytest.fixture
def ask(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = zip(R["claims"]["cluster"], R["claims"]["x"], R["claims"]["y"], strict=True)
    text = "".join(f"{paper},C{n},{x},{y},0.04,0.02\n" for n, (paper, x, y) in enumerate(rows))
    (tmp_path / "pairs.csv").write_text("paper,claim,reported,measured,reported_se,se\n" + text)
    return lambda *options: CliRunner().invoke(app, ["meta", "agreement", "--csv", "pairs.csv", *options])


def test_the_command_gives_one_document_and_a_figure(ask, tmp_path):
    result = ask("--json", "--plot", "figures/scatter.svg")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [found["bias"][key] for key in ("value", "low", "high")] == pytest.approx(R["claims"]["bias"])
    assert found["deming"]["slope"]["value"] == pytest.approx(R["claims"]["deming"]["0.25"]["slope"][0])
    assert found["rows"][0] == {"label": "C0", "paper": "a", "setting": "", "reported": -0.3, "measured": -0.25}
    assert found["within_setting"] == {"value": None, "low": None, "high": None, "settings": 0, "pairs": 0}
    drawn = ET.parse(tmp_path / "figures/scatter.svg").getroot()
    assert drawn.tag.endswith("svg")
    assert "Measured against reported: 12 claims of 8 papers" in "".join(drawn.itertext())
    assert "Deming slope" in ask().stdout


def test_the_command_names_what_is_wrong(ask, tmp_path):
    assert ask("--ratio", "0").exit_code == 2
    assert ask("--measured", "mesured").exit_code == 2
    text = (tmp_path / "pairs.csv").read_text()
    (tmp_path / "pairs.csv").write_text(text.replace("-0.15,0.04", "nan,0.04"))
    result = ask()
    assert result.exit_code == 1
    assert "pairs.csv:3" in result.stderr
    (tmp_path / "pairs.csv").write_text("\n".join(text.splitlines()[:3]))
    assert "at least 3" in ask().stderr
