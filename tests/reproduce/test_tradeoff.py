"""Two lines of operating points at equal benefit."""

import pytest

from reproduce.tradeoff import saving_at_equal


def test_other_line_is_interpolated_at_our_points() -> None:
    ours, other = [(90.0, 30.0), (50.0, 10.0)], [(100.0, 80.0), (0.0, 0.0)]
    assert saving_at_equal(ours, other) == pytest.approx(((72 - 30) + (40 - 10)) / 2)
    assert saving_at_equal(other, other) == 0.0


def test_points_outside_the_other_lines_range_do_not_count() -> None:
    assert saving_at_equal([(99.0, 1.0), (50.0, 10.0)], [(60.0, 20.0), (40.0, 20.0)]) == pytest.approx(10.0)
    assert saving_at_equal([(99.0, 1.0)], [(60.0, 20.0), (40.0, 20.0)]) is None


def test_of_points_at_the_same_place_the_cheapest_counts() -> None:
    assert saving_at_equal([(50.0, 10.0)], [(50.0, 90.0), (50.0, 15.0), (50.0, 40.0)]) == pytest.approx(5.0)
