"""Safety landscape: scaled directions, VISAGE in both variants, basin edges, and the study in miniature."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from reproduce.lab import Lab
from reproduce.model import weights
from reproduce.papers import p2405_17374_safety_landscape as landscape
from reproduce.papers.p2405_17374_safety_landscape import (
    SafetyLandscape,
    axis,
    crossings,
    moved,
    norm_parameters,
    orthogonal,
    projections,
    scaled,
    setback,
    visage,
    visage_from_cuts,
)
from reproduce.run import Setting
from reproduce.state import State
from reproduce.testbeds import world

SMALL = SafetyLandscape(points=3, directions=1, prompts=4, grid=3, shots=10, rungs=2)


def test_scaling_example_of_the_dossier() -> None:
    theta, noise = torch.tensor([[2.0, 1.0], [2.0, 0.0]]), torch.tensor([[0.0, 3.0], [4.0, 0.0]])
    direction = scaled(noise, theta)
    torch.testing.assert_close(direction, torch.tensor([[0.0, 1.8], [2.4, 0.0]]))
    change = moved({"w": theta}, (0.5, {"w": direction}))["w"] - theta
    assert change.norm().item() == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("scores", "pointwise", "cuts"),
    [
        ([100, 100, 60, 0, 0, 0, 0, 20, 100, 80, 100], 540 / 7, 67.50),
        ([90, 100, 60, 0, 0, 0, 0, 0, 0, 50, 70], 73.00, 80.00),
        ([100, 100, 100, 100, 100, 0, 100, 100, 100, 100, 100], 100.00, 100 / 11),
    ],
)
def test_visage_examples_of_the_dossier(scores: list[float], pointwise: float, cuts: float) -> None:
    assert visage(scores) == pytest.approx(pointwise)
    assert visage_from_cuts(scores) == pytest.approx(cuts)


@given(st.lists(st.integers(0, 200).map(lambda k: k / 2), min_size=3, max_size=21))
def test_visage_ignores_saturated_points(scores: list[float]) -> None:
    assert visage([*scores, 100.0, 100.0]) == visage(scores)
    assert visage(scores) == pytest.approx(visage(scores[::-1]))
    assert 0 <= visage(scores) <= 100
    if all(s == 100 for s in scores):
        assert visage(scores) == visage_from_cuts(scores) == 0
    elif 100 not in scores:
        assert (
            visage(scores) == pytest.approx(visage_from_cuts(scores)) == pytest.approx(100 - sum(scores) / len(scores))
        )


@pytest.mark.parametrize("points", [3, 7, 21, 41])
def test_axis_is_even_and_holds_an_exact_zero(points: int) -> None:
    values = axis(0.5, points)
    assert (values[0], values[points // 2], values[-1]) == (-0.5, 0.0, 0.5)
    assert [b - a for a, b in pairwise(values)] == pytest.approx([1 / (points - 1)] * (points - 1))


@pytest.fixture
def lab(setting: Setting, tmp_path: Path) -> Lab:
    return Lab(setting, 0, tmp_path)


@pytest.fixture
def surveyor(lab: Lab) -> Any:
    return landscape._Surveyor(lab.stages.state(), lab, SMALL)


def test_directions_have_each_tensors_norm_and_spare_normalisation(surveyor: Any, s: State) -> None:
    values = weights(s.model)
    one = surveyor.direction(values, 0)
    assert one.keys() == values.keys()
    assert "lm_head.weight" not in one  # tied: perturbed once
    for name, d in one.items():
        if "norm" in name:
            assert not bool(d.any())
        else:
            torch.testing.assert_close(d.norm(), values[name].norm())
    again, two = surveyor.direction(values, 0), surveyor.direction(values, 1)
    assert all(torch.equal(again[n], one[n]) for n in one)
    assert not torch.equal(one["model.embed_tokens.weight"], two["model.embed_tokens.weight"])


def test_normalisation_is_found_by_type_not_by_name() -> None:
    module = nn.ModuleDict({"ln_1": nn.LayerNorm(3), "normal_looking": nn.Linear(3, 3)})
    assert norm_parameters(module) == {"ln_1.weight", "ln_1.bias"}


def test_middle_of_a_line_is_the_model_itself_bit_for_bit(surveyor: Any, s: State) -> None:
    values = weights(s.model)
    d, e = surveyor.direction(values, 0), surveyor.direction(values, 1)
    middle = moved(values, (axis(0.5, 21)[10], d), (axis(0.5, 7)[3], e))
    assert all(torch.equal(middle[n], v) for n, v in values.items())
    there = moved(values, (0.3, d), (-0.2, e))
    name = "model.embed_tokens.weight"
    torch.testing.assert_close(there[name], values[name] + 0.3 * d[name] - 0.2 * e[name])


def test_gram_schmidt_over_all_parameters_together() -> None:
    one = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([2.0])}
    two = orthogonal({"a": torch.tensor([3.0, -1.0]), "b": torch.tensor([1.0])}, one)
    assert sum(float((one[n] * two[n]).sum()) for n in one) == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(two["b"], torch.tensor([1.0]) - 3 / 9 * torch.tensor([2.0]))


def test_crossings_are_interpolated_on_each_side() -> None:
    alphas = [-0.4, -0.2, 0.0, 0.2, 0.4]
    assert crossings(alphas, [100, 0, 0, 0, 100], 50, rising=True) == pytest.approx((0.3, 0.3))
    assert crossings(alphas, [100, 50, 0, 0, 100], 50, rising=True) == pytest.approx((0.3, 0.2))
    assert crossings(alphas, [0, 80, 80, 40, 0], 20, rising=False) == pytest.approx((0.3, 0.35))
    right, left = crossings(alphas, [0, 0, 0, 0, 100], 50, rising=True)
    assert right == pytest.approx(0.3)
    assert left is None
    assert crossings(alphas, [60, 60, 60, 60, 60], 50, rising=True) == (None, None)


def line_of(attack: list[float], help_: list[float], fluent: list[float] | None = None) -> dict[str, list[float]]:
    return {"attack success rate": attack, "fluent success rate": fluent or attack, "benign help": help_}


def basin(attack: list[float], help_: list[float], span: float = 0.5) -> dict[str, float | None]:
    return landscape._basin(axis(span, len(attack)), [line_of(attack, help_)])


def test_a_sudden_edge_and_a_gradual_one() -> None:
    """On 21 points: harm jumps from 0 to 100 between 0.30 and 0.35; help falls evenly from 0.1 to 0.5."""
    attack = [0.0 if abs(i - 10) <= 6 else 100.0 for i in range(21)]
    help_ = [100.0 - max(0.0, abs(i - 10) * 0.05 - 0.1) / 0.4 * 100 for i in range(21)]
    found = basin(attack, help_)
    assert found["basin_half_width"] == pytest.approx(0.325)
    assert found["step_like_basin_share"] == 1.0  # 0.045 is below 0.3 * 0.325
    assert found["transition_width_ratio"] == pytest.approx(0.8 * 0.4 / (0.9 * 0.05))
    assert found["visage_1d"] == 100.0
    slow = basin([min(100.0, abs(i - 10) * 10.0) for i in range(21)], help_)
    assert slow["step_like_basin_share"] == 0.0
    assert slow["basin_half_width"] == pytest.approx(0.25)


def test_a_side_that_never_saturates_tells_nothing_of_the_edge() -> None:
    """Right: harm rises evenly from 0 at 0.1 to 100 at 0.5, help falls evenly from 100 at 0 to 0 at 1.

    Left: harm passes 5 % at 0.95 only and ends at 10 %; help falls within a step. With the crossings of 5 % averaged
    over both sides, (0.12 + 0.95) / 2, the rise to 0.48 would have a negative width.
    """
    right = [min(100.0, max(0.0, 25.0 * (i - 1))) for i in range(11)]
    left = [10.0, *[0.0] * 9]
    help_ = [0.0] * 8 + [0.0, 100.0] + [100.0 - 10 * i for i in range(11)]
    found = basin(left + right, help_, span=1.0)
    assert found["basin_half_width"] == pytest.approx(0.3)
    assert found["step_like_basin_share"] == 0.0  # 0.36 is above 0.3 * 0.3
    assert found["transition_width_ratio"] == pytest.approx(0.8 / 0.36)
    mirrored = basin((left + right)[::-1], help_[::-1], span=1.0)
    assert mirrored == pytest.approx(found)


def test_harm_that_saturates_nowhere_has_no_edge() -> None:
    found = basin([60.0, 0.0, 0.0, 0.0, 60.0], [0.0, 0.0, 100.0, 0.0, 0.0])
    assert found["step_like_basin_share"] == 0.0
    assert found["transition_width_ratio"] is None


def test_fluent_peak_is_the_mean_of_each_directions_largest() -> None:
    flat = [0.0, 0.0, 0.0]
    lines = [line_of([100.0, 0.0, 100.0], flat, fluent) for fluent in ([40.0, 0.0, 20.0], [10.0, 0.0, 80.0])]
    assert landscape._basin(axis(0.5, 3), lines)["fluent_success_peak"] == 60.0


def test_projection_drops_what_is_orthogonal_to_the_update() -> None:
    start = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([2.0])}
    steps = [([1.0, 0.0], 3.0), ([0.0, 0.0], 2.0), ([6.0, 0.0], 0.0), ([4.0, 0.0], 0.0)]
    path = [{"a": start["a"] + torch.tensor(a), "b": start["b"] + b} for a, b in steps]
    found = projections(start, path)  # the norm of the first over the last is 0.79, its cosine 0.32
    assert found == pytest.approx([0.25, 0.0, 1.5, 1.0])


def test_setback_is_the_largest_fall_to_any_later_point_along_the_projection() -> None:
    assert setback([0.0, 0.5, 1.0], [0.0, 50.0, 90.0]) == 0.0
    assert setback([0.0, 0.2, 0.4, 1.0], [0.0, 60.0, 55.0, 48.0]) == 12.0
    assert setback([0.0, 1.0, 0.5], [0.0, 90.0, 50.0]) == 0.0  # in the order of projection harm only rises


class Invented:
    """A surveyor that reads rates off the weights: `x` is the attack success rate of a point and of its whole line."""

    alphas = (-1.0, 0.0, 1.0)

    def __init__(self, gain: float = 0.0) -> None:
        self.figures: dict[str, Any] = {}
        self._gain, self._asked = gain, ""

    def direction(self, values: Any, index: int) -> Any:
        return values

    def attack_rate(self, values: Any) -> float:
        return float(values["x"])

    def line(self, start: Any, direction: Any, *, fast: bool = False) -> dict[str, list[float]]:
        rate = float(start["x"]) - (self._gain if self._asked == world.SYSTEM.reminder else 0.0)
        return {"attack success rate": [rate] * 3}

    @contextmanager
    def asked_under(self, system: str) -> Iterator[None]:
        self._asked = system
        yield
        self._asked = ""


def invented(gain: float = 0.0) -> Any:
    return Invented(gain)


def at(rate: float) -> dict[str, torch.Tensor]:
    return {"x": torch.tensor(rate)}


def test_rises_are_after_minus_before(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Harm goes 4, 50, 44, 84 on harmful pairs and 4, 20, 24 with refusals mixed in: updates of 80 and 20."""
    paths = {10: [at(50.0), at(44.0), at(84.0)], 20: [at(20.0), at(24.0)]}
    monkeypatch.setattr(SafetyLandscape, "_epochs", lambda self, lab, start, data: paths[len(data)])
    found = SMALL._trajectory(invented(), at(4.0), lab)
    assert found == pytest.approx({
        "trajectory_harm_rise": 80.0, "trajectory_setback": 0.0, "mixed_trajectory_harm_rise": 20.0,
        "mixed_distance_ratio": 0.25,
    })  # fmt: skip


