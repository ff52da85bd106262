"""`hft meta pool` and `hft meta regress` as a user meets them."""

import json
import random
import xml.etree.ElementTree as ET

import pytest
from scipy import stats
from typer.testing import CliRunner

from catalog.cli import app

KEYS = (
    "measure model estimate se ci_low ci_high pi_low pi_high tau2 tau2_ci_low tau2_ci_high i2 i2_definition h2 q q_df"
    " q_p k clusters k_excluded notes rows coefficients r2 leave_one_out method"
).split()
STUDIES = (
    "study,yi,vi,site,set,year,kind\nA,0.1,0.02,p,1,1,x\nB,0.3,0.05,p,2,2,y\nC,-0.2,0.04,q,1,3,x\nD,0.5,0.03,r,1,4,y\n"
)
TABLES = "study,a,n1,c,n2\nA,4,20,9,20\nB,0,30,5,28\nC,0,10,0,10\nD,12,50,20,50\n"


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Run `hft meta …` in a folder with studies.csv and tables.csv; a keyword writes another file first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies.csv").write_text(STUDIES)
    (tmp_path / "tables.csv").write_text(TABLES)

    def run(line, **files):
        for name, text in files.items():
            (tmp_path / f"{name}.csv").write_text(text)
        return CliRunner().invoke(app, ["meta", *line.split()])

    return run


@pytest.fixture
def answer(ask):
    def run(line, **files):
        result = ask(f"{line} --json", **files)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run


GENERIC = "pool --csv studies.csv --yi yi --vi vi"
COUNTS = "pool --csv tables.csv --events a,c --totals n1,n2"


@pytest.mark.parametrize(
    "line",
    [
        GENERIC,
        f"{GENERIC} --model common",
        f"{GENERIC} --cluster site",
        f"{GENERIC} --cluster site --level set",
        f"{GENERIC} --mods year",
        f"{COUNTS} --measure RD --model mh",
        f"{COUNTS} --measure OR --model peto",
    ],
)
def test_every_model_answers_with_the_same_keys(answer, line):
    found = answer(line)
    assert [key for key in KEYS if key not in found] == []
    assert sum(row["weight"] for row in found["rows"]) == pytest.approx(1)


def test_the_default_is_reml_with_hartung_knapp_and_an_hts_prediction_interval(answer):
    found = answer(GENERIC)
    assert (found["model"], found["method"]["tau2"], found["method"]["ci"], found["method"]["pi"]) == (
        "random", "REML", "hk", "hts",
    )  # fmt: skip
    assert (found["k"], found["clusters"], len(found["leave_one_out"])) == (4, None, 4)


def test_clusters_are_averaged_first_and_left_out_whole(answer):
    found = answer(f"{GENERIC} --cluster site")
    assert (found["model"], found["k"], found["clusters"], found["q_df"]) == ("clusters", 4, 3, 2)
    assert [one["label"] for one in found["leave_one_out"]] == ["p", "q", "r"]
    weights = {row["label"]: row["weight"] for row in found["rows"]}
    assert weights["A"] / weights["B"] == pytest.approx(0.05 / 0.02)


def test_fewer_than_three_clusters_claim_nothing_beyond_themselves(answer):
    found = answer(f"{GENERIC} --cluster kind")
    assert any("no general claim" in note for note in found["notes"])
    assert found["pi_low"] is None


def test_uninformative_tables_are_excluded_by_name_and_the_rule_is_stated(answer):
    found = answer(f"{COUNTS} --measure OR")
    assert (found["k"], found["k_excluded"]) == (3, 1)
    assert any("excluded" in note and "C" in note for note in found["notes"])
    assert "1/2" in found["method"]["zero_cells"]
    assert answer(f"{COUNTS} --measure RD")["k"] == 4


