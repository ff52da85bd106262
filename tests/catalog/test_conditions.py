import pytest
from made import SPEC

from catalog.conditions import DECLARED, DEFAULT, condition_of
from reproduce.baselines import CONDITIONS


def spec(**given):
    return {**SPEC, **given, "attack": {"paper": "poison", "strength": "graded", "dose": 1.0} | given.get("attack", {})}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({}, "graded"),
        ({"ratio": 0.2}, "ratio-0.2"),
        ({"attack": {"strength": "strong"}}, "strong"),
        ({"attack": {"dose": 2.0}}, "steps-300"),
        ({"attack": {"dose": 4.0}}, "steps-600"),
        ({"mode": "double-lora"}, "lora"),
        ({"ratio": 0.05}, None),
        ({"ratio": 0.0}, None),
        ({"mode": "single-lora"}, None),
        ({"attack": {"dose": 3.0}}, None),
        ({"attack": {"strength": "strong", "dose": 2.0}}, None),
        ({"attack": {"strength": "strong"}, "ratio": 0.2}, None),
        ({"attack": {"strength": "strong"}, "mode": "double-lora"}, None),
        ({"attack": {"dose": 2.0}, "mode": "double-lora"}, None),
    ],
)
def test_a_spec_is_of_one_declared_condition_or_none(given, name):
    assert condition_of(spec(**given)) == name


def test_attacks_of_papers_are_no_declared_condition():
    assert condition_of({**SPEC, "attack": {"paper": "moth", "level": "explicit"}, "ratio": None}) is None
    assert condition_of({"kind": "study", "paper": "map"}) is None


def test_a_record_without_a_dose_had_the_usual_one():
    assert condition_of({**SPEC, "attack": {"paper": "poison", "strength": "graded"}}) == DEFAULT


def test_all_conditions_of_the_harness_and_the_larger_ratio_are_declared():
    assert set(CONDITIONS) | {"ratio-0.2"} == set(DECLARED)
