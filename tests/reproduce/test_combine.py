"""Combinations: parts act at their own stages, keep their own memories, and refuse to share what only one can own."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from reproduce.api import Method, Stage, Threat, sft_step
from reproduce.baselines import Poison, Sft
from reproduce.combine import Combination
from reproduce.papers.p2402_01109_vaccine import Vaccine
from reproduce.papers.p2405_16833_safe_lora import SafeLora
from reproduce.papers.p2405_18641_lisa import Lisa
from reproduce.protocol import RequestError
from reproduce.run import Run, Setting, perform, run_spec, source_digest
from reproduce.state import Batch, State

BOTH = Combination(parts=(Vaccine(rho=1.0), Lisa(rho=1.0)))


@dataclass(frozen=True, kw_only=True)
class Noting(Method):
    """Writes down what it sees of the memory it is given."""

    paper = "noting"
    stage = Stage.POST_FINE_TUNING

    def start(self, s: State) -> None:
        s.memo["notes"] = 1
        s.memo["mechanisms"] = {"seen": float("anchor" in s.memo)}

    def repair(self, s: State) -> None:
        s.memo["notes"] += 1
        s.memo["mechanisms"]["notes"] = float(s.memo["notes"])


def outcome(method: Method, setting: Setting, **rest: Any) -> dict[str, Any]:
    made = perform(Run(method=method, ratio=0.2, n=20, **rest), setting)
    return {k: made[k] for k in ("status", "metrics", "curves")}


def test_names_and_configuration_are_those_of_the_parts() -> None:
    assert BOTH.paper == "vaccine+lisa"
    assert BOTH.configuration() == {
        "paper": "vaccine+lisa",
        "parts": [Vaccine(rho=1.0).configuration(), Lisa(rho=1.0).configuration()],
    }
    assert BOTH.stage is Stage.FINE_TUNING


def test_a_new_version_of_a_part_supersedes_the_records_of_the_combination(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(method=Combination(parts=(Lisa(), SafeLora())))
    before = run_spec(run, setting)
    assert before["version"] == Lisa.version + SafeLora.version
    monkeypatch.setattr(Lisa, "version", Lisa.version + 1)
    assert run_spec(run, setting) == {**before, "version": before["version"] + 1}


def test_a_combination_with_parts_that_do_nothing_is_its_one_acting_part(setting: Setting) -> None:
    idle = Lisa(k_align=0, rho=0.0)
    assert outcome(Combination(parts=(Vaccine(rho=1.0), idle)), setting) == outcome(Vaccine(rho=1.0), setting)
    assert outcome(Combination(parts=(Vaccine(rho=0.0), Lisa(rho=1.0))), setting) == outcome(Lisa(rho=1.0), setting)


def test_both_parts_act(setting: Setting) -> None:
    together = outcome(BOTH, setting)
    assert together["curves"] != outcome(Vaccine(rho=1.0), setting)["curves"]
    assert together["curves"] != outcome(Lisa(rho=1.0), setting)["curves"]


def test_the_aligned_model_is_shared_with_the_aligning_part(setting: Setting) -> None:
    stages = setting.stages(0)
    alone, together = (stages.aligned(m, "full").tensors for m in (Vaccine(rho=1.0), BOTH))
    assert all((alone[n] == together[n]).all() for n in alone)


def test_parts_keep_their_own_memory_and_mechanisms_carry_their_names(setting: Setting) -> None:
    made = perform(Run(method=Combination(parts=(Lisa(rho=1.0), Noting())), ratio=0.2, n=20), setting)
    assert made["mechanisms"]["noting_notes"] == 2.0
    assert made["mechanisms"]["noting_seen"] == 0.0
    assert "lisa_align_block_drift" in made["mechanisms"]


def test_two_parts_cannot_both_align_or_both_own_the_step() -> None:
    with pytest.raises(RequestError, match="vaccine and vaccine both need aligner"):
        Combination(parts=(Vaccine(), Vaccine(rho=1.0)))
    with pytest.raises(RequestError, match="lisa and lisa both need finetune_step"):
        Combination(parts=(Lisa(), Lisa(rho=2.0)))


def test_an_attacker_who_owns_the_loop_takes_the_late_part_away() -> None:
    class WeightsAttack(Poison):
        threat = Threat.WEIGHTS

    assert Combination(parts=(Vaccine(), Sft())).skip(WeightsAttack(), adapter=False) is None
    assert "lisa: the attacker owns the loop" in (BOTH.skip(WeightsAttack(), adapter=False) or "")


def test_adam_betas_are_those_of_the_part_that_sets_them(setting: Setting) -> None:
    @dataclass(frozen=True, kw_only=True)
    class SlowMomentum(Method):
        paper = "slow-momentum"
        stage = Stage.FINE_TUNING

        @property
        def betas(self) -> tuple[float, float]:
            return (0.5, 0.999)

        def finetune_step(self, s: State, batch: Batch) -> float:
            return sft_step(s, batch)

    assert Combination(parts=(Vaccine(), SlowMomentum())).betas == (0.5, 0.999)
    assert BOTH.betas == Sft().betas
    assert outcome(SlowMomentum(), setting)["curves"] != outcome(Sft(), setting)["curves"]


def test_source_digest_changes_with_the_parts() -> None:
    lone = [source_digest(Combination(parts=p)) for p in ((Vaccine(), Lisa()), (Vaccine(), SafeLora()))]
    assert lone[0] != lone[1]
    assert source_digest(Combination(parts=(Vaccine(rho=9.0), Lisa()))) == lone[0]
    assert source_digest(replace(Vaccine(), rho=9.0)) == source_digest(Vaccine())
