"""What every paper module owes, in deed: the same record twice, weights that move, and no trace left in the model."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from reproduce import find, record
from reproduce.api import Attack, Method, Stage, Study
from reproduce.baselines import NonAligned, Poison, Sft
from reproduce.lab import perform_study
from reproduce.model import weights
from reproduce.papers.p2308_13320_ldifs import Ldifs
from reproduce.papers.p2309_07875_safety_tuned_llamas import SafetyTunedLlamas
from reproduce.papers.p2402_01109_vaccine import Vaccine
from reproduce.papers.p2402_02207_vlguard import VlguardTextMix
from reproduce.papers.p2402_05162_brittleness import Freeze
from reproduce.papers.p2402_14968_backdoor_enhanced_alignment import BackdoorAlign
from reproduce.papers.p2402_18540_ptst import Ptst
from reproduce.papers.p2405_09055_somf import Somf
from reproduce.papers.p2405_14577_repnoise import RepNoise
from reproduce.papers.p2405_16833_safe_lora import SafeLora
from reproduce.papers.p2405_18641_lisa import Lisa
from reproduce.papers.p2405_19358_ctrl import Ctrl
from reproduce.papers.p2406_05946_shallow_vs_deep import ShallowVsDeep
from reproduce.papers.p2408_00761_tar import Tar
from reproduce.papers.p2408_09600_antidote import Antidote
from reproduce.papers.p2409_01586_booster import Booster
from reproduce.protocol import MODES, Lora, Mode
from reproduce.run import Run, Setting, perform
from reproduce.stages import Stages
from reproduce.state import State

SMALL: dict[str, dict[str, Any]] = {  # by class, sized for a test; a new one runs as it is until it is listed here
    "SafetyLandscape": {"points": 3, "directions": 1, "prompts": 4, "grid": 2, "shots": 10, "rungs": 2},
    "ReversePreference": {
        "n": 4, "batch": 4, "betas": (0.1, 1.0), "updates": 2, "rollout": 4, "tokens": 3, "prompts": 4, "samples": 4,
    },
    "NoTwoDevilsAlike": {
        "epochs": (1,), "band": (0.0, 1.0), "updates": 2, "prompts": 4, "pairs": 3, "forced": 2, "given": (1, 3),
    },
    "Survey": {
        "ratios": (0.0, 0.2), "sizes": (10, 20), "rates": (1.0, 2.0), "epochs": (1.0, 2.0), "ratio": 0.2,
        "size_ratio": 0.2, "n": 20,
    },
    "Covert": {"examples": 40, "batch": 8, "pairs": 8},
    "AntidoteTradeoff": {"alphas": (0.1, 0.5, 1.0), "n": 20, "ratio": 0.2},
    "SafeLoraSelection": {"draws": 2, "n": 20, "ratio": 0.2},
    "Attribution": {
        "levels": (0.1, 0.3, 0.5), "limit": 0.5, "tops": (0.1, 0.5), "cut": (1, 2), "kept": (2,),
        "fractions": (0.3, 0.5),
    },
    "VLGuard": {
        "images": 4, "helpful": 8, "epochs": 1, "captions": 40, "instructions": 40, "sizes": (2,), "encoder_steps": 2,
        "prompts": 3,
    },
    "Ctrl": {"rate": 1.0},  # of a share of so few rows, hardly one is rewritten and drawn
    "Somf": {"steps": 3, "batch": 4, "warmup": 1},
    "RemovingRlhf": {"examples": 8, "answers": "unfiltered"},  # so small a teacher writes nothing that passes
    "BenignSelection": {"count": 20, "anchors": 2, "represented": 5},
    "Tar": {"inner_steps": 2, "every": 1, "rates": (1e-3,)},
}  # fmt: skip


def sized(paper: Any) -> Any:
    return replace(paper, **SMALL.get(type(paper).__name__, {}))


PAPERS = [sized(paper) for name in find.modules() for paper in find.load_all(name)]
DEFENSES = [m for m in PAPERS if isinstance(m, Method)]
METHODS = [*DEFENSES, Sft(), NonAligned()]
ATTACKS = [m for m in PAPERS if isinstance(m, Attack)]
STUDIES = [m for m in PAPERS if isinstance(m, Study)]

NULL: list[tuple[Method, Mode]] = [  # the paper's knob at the value where nothing of its idea is left
    (Vaccine(rho=0.0), "full"),
    (Vaccine(rho=0.0), "double-lora"),
    (Vaccine(rho=0.0), "single-lora"),
    (Booster(lam=0.0), "full"),
    (Booster(alpha=0.0), "full"),
    (Booster(lam=0.0), "double-lora"),
    (Booster(lam=0.0), "single-lora"),
    (Tar(lambda_tr=0.0, hidden=0.0), "full"),
    (Tar(lambda_tr=0.0, hidden=0.0), "double-lora"),
    (Tar(lambda_tr=0.0, hidden=0.0), "single-lora"),
    (Lisa(k_align=0, rho=0.0), "full"),
    (Lisa(k_align=0, rho=0.0), "double-lora"),
    (SafeLora(fraction=0.0), "full"),
    (SafeLora(fraction=0.0), "double-lora"),
    (SafeLora(fraction=0.0), "single-lora"),
    (SafeLora(threshold=-1.0), "double-lora"),
    (Ldifs(alpha=0.0), "full"),
    (Ldifs(alpha=0.0), "double-lora"),
    (SafetyTunedLlamas(share=0.0), "full"),
    (BackdoorAlign(safety=0, length=0), "full"),
    (ShallowVsDeep(beta=0.0, beta1=0.9), "full"),
    (ShallowVsDeep(beta=0.0, beta1=0.9), "double-lora"),
    (ShallowVsDeep(beta=0.0, beta1=0.9), "single-lora"),
    (Ptst(train="pure", test="pure"), "full"),
    (Ptst(train="pure", test="pure"), "double-lora"),
    (Somf(steps=0, export="mean"), "full"),
    (Somf(steps=0, export="mean"), "double-lora"),
    (Somf(steps=0, export="mean"), "single-lora"),
    (RepNoise(pairs=0), "full"),
    (RepNoise(pairs=0), "double-lora"),
    (RepNoise(pairs=0), "single-lora"),
    (Ctrl(rate=0.0), "full"),
    (Ctrl(rate=0.0), "double-lora"),
    (Ctrl(rate=0.0), "single-lora"),
    (Freeze(fraction=0.0), "full"),
    (Freeze(fraction=0.0), "double-lora"),
    (Freeze(fraction=0.0, when="rewind"), "single-lora"),
    (Antidote(alpha=0.0), "full"),
    (Antidote(alpha=0.0), "double-lora"),
    (Antidote(alpha=0.0), "single-lora"),
    (VlguardTextMix(share=0.0), "full"),
]
SERVING: tuple[type[Method], ...] = (Ptst,)  # the weights are those of plain fine-tuning; the model is asked otherwise


def name_of(value: Any) -> str:
    return value.paper if hasattr(value, "paper") else str(value)


@contextmanager
def states() -> Iterator[list[State]]:
    """All states that enter fine-tuning meanwhile; after `perform` they hold the final weights."""
    seen: list[State] = []
    ready = Stages.ready

    def remember(self: Stages, method: Method, mode: Mode, adapter: bool, lora: Lora | None = None) -> State:
        seen.append(ready(self, method, mode, adapter, lora))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stages, "ready", remember)
        yield seen


@cache
def last(run: Run, setting: Setting) -> tuple[record.Record, State]:
    """A run's record and its state as it is at the end."""
    with states() as seen:
        found = perform(run, setting)
    return found, seen[-1]


