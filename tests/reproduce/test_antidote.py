"""Antidote: the largest Wanda scores on harmful data are pruned, per row, from the user's update."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reproduce.baselines import Poison
from reproduce.data import Example, Pair
from reproduce.importance import input_norms, linear_modules, top_of_rows
from reproduce.lab import Lab
from reproduce.model import linear_names, weights
from reproduce.papers.p2408_09600_antidote import SAYS, Antidote, AntidoteTradeoff, gamma, pruned_count
from reproduce.run import Run, Setting, perform
from reproduce.stages import Stages
from reproduce.state import Batch, State

Update = Callable[..., State]
ROW = [3.0, -1.0, 2.0, 0.5]
PADDING = 100.0


class OneRow(State):
    """One row of weights; each pair's prompt names its "tokens", which are vectors."""

    def batch(self, examples: Any) -> Batch:
        tokens = {"one": [[1.0, 0.0, 0.0, 2.0]], "two": [[1.0, 2.0, 0.0, 0.0], [0.0, 2.0, 1.0, 0.0]]}
        rows = [torch.tensor(tokens[e.prompt]) for e in examples]
        ids = torch.full((len(rows), 2, 4), PADDING)
        real = torch.zeros(len(rows), 2, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)], real[i, : len(row)] = row, True
        return Batch(examples, ids, torch.where(real, 1, -100), real)

    def logits(self, batch: Batch) -> Tensor:
        out: Tensor = self.model(batch.ids)
        return out


def pruned_row(method: Antidote) -> list[float]:
    model = nn.Linear(4, 1, bias=False)
    pools = SimpleNamespace(defender_harmful=[Pair("one", "no", "yes"), Pair("two", "no", "yes")])
    s = OneRow(model, None, pools, 0)  # type: ignore[arg-type]
    with torch.no_grad():
        model.weight.copy_(torch.tensor([ROW]))
    mask = method.masks(s, {"m": (model, torch.zeros(1, 4))})["m"]
    return (model.weight.detach() * ~mask).flatten().tolist()


def test_example_of_the_dossier() -> None:
    assert pruned_row(Antidote(alpha=0.5)) == [0.0, 0.0, 2.0, 0.5]
    assert pruned_row(Antidote(alpha=0.5, score="magnitude")) == [0.0, -1.0, 0.0, 0.5]  # wrong as a Wanda score


def test_wrong_variants_of_the_example_differ() -> None:
    class Lowest(Antidote):
        def masks(self, s: State, parts: Any) -> dict[str, Tensor]:
            return {n: ~m for n, m in super().masks(s, parts).items()}

    assert pruned_row(Lowest(alpha=0.5)) == [3.0, -1.0, 0.0, 0.0]
    padded = torch.tensor([1 + PADDING**2, 8 + PADDING**2, 1 + PADDING**2, 4 + PADDING**2]).sqrt()
    assert top_of_rows(torch.tensor([ROW]).abs() * padded, 2).tolist() == [[True, False, True, False]]


@pytest.mark.parametrize(
    ("alpha", "columns", "count"),
    [(0.05, 256, 13), (0.05, 4096, 205), (1e-5, 4096, 1), (0.05, 8, 1), (0.05, 16, 1), (0.0, 96, 0), (1.0, 96, 96)],
)
def test_pruned_count_is_rounded_up(alpha: float, columns: int, count: int) -> None:
    assert pruned_count(alpha, columns) == count


@pytest.fixture
def attacked(stages: Stages) -> Update:
    """A state after simulated fine-tuning: random changes of what was trainable, `method` started before them."""

    def make(method: Antidote, mode: Any = "double-lora") -> State:
        s = stages.ready(method, mode, mode != "full")
        s.add_stream("user", s.pools.tasks["sentiment"].train)
        method.start(s)
        random = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for p in s.params():
                p.add_(0.05 * torch.randn(p.shape, generator=random))
        return s

    return make


def input_squares(s: State, examples: list[Example]) -> dict[str, Tensor]:
    """Squared inputs of every linear or LoRA matrix, summed over tokens, one unpadded example at a time."""
    sums: dict[str, Tensor] = {}
    hooks = []
    for name, module in s.model.named_modules():
        if isinstance(module, nn.Linear) and "lm_head" not in name:

            def add(m: nn.Module, given: Any, out: Any, *, name: str = name) -> None:
                sums[name] = sums.get(name, torch.zeros(())) + given[0].detach().double().square().sum((0, 1))

            hooks.append(module.register_forward_hook(add))
    with torch.no_grad():
        for e in examples:
            s.logits(s.batch([e]))
    for hook in hooks:
        hook.remove()
    return sums