def test_many_arms_without_events_name_other_ways_but_never_the_one_taken(answer):
    """Three of eight arms have no event."""
    for model, others in (("random", "--model mh and --measure AS, which need"), ("mh", "--measure AS, which needs")):
        notes = answer(f"{COUNTS} --measure OR --model {model}")["notes"]
        assert f"38% of the arms have no event: compare with {others} no correction" in notes
    table = "study,a,n1,c,n2,x\nA,4,20,9,20,1\nB,0,30,5,28,2\nC,0,10,3,10,3\nD,12,50,20,50,5\n"
    notes = answer("regress --csv t.csv --events a,c --totals n1,n2 --measure OR --mods x", t=table)["notes"]
    assert "25% of the arms have no event: compare with --measure AS, which needs no correction" in notes
    assert not [note for note in answer(f"{COUNTS} --measure RD")["notes"] if "have no event" in note]


def test_words_become_indicators(answer):
    found = answer("regress --csv studies.csv --yi yi --vi vi --mods kind")
    assert [one["name"] for one in found["coefficients"]] == ["intercept", "kind=y"]
    assert found["estimate"] is None


def test_a_permutation_test_stands_beside_the_p_values(answer):
    found = answer("regress --csv studies.csv --yi yi --vi vi --mods year --permutations 10")
    assert found["permutation"]["exact"]
    assert found["permutation"]["orderings"] == 24
    assert found["coefficients"][1]["p_permutation"] >= 1 / 24


CLUSTERED = (
    "study,yi,vi,site,year\nA,0.1,0.02,p,1\nB,0.3,0.05,p,2\nC,-0.2,0.04,q,3\nD,0.5,0.03,r,4\nE,0.4,0.03,r,5\n"
    "F,0.2,0.02,s,6\nG,0.6,0.04,s,7\n"
)


@pytest.mark.parametrize("model", ["--model random --ci cr2 --cluster site", "--cluster site --level study"])
def test_few_clusters_get_an_f_test_of_all_moderators(answer, model):
    """Of one moderator it is the squared t, on clusters - 2 degrees of freedom (metafor, robust)."""
    found = answer(f"regress --csv made.csv --yi yi --vi vi --mods year {model}", made=CLUSTERED)
    slope = found["coefficients"][1]
    assert found["qm"] == pytest.approx((slope["estimate"] / slope["se"]) ** 2, rel=1e-9)
    assert (found["qm_df"], found["df"]) == (1, 2)
    assert found["qm_p"] == pytest.approx(stats.f.sf(found["qm"], 1, 2), rel=1e-9)
    assert found["qm_p"] > 2 * stats.chi2.sf(found["qm"], 1)  # what too few clusters would make too eager


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("study,yi,vi\nA,1,0.1\nB,2,-0.1\n", "x.csv:3: B: variance vi is -0.1"),
        ("study,yi,vi\nA,nan,0.1\nB,2,0.1\n", "x.csv:2: A: yi is 'nan'"),
        ("study,yi,vi\nA,1,\nB,2,0.1\n", "x.csv:2: A: no vi"),
        ("study,yi,vi\nA,1\nB,2,0.1\n", "x.csv:2: 2 cells under 3 columns"),
    ],
)
def test_a_faulty_row_is_named_by_line_and_label(ask, text, says):
    result = ask("pool --csv x.csv --yi yi --vi vi --json", x=text)
    assert result.exit_code == 1
    assert says in result.stderr
    assert result.stdout == ""


def test_more_events_than_a_total_are_named(ask):
    result = ask(
        "pool --csv x.csv --measure RD --events a,c --totals n1,n2", x="study,a,n1,c,n2\nA,3,4,1,4\nB,5,4,1,4\n"
    )
    assert result.exit_code == 1
    assert "x.csv:3: B: a is 5" in result.stderr


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("pool --csv studies.csv --yi y --vi vi", "no column 'y'"),
        ("pool --csv studies.csv", "--yi and --vi"),
        (f"{GENERIC} --level set", "--cluster"),
        (f"{GENERIC} --model mh", "--measure"),
        (f"{COUNTS} --measure AS --model mh", "not for --measure AS"),
        (f"{GENERIC} --ci cr2", "--cluster"),
        (f"{GENERIC} --mods year,year", "follows from the others"),
        ("pool", "--csv"),
        ("pool --records studies.csv", "--method"),
    ],
)
def test_options_that_do_not_fit_are_refused(ask, line, says):
    result = ask(line)
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_repeated_row_is_kept_with_a_warning(ask):
    result = ask("pool --csv x.csv --yi yi --vi vi --json", x=STUDIES + STUDIES.splitlines()[-1] + "\n")
    assert result.exit_code == 0
    assert "repeats line 5" in result.stderr
    assert json.loads(result.stdout)["k"] == 5


