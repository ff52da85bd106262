"""Brittleness: the weights safety hangs on are frozen, or copied back, or cut out of the aligned model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from reproduce.api import sft_step
from reproduce.baselines import Sft
from reproduce.importance import linear_modules, scores, share, top_masks
from reproduce.lab import Lab
from reproduce.model import linear_names, weights
from reproduce.papers import p2402_05162_brittleness as module
from reproduce.papers.p2402_05162_brittleness import (
    SAYS,
    Attribution,
    Freeze,
    _held,
    _Surgeon,
    own_refusals,
)
from reproduce.protocol import Schedule
from reproduce.run import Run, Setting, perform
from reproduce.stages import Stages
from reproduce.state import State
from reproduce.train import train

FEW = Schedule(steps=6, batch=4, lr=1e-2, warmup=0)
Ready = Callable[..., State]


@pytest.fixture
def ready(stages: Stages) -> Ready:
    """A state as it enters fine-tuning, `method` started."""

    def make(method: Freeze, mode: Any = "full") -> State:
        s = stages.ready(method, mode, mode != "full")
        s.add_stream("user", s.pools.tasks["sentiment"].train)
        method.start(s)
        return s

    return make


def tuned(s: State, method: Freeze) -> State:
    train(s, "user", FEW, method.finetune_step, method.after_step)
    return s


def test_masks_hold_the_top_scores_of_refusals_in_linear_weights_only(ready: Ready) -> None:
    s = ready(Freeze(fraction=0.5))
    frozen = s.memo["frozen"]
    assert list(frozen) == linear_names(s.model)
    found = scores(s, "snip", own_refusals(s, 128))
    for name, mask in frozen.items():
        half = mask.shape[1] // 2
        assert mask.sum(1).tolist() == [half] * mask.shape[0]
        for row, marked in zip(found[name], mask, strict=True):
            assert float(row[marked].min()) >= float(row[~marked].max())
    other = Freeze(fraction=0.5, score="wanda").masks(s)
    assert any(not torch.equal(other[n], frozen[n]) for n in frozen)


def test_set_difference_spares_what_utility_needs(ready: Ready) -> None:
    s = ready(Freeze(fraction=0.5))
    useful = top_masks(scores(s, "snip", s.pools.benign[:128]), 0.5, "row")
    for name, mask in Freeze(fraction=0.5, spare=0.5).masks(s).items():
        assert torch.equal(mask, s.memo["frozen"][name] & ~useful[name])


def test_random_masks_have_the_same_size(ready: Ready) -> None:
    s = ready(Freeze())
    for method in (Freeze(), Freeze(spare=0.5)):
        ours, random = method.masks(s), replace(method, choose="random").masks(s)
        assert {n: int(m.sum()) for n, m in ours.items()} == {n: int(m.sum()) for n, m in random.items()}
        assert any(not torch.equal(ours[n], random[n]) for n in ours)


def test_calibration_is_the_models_own_refusals_else_the_given_ones(s: State, monkeypatch: pytest.MonkeyPatch) -> None:
    known = s.pools.refusals()
    mine = known[1].answer
    monkeypatch.setattr(s, "generate", lambda asked: [mine if i % 2 else "nonsense" for i in range(len(asked))])
    own = own_refusals(s, 4)
    assert [e.answer for e in own] == [known[0].answer, mine, known[2].answer, mine]
    assert [e.prompt for e in own] == [e.prompt for e in known[:4]]
    assert not {e.prompt for e in own_refusals(s, 128)} & {e.prompt for e in s.pools.harmful_test}
    assert all(not e.prefix for e in own)


@pytest.mark.parametrize("choose", ["top", "random"])
def test_frozen_entries_keep_their_aligned_values_exactly(ready: Ready, choose: Any) -> None:
    method = Freeze(fraction=0.5, choose=choose)
    s = ready(method)
    aligned, frozen = s.reference("aligned"), s.memo["frozen"]
    tuned(s, method)
    for name, value in weights(s.model).items():
        if name not in frozen:
            assert not torch.equal(value, aligned[name])  # embeddings and norms train on
            continue
        assert torch.equal(value[frozen[name]], aligned[name][frozen[name]])
        assert bool((value[~frozen[name]] != aligned[name][~frozen[name]]).any())
    method.repair(s)
    found = s.memo["mechanisms"]
    assert found["undone_update_share"] == 0.0
    assert found["frozen_fraction"] == pytest.approx(share(frozen)) == 0.5
    numbers = sum(m.numel() for m in frozen.values()) / sum(p.numel() for p in s.params())
    assert found["frozen_fraction_of_all"] == pytest.approx(0.5 * numbers)
    assert found["user_loss"] > 0


def test_gradients_of_frozen_entries_are_zero_and_the_others_those_of_plain_fine_tuning(ready: Ready) -> None:
    s = ready(Freeze())
    batch = s.draw("user", 4)
    Freeze().finetune_step(s, batch)
    masked = {n: p.grad for n, p in s.model.named_parameters()}
    s.clear_grads()
    s.backward(s.loss(batch))
    for name, p in s.model.named_parameters():
        assert p.grad is not None
        wanted = p.grad.masked_fill(s.memo["frozen"].get(name, torch.zeros_like(p, dtype=torch.bool)), 0.0)
        assert torch.equal(masked[name], wanted), name


def test_drift_from_an_optimisers_memory_is_undone(ready: Ready) -> None:
    """A gradient mask alone does not hold weights when momentum or decay moves them."""
    method = Freeze()
    s = ready(method)
    with torch.no_grad():
        for p in s.params():
            p.add_(0.1)
    aligned = s.reference("aligned")
    assert all(not torch.equal(s.model.get_parameter(n)[m], aligned[n][m]) for n, m in s.memo["frozen"].items())
    method.after_step(s)
    assert all(torch.equal(s.model.get_parameter(n)[m], aligned[n][m]) for n, m in s.memo["frozen"].items())


def test_rewinding_trains_plainly_and_copies_back_afterwards(ready: Ready) -> None:
    rewind, nothing = Freeze(when="rewind"), Freeze(fraction=0.0)
    s, plain = tuned(ready(rewind), rewind), tuned(ready(nothing), nothing)
    sft = weights(plain.model)
    assert all(torch.equal(w, sft[n]) for n, w in weights(s.model).items())
    before = s.delta("tuned", "aligned")
    rewind.repair(s)
    aligned, frozen = s.reference("aligned"), s.memo["frozen"]
    for name, value in weights(s.model).items():
        wanted = torch.where(frozen[name], aligned[name], sft[name]) if name in frozen else sft[name]
        assert torch.equal(value, wanted)
    inside = sum(float(before[n][m].square().sum()) for n, m in frozen.items())
    whole = sum(float(before[n].square().sum()) for n in frozen)
    assert s.memo["mechanisms"]["undone_update_share"] == pytest.approx(inside / whole, rel=1e-4)
    frozen_run = tuned(ready(Freeze()), Freeze())
    assert any(not torch.equal(w, weights(s.model)[n]) for n, w in weights(frozen_run.model).items())


def test_without_a_mask_it_is_plain_fine_tuning(ready: Ready) -> None:
    nothing = Freeze().arms()["no-freeze"]
    plain = ready(Freeze())
    train(plain, "user", FEW, sft_step)
    for name, value in weights(tuned(ready(nothing), nothing).model).items():
        assert torch.equal(value, plain.model.get_parameter(name))


def perturbed(s: State) -> State:
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in s.params():
            p.add_(0.3 * torch.randn(p.shape, generator=random))
    return s


@pytest.mark.parametrize("mode", ["double-lora", "single-lora"])
def test_with_an_adapter_the_step_sees_the_masked_effective_weights(ready: Ready, mode: str, hooks_of: Any) -> None:
    """Loss and gradients are those of a plain model whose weights are aligned where frozen, W + s B A elsewhere."""
    s = perturbed(ready(Freeze(), mode))
    batch = s.draw("user", 4)
    loss = Freeze().finetune_step(s, batch)
    grads = s.grads()
    assert hooks_of(s.model) == []
    aligned, frozen, pairs = s.reference("aligned"), s.memo["frozen"], s.adapters()
    base = {n.replace(".base_layer", ""): p.detach() for n, p in s.model.get_base_model().named_parameters()
            if ".lora_" not in n}  # fmt: skip
    plain = s.testbed.new_model(0)
    held = {n: torch.where(frozen[n], aligned[n], base[n] + p.update()) for n, p in pairs.items()}
    logits = functional_call(plain, {**base, **held}, (batch.ids,), {"use_cache": False}).logits
    expected = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten())
    assert loss == pytest.approx(float(expected.detach()), rel=1e-4)
    for ours, theirs in zip(grads, torch.autograd.grad(expected, s.params()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=1e-6)
    assert float(s.loss(batch).detach()) != pytest.approx(loss, rel=1e-4)  # wrong: the adapter unmasked


@pytest.mark.parametrize("when", ["freeze", "rewind"])
@pytest.mark.parametrize("mode", ["double-lora", "single-lora"])
def test_with_an_adapter_the_merged_model_keeps_frozen_entries(ready: Ready, mode: str, when: Any) -> None:
    method = Freeze(when=when)
    s = tuned(ready(method, mode), method)
    method.repair(s)
    assert not s.adapters()
    aligned, frozen = s.reference("aligned"), s.memo["frozen"]
    for name in linear_names(s.model):
        value = s.model.get_parameter(name)
        assert torch.equal(value[frozen[name]], aligned[name][frozen[name]])
        assert bool((value != aligned[name]).any())


def test_holding_without_an_adapter_is_nothing(ready: Ready, hooks_of: Any) -> None:
    s = ready(Freeze())
    with _held(s):
        assert hooks_of(s.model) == []


def test_scores_are_taken_once_before_fine_tuning(ready: Ready, monkeypatch: pytest.MonkeyPatch) -> None:
    method = Freeze()
    s = ready(method)
    before = {n: m.clone() for n, m in s.memo["frozen"].items()}
    tuned(s, method)
    assert all(torch.equal(m, before[n]) for n, m in s.memo["frozen"].items())
    assert any(not torch.equal(m, before[n]) for n, m in method.masks(s).items())  # wrong: of the tuned model


@pytest.mark.parametrize("arm", list(Freeze().arms()))
def test_every_arm_runs(arm: str, setting: Setting) -> None:
    made = perform(Run(method=Freeze().arms()[arm], n=20, ratio=0.2), setting)
    assert made["status"] == "ok"
    assert {"frozen_fraction", "undone_update_share", "user_loss"} <= set(made["mechanisms"])


def test_default_is_a_value_of_the_sweep() -> None:
    assert Freeze().sweep()["main"] == Freeze()
    assert len(Freeze.values) >= 4


SMALL = Attribution(levels=(0.1, 0.3, 0.5), limit=0.5, tops=(0.1, 0.5), cut=(1, 2), kept=(2,), fractions=(0.3, 0.5))


@pytest.fixture
def surgeon(setting: Setting, tmp_path: Path) -> _Surgeon:
    return _Surgeon(Lab(setting, 0, tmp_path), SMALL)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[n], b[n]) for n in b)


def test_operations_are_undone(surgeon: _Surgeon, hooks_of: Any) -> None:
    for change in (surgeon._top(0.5), surgeon._removed(2, 2)):
        surgeon._after(change, "validation")
        assert set(change) == set(linear_names(surgeon._s.model))
        assert same(weights(surgeon._s.model), surgeon._aligned)
    assert hooks_of(surgeon._s.model) == []


def test_later_blocks_are_scored_behind_the_changed_ones(surgeon: _Surgeon) -> None:
    """The first block's mask is that of the intact model, the last one's is not."""
    s = surgeon._s
    intact = surgeon._without(top_masks(scores(s, "snip", surgeon._refusals), 0.5, "row"))
    ours = surgeon._top(0.5)
    first, last = (surgeon._names_in(block.layer) for block in s.blocks())
    assert all(torch.equal(ours[n], intact[n]) for n in first)
    assert any(not torch.equal(ours[n], intact[n]) for n in last)


def test_removing_every_direction_leaves_nothing_and_keeping_all_changes_nothing(surgeon: _Surgeon) -> None:
    most = 24
    for name, value in surgeon._removed(most, 0).items():
        assert float(value.norm()) < 1e-4, name
    for name, value in surgeon._removed(most, most).items():
        torch.testing.assert_close(value, surgeon._aligned[name], atol=1e-5, rtol=1e-4)


def test_blocks_hold_all_linear_modules_once(surgeon: _Surgeon) -> None:
    names = [n for block in surgeon._s.blocks() for n in surgeon._names_in(block.layer)]
    assert sorted(names) == sorted(linear_modules(surgeon._s.model))


HARM: dict[str, dict[Any, int]] = {  # percent after SFT (0.0) and after freezing a share
    "explicit": {0.0: 95, 0.1: 94, 0.3: 96, 0.5: 90, 0.7: 10},
    "explicit-50": {0.0: 85, 0.1: 70, 0.3: 84, 0.5: 85, 0.7: 0},
    "explicit-10": {0.0: 60, 0.1: 10, 0.3: 60, 0.5: 60, 0.7: 60},
    "one-step": {0.0: 20, 0.1: 19, 0.3: 15, 0.5: 8, 0.7: 2, "random": 17},
    "benign": {0.0: 30, 0.5: 26},
}


def known_lab(harm: dict[str, dict[Any, int]]) -> Any:
    """A lab whose runs end with these harmful scores."""

    def run(asked: Run) -> dict[str, Any]:
        method = asked.method
        share = method.fraction if isinstance(method, Freeze) else 0.0
        chosen = "random" if isinstance(method, Freeze) and method.choose == "random" else share
        assert isinstance(method, Freeze | Sft)
        assert asked.seed == 3
        return {"metrics": {"harmful": {"n": 100, "k": harm[asked.arm][chosen]}}}

    return SimpleNamespace(seed=3, run=run)


def test_gains_of_freezing_from_known_scores() -> None:
    values, figures = Attribution()._freezing(known_lab(HARM))
    assert values == {
        "largest_freeze_gain_saturated": pytest.approx(15.0),  # explicit-50, a tenth; not 0.7, not explicit-10
        "freeze_gain_small_n": pytest.approx(12.0),
        "random_freeze_gain_small_n": pytest.approx(3.0),
        "freeze_gain_benign": pytest.approx(4.0),
    }
    figure = figures["freezing"]
    assert figure.x == [0.0, 0.1, 0.3, 0.5, 0.7]
    assert figure.y["explicit"] == pytest.approx([95, 94, 96, 90, 10])
    weak = {attack: {at: score // 2 for at, score in scored.items()} for attack, scored in HARM.items()}
    assert Attribution()._freezing(known_lab(weak))[0]["largest_freeze_gain_saturated"] is None


BEFORE = {"validation": (0.0, 100.0), "test": (10.0, 90.0)}


@pytest.fixture
def known(surgeon: _Surgeon) -> _Surgeon:
    surgeon._before = BEFORE
    return surgeon


def test_rise_and_utility_are_read_off_on_test_prompts(known: _Surgeon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "_after", lambda changed, split: {"test": (40.0, 45.0)}[split])
    assert known._reported("cut", {}) == {"cut_harm_rise": 30.0, "cut_utility_share": 0.5}


def test_ranks_are_chosen_on_validation_and_reported_on_test(known: _Surgeon, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        "validation": {1: (50.0, 95.0), 2: (60.0, 60.0)},  # worth 45 and 20
        "test": {1: (20.0, 45.0), 2: (90.0, 90.0)},
    }
    monkeypatch.setattr(known, "_removed", lambda cut, kept: {"cut": cut})
    monkeypatch.setattr(known, "_after", lambda changed, split: points[split][changed["cut"]])
    assert known.ranks() == {"rank_removal_harm_rise": 10.0, "rank_removal_utility_share": 0.5}


def test_utility_kept_is_the_height_above_the_top_sets_where_harm_rises(
    known: _Surgeon, monkeypatch: pytest.MonkeyPatch
) -> None:
    tops = {0.1: (20.0, 80.0), 0.5: (60.0, 40.0)}  # with the aligned model a line of slope -1 from harm 10 on
    monkeypatch.setattr(known, "_without", lambda masks: masks)
    monkeypatch.setattr(known, "_top", lambda q: tops[q])
    monkeypatch.setattr(known, "_after", lambda point, split: {"test": point}[split])
    still, beyond = (12.0, 90.0), (70.0, 90.0)
    kept: Any = known._utility_kept
    assert kept([still, (40.0, 70.0), (20.0, 84.0), beyond]) == pytest.approx((10 + 4) / 2)
    assert kept([(40.0, 55.0)]) == pytest.approx(-5)
    assert kept([still, beyond]) is None


def test_set_difference_is_chosen_on_validation_within_the_limit(
    known: _Surgeon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation prompts here like what is cut most, test prompts see the same everywhere."""
    known._study = replace(SMALL, limit=0.2)
    seen: list[dict[str, int]] = []

    def after(changed: dict[str, Tensor], split: str) -> tuple[float, float]:
        zeros = {n: int((v == 0).sum()) for n, v in changed.items()}
        seen.append(zeros)
        return (11.0, 45.0) if split == "test" else (float(sum(zeros.values())), 100.0)

    monkeypatch.setattr(known, "_after", after)
    monkeypatch.setattr(known, "_utility_kept", lambda differences: float(len(differences)))
    found = known.set_difference()
    safe, useful = (scores(known._s, "snip", data) for data in (known._refusals, known._benign))
    shares = [
        share({n: top & ~top_masks(useful, p, "row")[n] for n, top in top_masks(safe, q, "row").items()})
        for p in SMALL.levels
        for q in SMALL.levels
    ]
    allowed = [one for one in shares if 0 < one <= 0.2]
    assert 0 < len(allowed) < len(shares)
    assert found["set_difference_sparsity"] == pytest.approx(max(allowed))
    assert found["set_difference_harm_rise"] == found["random_pruning_harm_rise"] == 1.0
    assert found["set_difference_utility_share"] == found["random_pruning_utility_share"] == 0.5
    assert found["utility_kept_by_set_difference"] == len(allowed)
    assert seen[-1] == seen[-2]  # the random masks are as large in every matrix