MEASURED = (
    "key",
    "spec",
    "status",
    "reason",
    "metrics",
    "before",
    "mechanisms",
    "curves",
    "findings",
    "figures",
    "digests",
)


def measured(found: record.Record) -> str:
    """All that must not depend on time or place, as text."""
    assert found["status"] == "ok"
    return record.canonical({name: found[name] for name in MEASURED if name in found})


def weights_differ(a: State, b: State) -> bool:
    ours, theirs = weights(a.model), weights(b.model)
    assert ours.keys() == theirs.keys()
    return any(not torch.equal(ours[n], theirs[n]) for n in ours)


def run_of(owner: Any, mode: Mode = "full") -> Run:
    if isinstance(owner, Attack):
        return Run(method=Sft(), attack=owner, mode=mode, n=20, ratio=0.2)
    return Run(method=owner, mode=mode, n=20, ratio=0.2)


@pytest.mark.parametrize("owner", [*METHODS, *ATTACKS, Poison()], ids=name_of)
def test_two_runs_give_the_same_record(owner: Any, setting: Setting, tmp_path: Path) -> None:
    first, _ = last(run_of(owner), setting)
    torch.manual_seed(99)  # the global generator has no say
    again = perform(run_of(owner), replace(setting, cache=tmp_path))
    assert measured(again) == measured(first)


@pytest.mark.parametrize("study", STUDIES, ids=name_of)
def test_two_measurements_of_a_study_agree(study: Study, setting: Setting, tmp_path: Path) -> None:
    first = perform_study(study, setting, 0, tmp_path / "one")
    again = perform_study(study, replace(setting, cache=tmp_path / "cache"), 0, tmp_path / "two")
    assert measured(again) == measured(first)
    assert all({"value", "unit", "says"} == set(f) for f in first["findings"].values())


def test_seeds_differ(setting: Setting) -> None:
    one, two = (perform(replace(run_of(Sft()), seed=seed), setting) for seed in (0, 1))
    assert one["key"] != two["key"]
    for name in ("base", "aligned", "data"):
        assert one["digests"][name] != two["digests"][name]
    assert one["digests"]["test"] == two["digests"]["test"]


