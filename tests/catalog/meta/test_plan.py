"""Sample sizes as the design prints them, power as R computes it, components from data with known variances."""

import json
from pathlib import Path

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint
from typer.testing import CliRunner

from catalog.cli import app
from catalog.meta import effects, plan
from catalog.meta.plan import Components

R = json.loads(Path(__file__).with_name("reference_agreement.json").read_text())


def test_prompts_for_five_points_as_in_the_design():
    assert [plan.prompts_for(p, 0.05) for p in (0.05, 0.10, 0.20, 0.30, 0.50)] == [83, 141, 245, 320, 381]
    assert plan.prompts_for(0.5, 0.03) == 1064


@pytest.mark.parametrize("p", [0.05, 0.25, 0.5])
def test_one_prompt_fewer_is_too_few(p):
    n = plan.prompts_for(p, 0.04)
    widths = [np.ptp(proportion_confint(p * count, count, method="wilson")) / 2 for count in (n - 1, n)]
    assert widths[1] <= 0.04 < widths[0]


def test_seeds_for_five_points_as_in_the_design():
    found = [plan.seeds_for(sd / 100, 0.05) for sd in (2, 3, 4, 5, 6, 8, 10)]
    assert found == [3, 4, 5, 7, 9, 13, 18]


@pytest.mark.parametrize(
    ("prompts", "seeds", "sd_b", "points"),
    [(200, 5, 2, 5.5), (300, 5, 2, 4.6), (500, 3, 2, 4.9), (300, 8, 4, 5.0), (200, 3, 4, 9.0)],
)
def test_total_half_widths_as_in_the_design(prompts, seeds, sd_b, points):
    found, _ = plan.total(Components(0.10, (sd_b / 100) ** 2, 0.15), prompts, seeds)
    assert 100 * found == pytest.approx(points, abs=0.05)


def test_a_hundred_prompts_never_suffice():
    assert min(100 * plan.total(plan.ASSUMED, 100, seeds)[0] for seeds in range(2, 11)) > 6.8


def test_total_is_what_the_two_way_variance_gives_on_average():
    parts, prompts, seeds = Components(0.02, 0.01, 0.05), 40, 8
    rng = np.random.default_rng(5)
    variances = []
    for _ in range(400):
        table = rng.normal(0, 0.02**0.5, (prompts, 1)) + rng.normal(0, 0.1, (1, seeds))
        variances.append(effects.two_way(table + rng.normal(0, 0.05**0.5, (prompts, seeds)))[0])
    expected = parts.s2_a / prompts + parts.s2_b / seeds + parts.s2_e / (prompts * seeds)
    assert np.mean(variances) == pytest.approx(expected, rel=0.1)
    reach, df = plan.total(parts, prompts, seeds)
    assert reach / effects._quantile(df) == pytest.approx(expected**0.5)


@pytest.mark.parametrize("case", R["power"], ids=str)
def test_power_agrees_with_r(case):
    assert plan.power(case["delta"], case["sd"], case["n"]) == pytest.approx(case["power"], abs=1e-8)


@pytest.mark.parametrize("case", R["tost"], ids=str)
def test_power_of_equivalence_agrees_with_r(case):
    found = plan.power_tost(case["margin"], case["sd"], case["n"], case["delta"])
    assert found == pytest.approx(case["power"], abs=1e-8)


def test_power_of_equivalence_as_in_the_design():
    found = [round(plan.power_tost(0.05, sd, seeds), 2) for sd, seeds in ((0.03, 5), (0.05, 5), (0.05, 10))]
    assert found == [0.84, 0.29, 0.80]


def test_power_of_equivalence_by_simulation():
    draws = np.random.default_rng(1).normal(0.01, 0.05, (20_000, 8))
    reach = 1.894579 * draws.std(axis=1, ddof=1) / 8**0.5  # t(.95, 7)
    mean = draws.mean(axis=1)
    shown = np.mean((mean - reach > -0.05) & (mean + reach < 0.05))
    assert plan.power_tost(0.05, 0.05, 8, 0.01) == pytest.approx(shown, abs=0.01)


def test_seeds_to_power_are_the_fewest():
    seeds = plan.seeds_to_power(0.05, 0.05, 0.8)
    assert plan.power(0.05, 0.05, seeds - 1) < 0.8 <= plan.power(0.05, 0.05, seeds)


def test_what_cannot_be_reached_is_refused():
    with pytest.raises(ValueError, match="not reached"):
        plan.seeds_for(0.5, 1e-6)


def outcomes(shares, draw=0):
    rng = np.random.default_rng(draw)
    marks = {seed: rng.random(400) < share for seed, share in enumerate(shares)}
    return {seed: "".join("1" if mark else "0" for mark in row) for seed, row in marks.items()}


def test_components_are_found_again():
    # Independent answers: no prompt component; rest = p(1-p) of both arms; seeds differ by their shares.
    shares = [0.2, 0.5, 0.8, 0.35, 0.65, 0.5, 0.5, 0.2]
    parts, prompts, seeds = plan.components(outcomes(shares), outcomes([0.9] * 8, draw=1))
    assert (prompts, seeds) == (400, 8)
    assert parts.s2_b == pytest.approx(np.var(shares, ddof=1), rel=0.35)
    assert parts.s2_a < 0.02


def test_components_add_up_to_the_two_way_variance():
    ours = {0: "110010", 1: "110111", 2: "010000"}
    theirs = {0: "101111", 1: "001001", 2: "111111", 3: "000000"}
    parts, prompts, seeds = plan.components(ours, theirs)
    assert (prompts, seeds) == (6, 3)
    table = np.array([[int(a) - int(b) for a, b in zip(ours[s], theirs[s], strict=True)] for s in ours], float).T
    ms_prompt, ms_seed, ms_rest = effects.mean_squares(table)
    assert parts.sd_d(prompts) >= table.mean(axis=0).std(ddof=1) - 1e-12
    assert parts.s2_e == ms_rest
    assert parts.s2_a == max(0, (ms_prompt - ms_rest) / 3)
    assert parts.s2_b == max(0, (ms_seed - ms_rest) / 6)
    assert plan.components({0: "10"}, theirs) is None


def test_settings_count_by_their_seeds():
    found = plan.pooled([(Components(0.1, 0.0, 0.2), 2), (Components(0.4, 0.3, 0.5), 3)])
    assert (found.s2_a, found.s2_b, found.s2_e) == pytest.approx((0.3, 0.2, 0.4))


def ask(*options):
    return CliRunner().invoke(app, ["meta", "plan", *options])


def test_the_command_prints_the_plan():
    result = ask("--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [row["n"] for row in found["prompts"]] == [83, 141, 245, 320, 381]
    enough = {(row["prompts"], row["seeds"]) for row in found["total"] if row["enough"]}
    assert (300, 5) in enough
    assert (200, 5) not in enough
    assert found["assumptions"]["source"] == "planning assumptions"
    assert "4.6 *" in ask().stdout


@pytest.mark.parametrize(
    "options",
    [["--half-width", "5"], ["--p", "0"], ["--seeds", "1"], ["--sd", "x"], ["--s2-a", "-1"], ["--power", "1"]],
)
def test_the_command_wants_proportions(options):
    result = ask(*options)
    assert result.exit_code == 2
    assert options[0] in result.stderr