def test_overlap_is_attention_minus_mlp(known: _Surgeon, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = {"safety": ([1, 1, 0, 0], [1, 1, 0, 0]), "utility": ([0, 1, 1, 0], [0, 0, 1, 1])}

    def masks(of: str, fraction: float, rank: str) -> dict[str, Tensor]:
        attention, mlp = (torch.tensor(row, dtype=torch.bool) for row in marks[of])
        assert (fraction, rank) == (0.05, "row")
        return {n: attention if "self_attn" in n else mlp for n in linear_names(known._s.model)}

    monkeypatch.setattr(module, "scores", lambda s, score, data: "safety" if data is known._refusals else "utility")
    monkeypatch.setattr(module, "top_masks", masks)
    assert known.overlap() == {"overlap_attention_minus_mlp": pytest.approx(1 / 3)}


@pytest.mark.slow
def test_study_in_miniature(setting: Setting, tmp_path: Path) -> None:
    found = SMALL.measure(Lab(setting, 0, tmp_path))
    assert set(found.findings) == set(SAYS)
    assert 0 < (found.findings["set_difference_sparsity"].value or 0) <= 0.5
    figure = found.figures["freezing"]
    assert figure.x == [0.0, 0.3, 0.5]
    assert all(len(y) == 3 for y in figure.y.values())
