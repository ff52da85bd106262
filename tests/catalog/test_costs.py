import pytest
from made import run

from catalog import costs, measured


def cost(seed, factor=1.0, **more):
    known = {"align_passes": 100 * factor, "passes": 300 + seed, "align_tokens": 10, "tokens": 20}
    known |= {"align_seconds": 4.0 * factor, "tune_seconds": 2.0 + seed, "repair_seconds": 0.5, "seconds": 99.0}
    return known | {"peak_bytes": 1000 * factor} | more


def ratios(records):
    (cell,) = [cell for cell in measured.cells(records) if cell.method == "guard"]
    return costs.ratios(cell)


def pairs(seeds, **more):
    twins = [run(seed=seed, cost=cost(seed)) for seed in seeds]
    return [*twins, *(run(paper="guard", seed=seed, cost=cost(seed, 3.0, **more)) for seed in seeds)]


def test_cost_is_that_of_training_with_alignment_over_the_twins_seed_by_seed():
    found = ratios(pairs(range(3)))
    assert found["passes"].value == pytest.approx(sum((600 + s) / (400 + s) for s in range(3)) / 3)
    assert found["seconds"].value == pytest.approx(sum((14.5 + s) / (6.5 + s) for s in range(3)) / 3)
    assert found["memory"].value == pytest.approx(3.0)
    assert found["tokens"].value == 1
    assert found["passes"].low < found["passes"].value < found["passes"].high
    assert {one.seeds for one in found.values()} == {3}


def test_a_kind_that_one_side_did_not_record_is_left_out():
    records = pairs(range(2))
    for one in records[:2]:
        del one["cost"]["align_passes"]
    assert set(ratios(records)) == {"tokens", "seconds", "memory"}


def test_only_seeds_of_both_count_and_without_a_twin_there_is_no_cost():
    records = pairs(range(3))
    assert ratios(records[1:])["memory"].seeds == 2
    assert ratios(records[3:]) == {}
    (sft,) = [cell for cell in measured.cells(records) if cell.method == "sft"]
    assert costs.ratios(sft) == {}


def test_a_twin_that_cost_nothing_gives_no_ratio():
    records = pairs(range(1))
    records[0]["cost"]["peak_bytes"] = 0
    assert "memory" not in ratios(records)


def test_the_same_alignment_took_as_long_for_both():
    """A busy machine timed it at 12 s beside one record and at 4 s beside the other; only what follows differs."""
    records = pairs(range(2))
    for one in records:
        one["digests"]["aligned"] = "same"
    assert ratios(records)["seconds"].value == pytest.approx(1.0)
    for one in records[:2]:
        one["digests"]["aligned"] = "another"
    assert ratios(records)["seconds"].value == pytest.approx(sum((14.5 + s) / (6.5 + s) for s in range(2)) / 2)