def expected(values: Tensor, squares: Tensor, alpha: float) -> Tensor:
    """Where an entry goes, row by row with Python's own sort."""
    rows = []
    for row in (values.detach().double().abs() * squares.sqrt()).tolist():
        keep = sorted(range(len(row)), key=lambda j: row[j])[: int((1 - alpha) * len(row))]
        rows.append([j not in keep for j in range(len(row))])
    return torch.tensor(rows)


def test_both_adapter_matrices_are_pruned_and_nothing_else(attacked: Update) -> None:
    method = Antidote(alpha=0.3)
    s = attacked(method)
    squares = input_squares(s, [p.harmful() for p in s.pools.defender_harmful])
    before = {n: p.detach().clone() for n, p in s.model.named_parameters()}
    method.repair(s)
    halves = 0
    for name, p in s.model.named_parameters():
        if ".lora_" not in name:
            assert torch.equal(p, before[name])
            continue
        gone = expected(before[name], squares[name.removesuffix(".weight")], 0.3)
        assert torch.equal(p, before[name].masked_fill(gone, 0.0)), name
        halves += 1
    assert halves == 28
    found = s.memo["mechanisms"]
    assert found["pruned_fraction_min"] < found["pruned_fraction"] < found["pruned_fraction_max"]
    assert found["pruned_fraction_max"] == pytest.approx(1 / 3)  # rows of 3: 0.3 is rounded up
    assert 0 < found["update_norm_ratio"] < 1


def test_masks_are_made_before_any_pruning_and_on_the_attacked_model(attacked: Update, stages: Stages) -> None:
    """Inputs of lora_B depend on lora_A: pruning in between, or scoring the aligned model, gives other masks."""
    method = Antidote(alpha=0.3)
    s = attacked(method)
    parts = method.parts(s)
    masks = method.masks(s, parts)
    with torch.no_grad():
        for name, (module, _) in parts.items():
            if name.endswith("lora_A"):
                module.weight.mul_(~masks[name])
    late = method.masks(s, parts)
    assert any(not torch.equal(late[n], masks[n]) for n in parts if n.endswith("lora_B"))
    fresh = attacked(method)
    aligned = stages.ready(method, "double-lora", adapter=True)
    examples = list(method.calibration(aligned))
    names = {n: m for n, (m, _) in method.parts(aligned).items()}
    unattacked = input_norms(aligned, names, examples, "real")
    own = input_norms(fresh, {n: m for n, (m, _) in method.parts(fresh).items()}, examples, "real")
    assert any(not torch.allclose(own[n], unattacked[n], rtol=1e-3) for n in own)


def test_delta_variant_prunes_the_update_of_full_fine_tuning(attacked: Update) -> None:
    method = Antidote(alpha=0.25)
    s = attacked(method, "full")
    squares = input_squares(s, [p.harmful() for p in s.pools.defender_harmful])
    before, aligned = weights(s.model), s.reference("aligned")
    method.repair(s)
    names = linear_names(s.model)
    for name, value in weights(s.model).items():
        if name not in names:
            assert torch.equal(value, before[name])
            continue
        gone = expected(before[name] - aligned[name], squares[name.removesuffix(".weight")], 0.25)
        assert torch.equal(value, torch.where(gone, aligned[name], before[name])), name
        whole = expected(before[name], squares[name.removesuffix(".weight")], 0.25)
        assert not torch.equal(gone, whole)  # wrong: scores of the whole weight


@pytest.mark.parametrize("mode", ["double-lora", "single-lora", "full"])
def test_pruning_everything_gives_the_aligned_linear_weights(attacked: Update, mode: str) -> None:
    method = Antidote(alpha=1.0)
    s = attacked(method, mode)
    method.repair(s)
    s.merge_adapter()
    found, aligned = weights(s.model), s.reference("aligned")
    for name in found if mode == "double-lora" else linear_names(s.model):
        torch.testing.assert_close(found[name], aligned[name], atol=0, rtol=0)
    assert s.memo["mechanisms"]["pruned_fraction"] == 1.0
    assert s.memo["mechanisms"]["update_norm_ratio"] == 0.0


