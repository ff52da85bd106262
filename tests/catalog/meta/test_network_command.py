"""`hft meta network` as a user meets it: documents, figures, and faults named by line."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from catalog.meta.network_command import network_command

app = typer.Typer()
app.command()(network_command)

ARMS = """study,treatment,events,n,base
one,sft,60,100,m1
one,a,30,100,m1
two,sft,55,100,m2
two,b,40,100,m2
three,a,25,100,m3
three,b,35,100,m3
four,sft,70,100,m1
four,a,30,100,m1
four,b,50,100,m1
"""
CONTRASTS = "study,treat1,treat2,te,se\none,a,sft,-0.3,0.06\ntwo,b,sft,-0.15,0.07\nthree,a,b,-0.1,0.06\n"
KEYS = {"treatments", "tau2", "q", "q_df", "i2", "effects", "p_scores", "inconsistency", "splits", "notes"}
EFFECT = {"estimate", "se", "ci_low", "ci_high", "pi_low", "pi_high"}
Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def invoke(text: str, *options: str) -> Any:
        file = tmp_path / "net.csv"
        file.write_text(text, encoding="utf-8")
        return CliRunner().invoke(app, ["--csv", str(file), *options])

    return invoke


def test_the_document(run: Run) -> None:
    result = run(ARMS, "--ref", "sft", "--cluster", "base", "--json")
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    assert said.keys() >= KEYS
    assert said["treatments"] == ["sft", "a", "b"]
    assert said["effects"]["a"]["sft"].keys() == EFFECT
    assert said["effects"]["a"]["sft"]["estimate"] == -said["effects"]["sft"]["a"]["estimate"] < -0.2
    assert said["effects"]["a"]["sft"]["pi_low"] < said["effects"]["a"]["sft"]["ci_low"]
    assert [left["cluster"] for left in said["leave_one_cluster_out"]] == ["m1", "m2", "m3"]
    assert max(said["p_scores"], key=said["p_scores"].get) == "a"
    larger = json.loads(run(ARMS, "--better", "larger", "--json").stdout)
    assert max(larger["p_scores"], key=larger["p_scores"].get) == "sft"


def test_prediction_intervals_beyond_what_a_risk_difference_can_be_are_noted(run: Run) -> None:
    rows = [(f"{n}", name, events) for n, a in enumerate((5, 60, 95, 20)) for name, events in (("sft", 90), ("a", a))]
    wide = "study,treatment,events,n\n" + "".join(f"{study},{name},{k},100\n" for study, name, k in rows)
    narrow = wide.replace("a,5,", "a,50,").replace("a,60,", "a,52,").replace("a,95,", "a,51,").replace("a,20,", "a,49,")
    said = "read them as ending at -100 or 100 points"
    assert said in run(wide).stdout
    assert json.loads(run(wide, "--json").stdout)["effects"]["a"]["sft"]["pi_low"] < -1
    assert said not in run(narrow).stdout
    assert said not in run(wide, "--sm", "OR").stdout
    assert said not in run(wide, "--tau2", "common").stdout


def test_the_same_input_gives_the_same_document(run: Run) -> None:
    assert run(ARMS, "--json").stdout == run(ARMS, "--json").stdout


@pytest.mark.parametrize("tau2", ["common", "DL", "REML"])
def test_contrasts_and_text(run: Run, tau2: str) -> None:
    result = run(CONTRASTS, "--format", "contrasts", "--sm", "MD", "--ref", "sft", "--tau2", tau2)
    assert result.exit_code == 0
    assert "against sft" in result.stdout
    assert "between designs" in result.stdout


def test_means(run: Run) -> None:
    text = "study,treatment,mean,sd,n\n1,sft,3,1,50\n1,a,2,1,50\n"
    said = json.loads(run(text, "--sm", "MD", "--json").stdout)
    assert said["effects"]["a"]["sft"]["estimate"] == pytest.approx(-1)
    assert said["effects"]["a"]["sft"]["se"] == pytest.approx(0.2)


@pytest.mark.parametrize("figure", ["league", "graph", "ranks", "heat"])
def test_figures(run: Run, tmp_path: Path, figure: str) -> None:
    to = tmp_path / "figures" / "out.svg"
    assert run(ARMS, "--plot", str(to), "--figure", figure).exit_code == 0
    assert to.read_text(encoding="utf-8").startswith("<svg")


def test_figures_have_a_ground_of_their_own_for_dark_viewers(run: Run, tmp_path: Path) -> None:
    """The text is dark; browsers and editors show what is transparent on their own ground, which may be dark too."""
    run(ARMS, "--plot", str(tmp_path / "out.svg"))
    drawn = (tmp_path / "out.svg").read_text(encoding="utf-8")
    size = re.search(r'viewBox="0 0 (\d+) (\d+)"', drawn)
    assert size
    width, height = size.groups()
    assert f'<rect width="{width}" height="{height}" fill="white"/>' in drawn


def test_repeated_rows_warn_and_count_once(run: Run) -> None:
    result = run(ARMS + "four,b,50,100,m1\n", "--json")
    assert result.exit_code == 0
    assert "warning: " in result.stderr
    assert "net.csv:11" in result.stderr
    said = json.loads(result.stdout)
    assert said["effects"] == json.loads(run(ARMS, "--json").stdout)["effects"]
    assert any("net.csv:11" in note for note in said["notes"])


@pytest.mark.parametrize(
    ("text", "options", "code", "words"),
    [
        (ARMS + "five,a,120,100,m1\n", (), 1, ["net.csv:11", "five", "events"]),
        (ARMS + "five,a,-1,100,m1\n", (), 1, ["net.csv:11", "five"]),
        (ARMS + "five,a,nan,100,m1\n", (), 1, ["net.csv:11", "five", "not a number"]),
        (ARMS + "four,b,51,100,m1\n", (), 1, ["net.csv:11", "four", "twice"]),
        (ARMS + "five,c,1,9,m1\nfive,d,1,9,m1\n", (), 1, ["component 1: a, b, sft", "component 2: c, d"]),
        (ARMS + "five,a,1,9,m1\nfive,b,1,9,m2\n", ("--cluster", "base"), 1, ["net.csv:12", "five", "m1 and m2"]),
        (ARMS.replace("events", "event"), (), 2, ["no column 'events'", "event"]),
        (ARMS, ("--cluster", "bases"), 2, ["bases", "events, n, base"]),
        (ARMS, ("--ref", "stf"), 2, ["--ref stf", "sft"]),
        ("study,treatment,events,n\n1,a,1,9\n2,b,1,9\n", (), 1, ["no study compares"]),
        (CONTRASTS + "four,a,b,0.1,-0.1\n", ("--format", "contrasts"), 1, ["net.csv:5", "four", "se is -0.1"]),
        (CONTRASTS + "four,a,a,0.1,0.1\n", ("--format", "contrasts"), 1, ["net.csv:5", "itself"]),
        (CONTRASTS + "one,a,b,0.1,0.1\n", ("--format", "contrasts"), 1, ["net.csv:2", "no contrast of sft and b"]),
        (CONTRASTS, ("--format", "rows"), 2, ["rows"]),
    ],
)
def test_faults_are_named(run: Run, text: str, options: tuple[str, ...], code: int, words: list[str]) -> None:
    result = run(text, "--json", *options)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr


def test_a_star_has_no_net_heat(run: Run, tmp_path: Path) -> None:
    text = "study,treatment,events,n\n1,sft,5,9\n1,a,1,9\n2,sft,5,9\n2,b,2,9\n"
    result = run(text, "--plot", str(tmp_path / "x.svg"), "--figure", "heat")
    assert result.exit_code == 2
    assert "not testable" in result.stderr
