"""Average precision and work saved: against counts by hand, a brute force, and data where the truth is known."""

import datetime
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog import excluded, papers, relevance, screening
from catalog.relevance import Judge, Reader, Text

HOME = Path(__file__).parents[2]
HEAD, ENTRIES = papers.load(HOME / papers.FILE)
LEFT_OUT = excluded.read(HOME)
UNRELATED = [
    "Crop Rotation and the Yield of Winter Turnips",
    "A Telescope Survey of Faint Dwarf Galaxies",
    "Sparse Matrix Factorisation for Bus Timetables",
    "Prompt Injection Through Calendar Invitations",
    "Speech Recognition for Noisy Kitchens",
    "Pruning Apple Trees with Small Robots",
    "Tree Search Prompting Elicits Jailbreaks from Chat Models",
    "Compressing Vision Encoders for Doorbells",
    "Graph Networks Predict Traffic in Small Towns",
    "On the Convergence of Stochastic Mirror Descent",
]


def test_work_saved_by_hand() -> None:
    """20 of 100 are relevant and come first: 19 are read, 81 are not, a random order would spare 5."""
    truth = [n < 20 for n in range(100)]
    best = [float(-n) for n in range(100)]
    assert screening.work_saved(truth, best) == pytest.approx(0.81 - 0.05)
    assert screening.specificity(truth, best) == 1
    worst = [float(n) for n in range(100)]
    assert screening.work_saved(truth, worst) == pytest.approx(0.01 - 0.05)
    assert screening.work_saved(truth, [0.5] * 100) == pytest.approx(-0.05), "a tie is read to its end"
    with pytest.raises(ValueError, match="no relevant"):
        screening.work_saved([False], [1.0])


def brute_force(truth: list[bool], scores: list[float], recall: float) -> tuple[float, float]:
    """(TN + FN) / N - (1 - recall) and TN / (TN + FP) at the strictest threshold that reaches the recall."""
    for threshold in sorted(set(scores), reverse=True):
        read = [score >= threshold for score in scores]
        hits = sum(r and t for r, t in zip(read, truth, strict=True))
        if hits >= recall * sum(truth) - 1e-9:
            true_negative = sum(not r and not t for r, t in zip(read, truth, strict=True))
            false_negative = sum(t for t in truth) - hits
            saved = (true_negative + false_negative) / len(truth) - (1 - recall)
            return saved, true_negative / (len(truth) - sum(truth))
    raise AssertionError


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=2), st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_work_saved_is_what_every_threshold_tried_gives(pairs: list[tuple[bool, int]], recall: float) -> None:
    truth, scores = [t for t, _ in pairs], [float(s) for _, s in pairs]
    if any(truth) and not all(truth):
        saved, spared = brute_force(truth, scores, recall)
        assert screening.work_saved(truth, scores, recall) == pytest.approx(saved)
        assert screening.specificity(truth, scores, recall) == pytest.approx(spared)
        assert saved <= screening.most_work_saved(truth, recall) + 1e-9


def better(high: list[float], low: list[float]) -> float:
    """The share of pairs in the right order: the area under the ROC curve."""
    return sum((h > l) + (h == l) / 2 for h in high for l in low) / (len(high) * len(low))  # noqa: E741


def scored(judge: Judge, titles: list[str]) -> list[float]:
    opinions = [judge.opinion(Text(title, None)) for title in titles]
    return [each.score for each in opinions if each and each.score is not None]


def test_papers_held_out_come_before_unrelated_ones_and_not_by_chance() -> None:
    held, kept = ENTRIES[::5], [paper for n, paper in enumerate(ENTRIES) if n % 5]
    titles = [paper.title for paper in held]
    judge = Judge(Reader(kept, LEFT_OUT, {}))
    assert better(scored(judge, titles), scored(judge, UNRELATED)) > 0.9
    mixed = [*kept, *LEFT_OUT]
    random.Random(1).shuffle(mixed)
    sides = [[ENTRIES[0].model_copy(update={"title": each.title}) for each in mixed[: len(kept)]],
             [LEFT_OUT[0].model_copy(update={"title": each.title}) for each in mixed[len(kept) :]]]  # fmt: skip
    deaf = Judge(Reader(sides[0], sides[1], {}))  # type: ignore[arg-type]
    assert better(scored(deaf, titles), scored(deaf, UNRELATED)) < 0.8


