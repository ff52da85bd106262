"""Cross-model probes: sign and scale of the shift, moved against erased features, and what is held out."""

import numpy as np
import pytest

from reproduce.linear_probes import affine_lens, auc, cross_read, fit_probe, shift, split

LABELS = np.repeat([1, 0], [100, 100])


def states(seed: int = 0, separation: float = 4.0) -> np.ndarray:
    """One layer of 200 prompts in 6 dimensions; label 1 lies further along the first."""
    x = np.random.default_rng(seed).normal(size=(1, 200, 6))
    x[0, :100, 0] += separation
    return x


def test_split_holds_a_fifth_out_of_each_label() -> None:
    train, held = split(LABELS, 0)
    assert (len(train), len(held)) == (160, 40)
    assert not set(train) & set(held)
    assert LABELS[held].sum() == 20
    assert np.array_equal(split(LABELS, 0)[1], held)
    assert not np.array_equal(split(LABELS, 1)[1], held)


def test_shift_by_hand() -> None:
    """Logits 3 and 1 (label 1), -1 and -3: their deviation is sqrt(5); both harmful ones fall by 2."""
    then, later = np.array([3.0, 1.0, -1.0, -3.0]), np.array([1.0, -1.0, -1.0, 5.0])
    labels = np.array([1, 1, 0, 0])
    assert shift(then, later, labels) == pytest.approx(-2 / np.sqrt(5))
    assert (later - then).mean() == pytest.approx(1.0)  # over all prompts it would point the other way
    assert shift(10 * then, 10 * later, labels) == pytest.approx(shift(then, later, labels))


def test_logit_speaks_for_label_one() -> None:
    probe = fit_probe(states()[0], LABELS)
    assert probe.decision_function([[4.0, 0, 0, 0, 0, 0]])[0] > 0 > probe.decision_function([[0.0] * 6])[0]
    assert auc(probe, states(1)[0], LABELS) > 0.95
    assert auc(probe, -states(1)[0], LABELS) < 0.05


def test_moved_features_lose_the_old_probe_and_erased_ones_the_new_too() -> None:
    plain = states()
    moved = plain[..., ::-1].copy()  # a rotation of the space
    erased = plain.copy()
    erased[0, :100, 0] -= 4.0
    lowered = plain - np.eye(6)[0] * 2.0
    read = cross_read({"plain": plain, "moved": moved, "erased": erased, "lowered": lowered}, LABELS, 0)
    assert read["plain"].area == read["plain"].native
    assert read["plain"].shift == [0.0]
    assert read["moved"].area[0] < 0.75 < 0.95 < read["moved"].native[0]
    assert read["erased"].area[0] < 0.75
    assert read["erased"].native[0] < 0.75
    assert read["lowered"].area == pytest.approx(read["plain"].area)  # a common move leaves the order
    assert read["lowered"].shift[0] < -0.5


def test_probes_are_trained_on_the_first_model_alone_and_scored_on_held_out_prompts() -> None:
    plain, train = states(separation=0.0), split(LABELS, 0)[0]
    told = plain.copy()
    told[0, train, 1] = 50 * (LABELS[train] - 0.5)  # gives the label away in training only
    assert cross_read({"told": told}, LABELS, 0)["told"].area[0] < 0.75
    one, other = (cross_read({"a": plain, "b": b}, LABELS, 0) for b in (states(2), states(3)))
    assert one["a"] == other["a"]


def test_affine_lens_reads_a_linear_signal_and_is_fitted_to_the_first_model() -> None:
    plain = states()
    signal = plain[0] @ np.arange(6.0) + 2.0
    held = [i for i in split(LABELS, 0)[1] if LABELS[i] == 1]
    read = affine_lens({"plain": plain, "shifted": plain + np.eye(6)[5]}, signal, LABELS, 0)
    assert read["plain"][0] == pytest.approx(signal[held].mean(), abs=0.2)
    assert read["shifted"][0] - read["plain"][0] == pytest.approx(5.0, abs=0.2)