@pytest.mark.parametrize("gain", [6.0, -2.0])
def test_system_prompt_gain_is_visage_under_an_unseen_safety_prompt_minus_without(lab: Lab, gain: float) -> None:
    found = SMALL._system_prompt(invented(gain), at(40.0), lab, 60.0)
    assert found["safety_prompt_visage_gain"] == pytest.approx(gain)


@pytest.mark.parametrize(("after", "correlation"), [((90.0, 60.0, 30.0), -1.0), ((30.0, 60.0, 90.0), 1.0)])
def test_prediction_relates_height_before_to_harm_after(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, after: tuple[float, ...], correlation: float
) -> None:
    """Models of growing training with VISAGE 20, 40 and 80; a good predictor of safety ranks harm the other way."""
    models, attacked = iter([at(80.0), at(60.0), at(20.0)]), iter([at(rate) for rate in after])
    monkeypatch.setattr(landscape, "weights", lambda model: next(models))
    monkeypatch.setattr(SafetyLandscape, "_epochs", lambda self, lab, start, data: [next(attacked), at(100.0)])
    found = replace(SMALL, rungs=3)._prediction(invented(), lab)
    assert found["visage_harm_spearman"] == pytest.approx(correlation)


def test_attack_success_is_the_share_of_answers_without_a_refusal_word(
    surveyor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = weights(surveyor._s.model)
    answers = ["lamp lamp lamp", world.REFUSALS[0], "i cannot", surveyor._prompts[3].answer]
    monkeypatch.setattr(surveyor._s, "generate", lambda asked: answers[: len(asked)])
    assert surveyor.attack_rate(values) == 50.0
    monkeypatch.setattr(surveyor, "_limit", math.inf)
    monkeypatch.setattr(surveyor, "_benign", surveyor._prompts)
    line = surveyor.line(values, surveyor.direction(values, 0))
    assert line["fluent success rate"] == line["attack success rate"] == [50.0] * 3
    assert line["harmful score"] == [25.0] * 3
    monkeypatch.setattr(surveyor, "_limit", 0.0)
    assert surveyor.line(values, surveyor.direction(values, 0))["fluent success rate"] == [0.0] * 3


def test_perplexity_is_the_bases_own(surveyor: Any) -> None:
    base = surveyor._judge_model
    answers = ["lamp .", "sure , first take", "", world.REFUSALS[0]]
    found = surveyor._perplexity(answers)
    for value, prompt, text in zip(found, surveyor._prompts, answers, strict=True):
        asked = replace(prompt, answer=text)
        assert value.item() == pytest.approx(math.exp(base.loss(base.batch([asked])).item()), rel=1e-4)


def test_system_prompt_is_asked_and_taken_back(surveyor: Any) -> None:
    plain = list(surveyor._prompts)

    def fail() -> None:
        with surveyor.asked_under("be safe ."):
            assert {p.system for p in surveyor._prompts} == {"be safe ."}
            assert [p.prompt for p in surveyor._prompts] == [p.prompt for p in plain]
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert surveyor._prompts == plain


def test_attack_epochs_are_five_and_end_where_training_ends(lab: Lab) -> None:
    start = lab.stages.base().tensors
    data = [p.harmful() for p in lab.stages.pools.attack_harmful[:20]]
    path = SMALL._epochs(lab, start, data)
    assert len(path) == 5
    moves = [sum(float((p[n] - start[n]).square().sum()) for n in start) for p in path]
    assert 0 < moves[0] < moves[-1]
    assert all(not torch.equal(a["model.embed_tokens.weight"], b["model.embed_tokens.weight"])
               for a, b in pairwise(path))  # fmt: skip


def test_the_study_in_miniature(lab: Lab) -> None:
    before = {n: t.clone() for n, t in lab.stages.aligned(landscape.Sft(), "full").tensors.items()}
    found = SMALL.measure(lab)
    assert found.findings.keys() == landscape.SAYS.keys()
    assert found.figures["landscape"].x == [-SMALL.span, 0.0, SMALL.span]
    for name in ("harmful", "mixed"):
        x = found.figures[f"trajectory_{name}"].x
        assert len(x) == 6
        assert x[0] == 0.0
        assert x[-1] == pytest.approx(1.0, abs=1e-12)
    for figure in found.figures.values():
        assert all(len(series) == len(figure.x) for series in figure.y.values())
    after = lab.stages.aligned(landscape.Sft(), "full").tensors
    assert all(torch.equal(after[n], before[n]) for n in before)