def test_type_and_stage_follow_the_words_and_rare_types_are_never_guessed() -> None:
    judge = Judge(Reader(ENTRIES, LEFT_OUT, {}))
    attack = judge.opinion(Text("Attacking Fine-tuned Models: Jailbreaking by Ten Benign Samples", None))
    assert attack
    assert (attack.type, attack.stage) == ("attack", None)
    repair = judge.opinion(Text("Restoring Safety After Harmful Fine-tuning by Post-Fine-tuning Realignment", None))
    assert repair
    assert (repair.type, repair.stage) == ("defense", "post-fine-tuning")
    assert "survey" not in Reader(ENTRIES, LEFT_OUT, {}).types.counts, "one survey teaches nothing"


def test_abstracts_of_one_side_only_are_not_read() -> None:
    inside = {paper.ids.arxiv or "": "Long words about tuning." for paper in ENTRIES if paper.ids.arxiv}
    outside = {each.ids.arxiv or "": "Other words about prompts." for each in LEFT_OUT if each.ids.arxiv}
    one_sided = Reader(ENTRIES, LEFT_OUT, inside)
    assert (one_sided.reads, len(one_sided.relevance.texts)) == ("titles", len(ENTRIES) + len(LEFT_OUT))
    both = Reader(ENTRIES, LEFT_OUT, inside | outside)
    assert (both.reads, len(both.relevance.texts)) == ("titles and abstracts", len(inside) + len(outside))
    assert both.read(Text("A title", "2412.00001")) is None
    assert Reader(ENTRIES, LEFT_OUT, dict.fromkeys(inside | outside, "")).reads == "titles"


def test_the_evaluation_says_how_many_and_how_far_and_repeats_itself(
    hft: Any, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (papers.FILE, excluded.FILE, excluded.SCOPE):
        (project / name).write_bytes((HOME / name).read_bytes())
    monkeypatch.setattr(relevance, "REPEATS", 1)
    first, again = (hft("discover", "--evaluate", "--json") for _ in range(2))
    assert first.exit_code == 0, first.stderr
    assert first.stdout == again.stdout
    told = json.loads(first.stdout)
    assert told["counts"] == {"in": len(ENTRIES), "out": len(LEFT_OUT)}
    assert f"{len(LEFT_OUT)} out" in told["caveat"]
    ranking = told["relevance"]
    assert ranking["chance"] == pytest.approx(len(ENTRIES) / (len(ENTRIES) + len(LEFT_OUT)), abs=1e-4)
    precision = ranking["average_precision"]
    assert ranking["chance"] < precision["low"] <= precision["mean"] <= precision["high"] < 1
    assert ranking["work_saved"]["mean"] < ranking["most"] < 1 - ranking["chance"] + 0.05
    defenses = [paper for paper in ENTRIES if paper.type == "defense"]
    assert sum(told["stage"]["counts"].values()) <= len(defenses)
    assert told["type"]["majority"] == pytest.approx(len(defenses) / sum(told["type"]["counts"].values()), abs=1e-4)


def test_too_few_decisions_teach_nothing() -> None:
    few = Reader(ENTRIES, LEFT_OUT[:19], {})
    assert relevance.evaluate(few).relevance is None
    opinion = Judge(few).opinion(Text("Harmful Fine-tuning", None))
    assert opinion
    assert opinion.score is None


def test_help_loads_no_learning() -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from catalog.cli import app\n"
        "assert CliRunner().invoke(app, ['discover', '--help']).exit_code == 0\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'sklearn', 'scipy', 'pandas', 'arxiv'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=HOME, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_decisions_are_dated_so_that_they_can_be_compared() -> None:
    month = next(each for each in LEFT_OUT if not isinstance(each.date, datetime.date))
    assert month.candidate.date == datetime.date(*month.month, 1)