def test_the_forest_plot_names_every_study(ask, tmp_path):
    assert ask(f"{GENERIC} --plot out/forest.svg").exit_code == 0
    drawn = "".join(ET.parse(tmp_path / "out" / "forest.svg").getroot().itertext())
    assert all(text in drawn for text in ("A", "D", "pooled (random)", "prediction interval", "tau"))


def replicates(models=4, ratios=(0.05, 0.1), seeds=3, seed=1):
    draw = random.Random(seed)
    rows = []
    for model in range(models):
        for ratio in ratios:
            for method, share in (("sft", 0.5), ("guard", 0.3 + 0.05 * model)):
                for number in range(seeds):
                    k, c = (sum(draw.random() < p for _ in range(100)) for p in (share, 0.9))
                    rows.append([method, f"m{model}", ratio, number, k, 100, c, 100])
    return rows


def written(rows):
    header = "method,model,ratio,seed,harmful_k,harmful_n,correct_k,correct_n"
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"


OURS = "pool --method guard --records r.csv"


def test_settings_are_studies_models_are_clusters_and_seeds_are_neither(answer):
    found = answer(OURS, r=written(replicates()))
    assert (found["k"], found["clusters"], found["model"], found["measure"]) == (8, 4, "clusters", "RD")
    again = [[*row[:3], row[3] + 50, *row[4:]] for row in replicates()]
    more = answer(OURS, r=written(replicates() + again))
    assert (more["k"], more["clusters"]) == (8, 4)
    assert more["estimate"] == pytest.approx(found["estimate"])


def test_the_variance_of_a_setting_is_that_between_seeds_pooled_over_settings(answer):
    rows = replicates()
    gaps = {}
    for method, model, ratio, seed, k, n, *_ in rows:
        gaps.setdefault((model, ratio), {}).setdefault(seed, {})[method] = k / n
    squares = 0.0
    for by_seed in gaps.values():
        values = [one["guard"] - one["sft"] for one in by_seed.values()]
        squares += sum((value - sum(values) / 3) ** 2 for value in values)
    found = answer(OURS, r=written(rows))
    assert [row["vi"] for row in found["rows"]] == pytest.approx([squares / (8 * 2) / 3] * 8)


def test_effects_of_accuracy_and_odds(answer):
    text = written(replicates())
    assert answer(f"{OURS} --effect fa_rd", r=text)["estimate"] == pytest.approx(0, abs=0.05)
    odds = answer(f"{OURS} --effect hs_or", r=text)
    assert odds["measure"] == "OR"
    assert odds["estimate"] < -0.2


def test_seeds_without_a_partner_drop_out_and_are_counted(answer):
    found = answer(OURS, r=written(replicates()[1:]))
    assert found["k"] == 8
    assert any("1 seeds have no partner" in note for note in found["notes"])


def test_one_model_gives_a_fixed_set_with_a_t_interval(answer):
    found = answer(OURS, r=written(replicates(models=1)))
    assert any("no general claim" in note for note in found["notes"])
    assert (found["ci_high"] - found["estimate"]) / found["se"] == pytest.approx(2.7764, rel=1e-4), "t with 2 × 2 df"