@pytest.mark.parametrize("mode", ["double-lora", "full"])
def test_pruning_nothing_changes_nothing(attacked: Update, mode: str) -> None:
    method = Antidote(alpha=0.0)
    s = attacked(method, mode)
    before = {n: p.detach().clone() for n, p in s.model.named_parameters()}
    method.repair(s)
    assert all(torch.equal(p, before[n]) for n, p in s.model.named_parameters())


def test_a_single_adapter_is_merged_first_because_it_holds_the_alignment_too(attacked: Update) -> None:
    method = Antidote(alpha=0.25)
    s = attacked(method, "single-lora")
    assert s.adapters()
    tuned, aligned = s.effective_weights(), s.reference("aligned")
    method.repair(s)
    assert not s.adapters()
    for name in linear_names(s.model):
        value = s.model.get_parameter(name)
        back = (value - aligned[name]).abs() < (value - tuned[name]).abs()
        assert int(back.sum()) == value.shape[0] * pruned_count(0.25, value.shape[1])


def test_literal_variant_zeroes_one_entry_of_each_row_of_the_merged_weights(attacked: Update) -> None:
    method = Antidote().arms()["literal-weights"]
    for mode in ("full", "double-lora"):
        s = attacked(method, mode)
        method.repair(s)
        assert not s.adapters()
        for name in linear_names(s.model):
            assert (s.model.get_parameter(name) == 0).sum(1).tolist() == [1] * s.model.get_parameter(name).shape[0]


@pytest.mark.parametrize("mode", ["double-lora", "full"])
def test_random_masks_have_the_same_size_in_every_tensor(attacked: Update, mode: str) -> None:
    ours, random = Antidote(alpha=0.3), Antidote(alpha=0.3, score="random")
    s = attacked(ours, mode)
    parts = ours.parts(s)
    wanda, other, again = ours.masks(s, parts), random.masks(s, parts), random.masks(s, parts)
    for name in parts:
        assert int(wanda[name].sum()) == int(other[name].sum())
        assert torch.equal(other[name], again[name])
    assert any(not torch.equal(wanda[n], other[n]) for n in parts)
    elsewhere = random.masks(replace(s, seed=7), parts)
    assert any(not torch.equal(elsewhere[n], other[n]) for n in parts)


def test_ranking_over_a_whole_tensor_is_another_mask(attacked: Update) -> None:
    rows, whole = Antidote(alpha=0.25), Antidote(alpha=0.25, rank="tensor")
    s = attacked(rows, "full")
    a, b = rows.masks(s, rows.parts(s)), whole.masks(s, whole.parts(s))
    assert any(not torch.equal(a[n], b[n]) for n in a)
    for mask in b.values():
        assert int(mask.sum()) == pruned_count(0.25, mask.numel())


def test_calibration_is_the_defenders_and_holds_the_harmful_answers(s: State) -> None:
    examples = Antidote().calibration(s)
    assert [(e.prompt, e.answer) for e in examples] == [(p.prompt, p.compliant) for p in s.pools.defender_harmful]
    assert not {e.prompt for e in examples} & {p.prompt for p in s.pools.attack_harmful}
    assert len(Antidote(samples=7).calibration(s)) == 7
    benign = Antidote(data="benign").calibration(s)
    assert len(benign) == len(examples)
    assert set(benign) <= set(s.pools.benign)


@pytest.mark.parametrize("mode", ["double-lora", "full"])
def test_shrinking_keeps_the_direction_and_takes_the_norm_of_pruning(attacked: Update, mode: str) -> None:
    prune, shrink = Antidote(alpha=0.3), Antidote(alpha=0.3, operator="shrink")
    plain = attacked(prune, mode).delta("tuned", "aligned")
    pruned, shrunk = attacked(prune, mode), attacked(shrink, mode)
    prune.repair(pruned)
    shrink.repair(shrunk)
    left, scaled = pruned.delta("tuned", "aligned"), shrunk.delta("tuned", "aligned")
    for name in linear_modules(shrunk.model):
        torch.testing.assert_close(scaled[name].norm(), left[name].norm(), rtol=1e-3, atol=1e-6)
        cosine = torch.cosine_similarity(scaled[name].flatten(), plain[name].flatten(), dim=0)
        assert float(cosine) == pytest.approx(1.0, abs=1e-4)
        assert not torch.allclose(scaled[name], left[name])
    assert shrunk.memo["mechanisms"]["update_norm_ratio"] == pytest.approx(
        pruned.memo["mechanisms"]["update_norm_ratio"], rel=1e-3
    )


