"""The defaults of the defenses are what the declared rule chooses from the validation records."""

from collections import defaultdict
from pathlib import Path
from statistics import harmonic_mean, mean

import pytest

from reproduce import find, record

TUNING = Path(record.__file__).parent / "tuning"
KNOBS = {
    "vaccine": ("p2402_01109_vaccine", "rho"),
    "lisa": ("p2405_18641_lisa", "rho"),
    "safe-lora": ("p2405_16833_safe_lora", "fraction"),
}


def score(run: record.Record) -> float:
    harm, accuracy = (run["metrics"][m]["k"] / run["metrics"][m]["n"] for m in ("harmful", "accuracy"))
    return harmonic_mean([1 - harm, accuracy])


@pytest.mark.parametrize("paper", KNOBS)
def test_default_is_the_winner_of_four_values_on_two_unreported_bases(paper: str) -> None:
    module, knob = KNOBS[paper]
    scores: dict[float, dict[int, float]] = defaultdict(dict)
    for run in record.read(TUNING):
        if run["spec"]["paper"] == paper:
            assert run["spec"]["split"] == "validation"
            scores[run["spec"]["method"][knob]][run["spec"]["seed"]] = score(run)
    assert len(scores) == 4
    assert all(seeds.keys() == {90, 91} for seeds in scores.values())
    assert max(scores, key=lambda value: mean(scores[value].values())) == getattr(find.load(module), knob)


def test_tuning_records_are_intact() -> None:
    assert record.verify(TUNING) == []
    assert not {90, 91} & {run["spec"]["seed"] for run in record.read()}