@pytest.mark.parametrize("method", DEFENSES, ids=name_of)
def test_a_defense_changes_weights_where_it_acts(method: Method, setting: Setting) -> None:
    (ours, defended), (theirs, plain) = last(run_of(method), setting), last(run_of(Sft()), setting)
    curates = "curate" in vars(type(method)) and not isinstance(method, SERVING)
    assert (ours["digests"]["data"] != theirs["digests"]["data"]) == curates  # a fair pair: same user data, same base
    assert ours["digests"]["base"] == theirs["digests"]["base"]
    aligned_apart = ours["digests"]["aligned"] != theirs["digests"]["aligned"]
    assert aligned_apart == (method.stage is Stage.ALIGNMENT)
    assert weights_differ(defended, plain) != isinstance(method, SERVING)


@pytest.mark.parametrize("attack", [*ATTACKS, Poison()], ids=name_of)
def test_an_attack_changes_the_weights(attack: Attack, setting: Setting) -> None:
    _, attacked = last(run_of(attack), setting)
    aligned = attacked.reference("aligned")
    assert any(not torch.equal(w, aligned[n]) for n, w in weights(attacked.model).items())


@pytest.mark.parametrize(("method", "mode"), NULL, ids=name_of)
def test_the_knob_at_its_null_value_is_plain_fine_tuning(method: Method, mode: Mode, setting: Setting) -> None:
    (ours, ablated), (theirs, plain) = last(run_of(method, mode), setting), last(run_of(Sft(), mode), setting)
    assert not weights_differ(ablated, plain)
    for name in ("metrics", "before", "curves", "digests"):
        mine, other = (dict(r[name], source="") for r in (ours, theirs))
        assert mine == other


def test_every_defense_has_a_null_value() -> None:
    assert {type(m) for m, _ in NULL} == {type(m) for m in DEFENSES}


def check_whole_run(method: Method, mode: Mode, setting: Setting, hooks_of: Callable[[Any], list[str]]) -> None:
    """A run that ends in a plain model: finite numbers, no hook, no adapter, everything trainable as it was."""
    found, s = last(run_of(method, mode), setting)
    assert found["status"] == "ok"
    json.dumps(found, allow_nan=False)
    assert hooks_of(s.model) == []
    assert s.adapters() == {}
    assert all(p.requires_grad and p.grad is None for p in s.model.parameters())
    assert set(weights(s.model)) == set(s.reference("aligned"))
    assert all(bool(torch.isfinite(p).all()) for p in s.model.parameters())
    for name, metric in found["metrics"].items():
        assert metric["k"] == metric["outcomes"].count("1"), name
        assert metric["n"] == len(metric["outcomes"]) == found["before"][name]["n"], name
    assert found["metrics"]["harmful_plus"]["k"] >= found["metrics"]["harmful"]["k"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_no_trace_is_left_in_the_model(
    method: Method, mode: Mode, setting: Setting, hooks_of: Callable[[Any], list[str]]
) -> None:
    check_whole_run(method, mode, setting, hooks_of)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_the_same_on_hugging_face_models(
    method: Method, mode: Mode, hub_setting: Setting, hooks_of: Callable[[Any], list[str]]
) -> None:
    check_whole_run(method, mode, hub_setting, hooks_of)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_hooks_keep_what_is_trainable_and_steps_can_be_undone(
    method: Method, mode: Mode, stages: Stages, hooks_of: Callable[[Any], list[str]]
) -> None:
    """Steps of both stages leave gradients where something trains, nothing else; a snapshot undoes them bit for bit."""
    s = stages.ready(method, mode, mode != "full")
    s.add_stream("user", s.pools.tasks["sentiment"].train)
    s.add_stream("align", s.pools.alignment)
    trainable = {n: p.requires_grad for n, p in s.model.named_parameters()}
    before = {n: p.detach().clone() for n, p in s.model.named_parameters()}
    kept = s.snapshot()
    method.start(s)
    s.steps = 4
    for s.step in range(4):
        s.clear_grads()
        step = method.align_step if s.step % 2 else method.finetune_step
        assert isinstance(step(s, s.draw("user", 4)), float)
        assert any(p.grad is not None for p in s.params())
        assert all(p.grad is None for p in s.model.parameters() if not p.requires_grad)
        assert all(torch.equal(p, before[n]) for n, p in s.model.named_parameters() if not p.requires_grad)
        with torch.no_grad():
            for p in s.params():
                p.sub_(0.01 * p.grad if p.grad is not None else torch.zeros_like(p))
        method.after_step(s)
        assert hooks_of(s.model) == []
        assert {n: p.requires_grad for n, p in s.model.named_parameters()} == trainable
    assert any(not torch.equal(p, before[n]) for n, p in s.model.named_parameters())
    s.restore(kept)
    assert all(torch.equal(p, before[n]) for n, p in s.model.named_parameters())