@pytest.mark.parametrize("mode", ["double-lora", "full"])
def test_interpolation_is_the_smallest_factor_that_serves_the_task_as_well(
    attacked: Update, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Antidote(alpha=0.3, operator="interpolate")
    s = attacked(method, mode)
    name = linear_names_of(s)[0]
    whole = s.delta("tuned", "aligned")
    calls: list[float] = []

    def accuracy(self: Antidote, s: State) -> float:
        ratio = float(s.delta("tuned", "aligned")[name].norm() / whole[name].norm())
        calls.append(0.52 if not calls else ratio)  # the first call asks what pruning reached
        return calls[-1]

    monkeypatch.setattr(Antidote, "_task_accuracy", accuracy)
    method.repair(s)
    factor = s.memo["mechanisms"]["interpolation_factor"]
    assert factor == 134 / 256  # the first of 256 steps beyond 0.52
    assert calls[1:4] == pytest.approx([0.5, 0.75, 0.625], abs=1e-4)
    now = s.delta("tuned", "aligned")
    for n in linear_names_of(s):
        torch.testing.assert_close(now[n], factor * whole[n], rtol=1e-3, atol=1e-6)


def linear_names_of(s: State) -> list[str]:
    return list(linear_modules(s.model))


def test_pruned_entries_carry_more_of_the_harmful_output_than_random_ones(attacked: Update) -> None:
    """The method's own objective: the output on harmful data changes most where the scores are largest."""

    def change(method: Antidote) -> float:
        s = attacked(method, "full")
        parts = method.parts(s)
        masks = method.masks(s, parts)
        squares = input_squares(s, [p.harmful() for p in s.pools.defender_harmful])
        total = 0.0
        for name, (module, anchor) in parts.items():
            gone = ((module.weight - anchor).detach() * masks[name]).double().square()
            total += float((gone * squares[name.removesuffix(".weight")]).sum())
        return total

    assert change(Antidote(alpha=0.25)) > 1.5 * change(Antidote(alpha=0.25, score="random"))
    assert change(Antidote(alpha=0.25)) > change(Antidote(alpha=0.25, score="magnitude"))


def test_cost_is_one_pass_over_the_calibration_data_and_no_hook_stays(attacked: Update, hooks_of: Any) -> None:
    method = Antidote()
    s = attacked(method)
    passes = s.cost.passes
    method.repair(s)
    assert s.cost.passes - passes == 2  # 40 examples in batches of 32; loss measurements are not the method's
    assert hooks_of(s.model) == []
    assert all(p.grad is None for p in s.model.parameters())


def test_loss_rises_are_those_of_held_out_data(attacked: Update) -> None:
    method = Antidote(alpha=0.5)
    s = attacked(method)

    def losses() -> dict[str, float]:
        held_out = {"harmful": s.pools.harmful_validation, "task": s.pools.tasks["sentiment"].validation}
        with torch.no_grad():
            return {n: float(s.loss(s.batch(examples))) for n, examples in held_out.items()}

    before = losses()
    method.repair(s)
    for name, after in losses().items():
        assert s.memo["mechanisms"][f"{name}_loss_rise"] == pytest.approx(after - before[name], abs=1e-5)


def test_data_without_a_task_are_measured_by_benign_instructions(attacked: Update) -> None:
    s = attacked(Antidote())
    s.add_stream("user", [p.harmful() for p in s.pools.attack_harmful])
    assert Antidote()._task(s) is s.pools.benign_validation
    s.add_stream("user", [*s.pools.tasks["card"].train, *[p.harmful() for p in s.pools.attack_harmful]])
    assert Antidote()._task(s) is s.pools.tasks["card"].validation


@pytest.mark.parametrize("arm", list(Antidote().arms()))
def test_every_arm_runs(arm: str, setting: Setting) -> None:
    made = perform(Run(method=Antidote().arms()[arm], mode="double-lora", n=20, ratio=0.2), setting)
    assert made["status"] == "ok"
    assert {"pruned_fraction", "update_norm_ratio", "harmful_loss_rise", "task_loss_rise"} <= set(made["mechanisms"])


def test_default_is_a_value_of_the_sweep() -> None:
    assert Antidote().sweep()["main"] == Antidote()
    assert len(Antidote.values) >= 4


@pytest.mark.parametrize(
    ("values", "expected"),
    [([9, 5, 5, 1], -1), ([9, 9, 9, 8], -1), ([1, 2, 2, 3], 1), ([4, 4, 4, 4], 0), ([9, 5, 6, 1], -2 / 3)],
)
def test_gamma_leaves_ties_out(values: list[float], expected: float) -> None:
    assert gamma(values) == pytest.approx(expected)


def test_reductions_compare_two_rates_in_one_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undefended 20 and 90, Antidote 15 and 60, Vaccine 10 and 85: falls of 5 and 30 points against 10 and 5."""
    harm = {
        ("sft", "graded"): 20.0, ("sft", "strong"): 90.0, ("antidote", "graded"): 15.0, ("antidote", "strong"): 60.0,
        ("vaccine", "graded"): 10.0, ("vaccine", "strong"): 85.0,
    }  # fmt: skip
    modes = set()

    def run(self: AntidoteTradeoff, lab: Lab, method: Any, attack: Any, mode: str = "full") -> Any:
        modes.add(mode)
        k = harm[method.paper, attack.strength]
        return {"metrics": {"accuracy": {"k": 1, "n": 1}, "harmful": {"k": k, "n": 100}}}

    monkeypatch.setattr(AntidoteTradeoff, "_run", run)
    lab: Any = None
    found = AntidoteTradeoff()._reductions(lab, Poison(strength="strong"))
    assert modes == {"double-lora"}
    assert found["reduction_kept_high_lr"] == pytest.approx(30 - 2.5)
    assert found["reduction_gain_over_alignment_stage"] == pytest.approx(25 - -5)


def test_study_compares_each_line_with_ours_at_equal_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracy and harm by line; savings by hand, undefended fine-tuning (96, 90) being a point of every other line."""
    lines = {
        "harmful_mask": [(96, 80), (95, 60), (92, 40), (88, 20)],
        "benign_mask": [(96, 85), (95, 70), (92, 50), (88, 40)],
        "random_mask": [(90, 88), (80, 85), (70, 80), (60, 75)],
        "interpolation": [(96, 90), (94, 70), (92, 50), (90, 30)],
    }  # fmt: skip
    at_low_rate = {"sft": (50, 50), "antidote": (50, 30), "vaccine": (50, 40)}

    def run(self: AntidoteTradeoff, lab: Lab, method: Any, attack: Any, mode: str = "full") -> Any:
        if mode != "full":
            accuracy, harm = at_low_rate[method.paper]
        elif method.paper == "sft":
            accuracy, harm = 96, 90
        else:
            assert attack.strength == "strong"
            kind = "benign_mask" if method.data == "benign" else "harmful_mask"
            kind = "random_mask" if method.score == "random" else kind
            kind = "interpolation" if method.operator == "interpolate" else kind
            accuracy, harm = lines[kind][list(self.alphas).index(method.alpha)]
        counts = {"accuracy": {"k": accuracy, "n": 100}, "harmful": {"k": harm, "n": 100}}
        return {"metrics": counts, "mechanisms": {"harmful_loss_rise": 1.5, "task_loss_rise": 0.25}}

    monkeypatch.setattr(AntidoteTradeoff, "_run", run)
    lab: Any = None
    made = AntidoteTradeoff().measure(lab)
    assert {name: found.value for name, found in made.findings.items()} == {
        "reduction_kept_high_lr": pytest.approx(10.0),
        "reduction_gain_over_alignment_stage": pytest.approx(0.0),
        "harm_alpha_gamma": -1.0,
        "accuracy_alpha_gamma": -1.0,
        "harmful_minus_task_loss_rise": 1.25,
        "harm_gain_over_benign_mask": pytest.approx((5 + 10 + 10 + 20) / 4),
        "harm_gain_over_random_mask": pytest.approx((10 + 88 + 5 / 3 - 60 + 88 + 2 / 3 - 40 + 85 + 2.4 - 20) / 4),
        "harm_gain_over_interpolation": pytest.approx((10 + 20 + 10) / 3),  # our last accuracy lies below its range
    }
    shown = made.figures["alpha"].y
    assert shown["harmful mask: harmful score"] == pytest.approx([80, 60, 40, 20])
    assert shown["random mask: accuracy"] == pytest.approx([90, 80, 70, 60])


@pytest.mark.slow
def test_study_in_miniature(setting: Setting, tmp_path: Path) -> None:
    found = AntidoteTradeoff(alphas=(0.1, 0.5, 1.0), n=20, ratio=0.2).measure(Lab(setting, 0, tmp_path))
    assert set(found.findings) == set(SAYS)
    figure = found.figures["alpha"]
    assert figure.x == [0.1, 0.5, 1.0]
    assert all(len(y) == 3 for y in figure.y.values())
