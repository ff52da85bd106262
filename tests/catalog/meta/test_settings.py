"""Run records to settings: bases are clusters, seeds are averaged, equal answers still have a variance."""

import numpy as np
import pytest
from made import run

from catalog import measured
from catalog.meta import effects, settings
from catalog.meta.sizes import Counts, sizes


def cells(testbed="micro", **arms):
    """Cells of SFT and of the paper `guard`, from one outcome string a seed."""
    records = [
        run(harmful=marks, accuracy=marks, paper=paper, seed=seed, testbed=testbed)
        for paper, strings in arms.items()
        for seed, marks in enumerate(strings)
    ]
    return measured.cells(records)


ARMS = {"sft": ["11110000", "11100000", "11111000"], "guard": ["11000000", "10000000", "11000001"]}


def test_every_seed_of_micro_is_a_base_and_a_cluster():
    found = settings.from_cells(cells(**ARMS), "guard", "hs_rd", "micro", ["graded"])
    assert [one.cluster for one in found.found] == ["base 0", "base 1", "base 2"]
    assert [one.y for one in found.found] == pytest.approx([-2 / 8, -2 / 8, -2 / 8])
    first = found.found[0]
    assert first.v == pytest.approx((2 / 8 - (2 / 8) ** 2) / 8), "McNemar: (b + c - (b-c)²/n) / n²"
    assert any("base model of its own" in note for note in found.notes)


def test_seeds_of_one_model_are_averaged_into_one_setting():
    found = settings.from_cells(cells("hub", **ARMS), "guard", "hs_rd", "hub", [])
    assert [(one.cluster, one.seeds, one.prompts) for one in found.found] == [("tiny", 3, 8)]
    pair = effects.difference(*(dict(enumerate(ARMS[side])) for side in ("guard", "sft")))
    assert (found.found[0].y, found.found[0].v) == pytest.approx((pair.value, pair.se**2))


def test_equal_answers_have_the_variance_of_the_zero_cell_rule():
    found = settings.from_cells(cells(sft=["0000"], guard=["0000"]), "guard", "hs_rd", "micro", []).found[0]
    rule = sizes("RD", Counts(*(np.array([value]) for value in (0.0, 4.0, 0.0, 4.0))))
    assert (found.y, found.v) == (0, pytest.approx(float(rule.vi[0])))
    level = settings.from_cells(cells(sft=["1110"], guard=["1110"]), "guard", "hs_rd", "micro", []).found[0]
    assert level.v == found.v, "what both arms answer alike is no evidence of a difference"


def test_odds_ratio_of_a_single_base():
    found = settings.from_cells(cells(sft=["11110000"], guard=["11000000"]), "guard", "hs_or", "micro", []).found[0]
    assert found.y == pytest.approx(np.log((2 / 6) / (4 / 4)))
    perfect = settings.from_cells(cells(sft=["11110000"], guard=["00000000"]), "guard", "hs_or", "micro", []).found[0]
    assert perfect.y == pytest.approx(np.log((0.5 / 8.5) / (4.5 / 4.5)))
    assert perfect.v == pytest.approx(1 / 0.5 + 1 / 8.5 + 2 / 4.5)


def test_newcombe_with_arms_of_different_size():
    # Newcombe (1998), method 10, 56/70 against 48/80: 0.0524 to 0.3339.
    assert effects.newcombe(56 / 70, 48 / 80, 70, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
