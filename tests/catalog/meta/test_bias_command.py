"""`hft meta bias` as a user meets it, and who evaluated what."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind
from typer.testing import CliRunner

from catalog.cli import app
from catalog.meta import optimism
from catalog.meta.analysis import ChoiceError, Data

HEADER = "study,a,n1,c,n2,paper,self,reported,measured\n"
ROWS = [
    f"S{at},{4 + at},{n},{8 + 2 * at},{n},p{at},{('no', 'yes')[at % 2]},{-30 - at},{-20 - 2 * at}"
    for at, n in enumerate(range(20, 260, 20))
]
COUNTS = "--csv t.csv --events a,c --totals n1,n2"


@pytest.fixture
def ask(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(line, rows=ROWS):
        (tmp_path / "t.csv").write_text(HEADER + "\n".join(rows) + "\n")
        return CliRunner().invoke(app, ["meta", "bias", *line.split()])

    return run


def answer(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_enough_studies_of_different_size_are_tested(ask):
    made = answer(ask(f"{COUNTS} --measure OR --json"))
    assert {one["name"] for one in made["tests"]} == {"egger", "egger-arcsine", "thompson-arcsine", "peters"}
    assert [one["estimator"] for one in made["trim_and_fill"]] == ["L0", "R0"]
    heights = [point["height"] for point in made["funnel"]["points"]]
    assert heights == pytest.approx([(40 * (1 + at)) ** -0.5 for at in range(12)])


def test_few_studies_give_a_funnel_and_no_p_value(ask, tmp_path):
    result = ask(f"{COUNTS} --measure OR --plot f.svg --json", ROWS[:9])
    made = answer(result)
    assert (made["tests"], made["trim_and_fill"]) == ([], [])
    assert made["not_run"]["peters"].startswith("not run (k=9)")
    assert len(made["funnel"]["points"]) == 9
    drawing = ET.parse(tmp_path / "f.svg").getroot()
    assert drawing.tag.endswith("svg")
    assert "1 / √(n S)" in (tmp_path / "f.svg").read_text()


def test_words_name_what_ran_and_what_did_not(ask):
    result = ask(f"{COUNTS} --measure RD")
    assert result.exit_code == 0, result.output
    assert "peters (1/n)" in result.stdout
    assert "egger, thompson: not run" in result.stdout or "thompson, egger: not run" in result.stdout
    assert "Begg" in result.stdout


def test_self_and_reported_contrasts_stand_beside_the_tests(ask):
    made = answer(
        ask(f"{COUNTS} --measure AS --cluster paper --self self --reported reported --measured measured --json")
    )
    assert made["self_evaluated"]["self"]["k"] == made["self_evaluated"]["third_party"]["k"] == 6
    gaps = np.array([-10 + at for at in range(12)], dtype=float)
    found, known = made["reported_minus_measured"], ttest_1samp(gaps, 0)
    assert found["mean"] == pytest.approx(gaps.mean())
    assert found["p"] == pytest.approx(known.pvalue)
    assert (found["limit_low"], found["limit_high"]) == pytest.approx(
        gaps.mean() + np.array([-1.96, 1.96]) * gaps.std(ddof=1), abs=1e-3
    )


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("--csv t.csv", 2, "give --yi and --vi"),
        ("--csv t.csv --reported reported", 2, "go together"),
        (f"{COUNTS} --measure OR --self paper", 2, "neither yes nor no"),
        (f"{COUNTS} --measure OR --n nothing", 2, "no column 'nothing'"),
        ("--worst lisa --csv t.csv", 2, "--worst"),
        ("--worst lisa --testbed mars", 2, "no run of it"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(ask, line, code, says):
    result = ask(line)
    assert result.exit_code == code, result.output
    assert says in result.output


def test_equal_variances_make_the_contrast_a_two_sample_t_test():
    draw = np.random.default_rng(7)
    y, own = draw.normal(size=14), [at < 6 for at in range(14)]
    found = optimism.evaluators(Data(labels=[str(at) for at in range(14)], yi=y, vi=np.full(14, 0.2)), own)
    known = ttest_ind(y[:6], y[6:])
    assert found.difference.estimate == pytest.approx(y[:6].mean() - y[6:].mean())
    assert found.difference.p == pytest.approx(known.pvalue, rel=1e-6)


def test_one_kind_of_evaluator_is_nothing_to_contrast():
    with pytest.raises(ChoiceError, match="third-party"):
        optimism.evaluators(Data(labels=["a", "b"], yi=np.zeros(2), vi=np.ones(2)), [True, True])