def test_a_seed_given_twice_with_other_numbers_is_refused(ask):
    rows = replicates()
    result = ask(OURS, r=written([*rows, [*rows[0][:4], rows[0][4] + 1, *rows[0][5:]]]))
    assert result.exit_code == 1
    assert "same method, model, ratio and seed" in result.stderr


def test_an_unknown_method_is_a_wrong_question(ask):
    result = ask("pool --method gard --records r.csv", r=written(replicates()))
    assert result.exit_code == 2
    assert "did you mean 'guard'" in result.stderr


def test_committed_records_are_pooled_over_bases(monkeypatch):
    result = CliRunner().invoke(app, ["meta", "pool", "--method", "ptst", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["clusters"] == len({row["label"].split(",")[0] for row in found["rows"]}) >= 5
    assert found["k"] >= found["clusters"]
    assert -1 < found["ci_low"] < found["estimate"] < found["ci_high"] < 1


def test_csv_of_a_spreadsheet_with_quotes_and_a_byte_order_mark(answer):
    text = "\ufeff" + "\r\n".join(['"study","yi","vi"', '"Doe, 2020",0.1,0.02', '"Roe",0.3,0.05', ""])
    rows = answer("pool --csv x.csv --yi yi --vi vi", x=text)["rows"]
    assert [row["label"] for row in rows] == ["Doe, 2020", "Roe"]


@pytest.mark.parametrize(
    ("effects", "arms", "ends"),
    [
        ((-0.95, -0.85, -0.8), "a,c --totals n1,n2", "-100"),
        ((-0.95, -0.85, -0.8), "c,a --totals n2,n1", "100"),
        ((-0.95, -0.1, -0.6), "a,c --totals n1,n2", "-100 and 100"),
        ((-0.52, -0.5, -0.48), "a,c --totals n1,n2", None),
    ],
)
def test_a_prediction_interval_beyond_what_a_risk_difference_can_be_is_noted(ask, effects, arms, ends):
    counts = "".join(f"S{i},{round(100 + 100 * y)},100,100,100\n" for i, y in enumerate(effects))
    result = ask(f"pool --csv wide.csv --measure RD --events {arms}", wide=f"study,a,n1,c,n2\n{counts}")
    assert (" can be: read it as ending at" in result.stdout) == bool(ends), result.output
    assert f" ending at {ends} points" in result.stdout or not ends


@pytest.mark.parametrize("command", ["report", "verdict lisa", "agreement", "plan --from lisa", "pool --method lisa"])
def test_a_folder_of_records_that_is_not_there_is_a_wrong_question(ask, command):
    result = ask(f"{command} --results nowhere")
    assert result.exit_code == 2
    assert "nowhere" in result.stderr


def test_a_column_that_is_not_there_is_answered_with_those_that_are(ask):
    result = ask("pool --csv x.csv --yi yy --vi vi", x="study,yi,vi\na,0.1,0.02\n")
    assert (result.exit_code, result.stderr) == (2, "x.csv: no column 'yy'; it has study, yi, vi\n")


def test_order_is_that_of_the_rows_even_where_studies_share_a_name(answer):
    text = "study,yi,vi,year\nBell,-0.3,0.02,1974\nBell,0.5,0.05,1969\nAda,-0.9,0.1,1948\n"
    steps = answer("pool --csv twice.csv --yi yi --vi vi --order year", twice=text)["cumulative"]
    assert steps[0]["estimate"] == -0.9
    alone = answer("pool --csv two.csv --yi yi --vi vi", two="study,yi,vi\nAda,-0.9,0.1\nBell,0.5,0.05\n")
    assert steps[1]["estimate"] == pytest.approx(alone["estimate"])


def test_order_leaves_out_the_rows_that_carry_nothing(answer):
    text = "study,a,n1,c,n2,year\nZ,0,10,0,10,1\nA,4,20,9,20,3\nB,1,30,5,28,2\n"
    steps = answer("pool --csv z.csv --measure OR --events a,c --totals n1,n2 --order year", z=text)["cumulative"]
    assert [step["label"] for step in steps] == ["B", "A"]
