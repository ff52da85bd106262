"""`hft run` as a process: resumes after a kill, never leaves half a record, is a no-op the second time."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest

from reproduce import record
from reproduce.baselines import CONDITIONS
from reproduce.engine import Arms, Request, pending, plan
from reproduce.find import load
from reproduce.protocol import RequestError

ROOT = Path(__file__).parents[2]
RATIOS = [i / 16 for i in range(12)]


def command(model: Path, results: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "catalog", "run", "sft", "--testbed", f"hub:{model}", "--n", "160", "--jobs", "1",
        "--results", str(results), *more,
    ]  # fmt: skip


def _heed_interrupts() -> None:
    """A test run in the background of a shell inherits a deaf ear for Ctrl-C; a user at a terminal does not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(words: Sequence[str], cache: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "HFT_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        words, cwd=ROOT, env=environment, text=True, start_new_session=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, preexec_fn=_heed_interrupts,
    )  # fmt: skip


def wait_for_a_record(results: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not record.paths(results):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no record within five minutes"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_leaves_whole_records_and_resumes(tiny_llama: Path, tmp_path: Path, how: signal.Signals) -> None:
    results, cache = tmp_path / "results", tmp_path / "cache"
    words = command(tiny_llama, results, "--seeds", "1", "--ratios", ",".join(map(str, RATIOS)), "--json")
    first = start(words, cache)
    wait_for_a_record(results, first)
    os.killpg(first.pid, how)
    first.communicate(timeout=60)
    assert first.returncode != 0

    kept = {path: path.read_bytes() for path in record.paths(results)}
    assert 1 <= len(kept) < len(RATIOS)
    assert record.verify(results) == []

    second = start(words, cache)
    out, err = second.communicate(timeout=300)
    assert second.returncode == 0, err
    assert [r["spec"]["ratio"] for r in json.loads(out)] == RATIOS
    assert len(record.paths(results)) == len(RATIOS)
    assert record.verify(results) == []
    assert all(path.read_bytes() == content for path, content in kept.items())

    stamps = {path: path.stat().st_mtime_ns for path in record.paths(results)}
    third = start(words, cache)
    assert third.communicate(timeout=120)[0] == out
    assert {path: path.stat().st_mtime_ns for path in record.paths(results)} == stamps


def test_again_measures_beside_the_first_record(tmp_path: Path) -> None:
    request = Request(modules=("sft",), seeds=(0,), ratios=(0.1,), results=tmp_path)
    (job,) = plan(request)
    job.path.parent.mkdir(parents=True)
    shutil.copy(plan(Request(modules=("sft",), seeds=(0,), ratios=(0.1,)))[0].path, job.path)
    assert plan(request)[0].done
    (repeat,) = plan(Request(modules=("sft",), seeds=(0,), ratios=(0.1,), results=tmp_path, again=True))
    assert not repeat.done
    assert repeat.path.name == f"{record.key(job.spec)}.1.json"


def test_studies_begin_before_the_shorter_runs(tmp_path: Path) -> None:
    modules = ("p2405_18641_lisa", "p2405_17374_safety_landscape")
    jobs = plan(Request(modules=modules, seeds=(0, 1), results=tmp_path, arms="main"))
    first = pending(jobs)
    kinds = [job.spec["kind"] for job in first]
    assert kinds == ["study"] * 2 + ["run"] * (len(jobs) - 2)
    assert first[2:] == jobs[:-2]  # twins still before what is compared with them
    first[0].path.parent.mkdir(parents=True)
    first[0].path.touch()
    assert pending(jobs) == first[1:]


def test_a_broken_record_is_named_before_anything_runs(tmp_path: Path) -> None:
    request = Request(modules=("sft",), seeds=(0,), ratios=(0.1,), results=tmp_path)
    (job,) = plan(request)
    job.path.parent.mkdir(parents=True)
    job.path.write_text("{")
    with pytest.raises(RequestError, match=rf"{job.path.name}: not valid JSON .* restore it with git or delete it"):
        plan(request)


def test_every_defense_run_has_its_undefended_twin() -> None:
    jobs = plan(
        Request(
            modules=("p2402_01109_vaccine",),
            seeds=(0, 1),
            ratios=(0.0, 0.1),
            attacks=("graded", "strong"),
            arms="main",
        )
    )
    twins = [j.spec for j in jobs if j.spec["paper"] == "sft"]
    defended = [j.spec for j in jobs if j.spec["paper"] == "vaccine"]
    assert len(twins) == len(defended) == 8
    condition = ("attack", "ratio", "n", "task", "mode", "seed", "protocol", "testbed", "data", "model")
    assert {json.dumps([t[c] for c in condition]) for t in twins} == {
        json.dumps([d[c] for c in condition]) for d in defended
    }


def test_the_grid_has_every_arm_of_an_attack_and_the_main_one_of_a_defense() -> None:
    modules = ("p2310_03693_qi", "p2405_16833_safe_lora")
    specs = {
        arms: [job.spec for job in plan(Request(modules=modules, seeds=(0,), arms=arms))] for arms in get_args(Arms)
    }
    found = {
        arms: {(spec["kind"], spec["paper"], spec["arm"]) for spec in made if spec["paper"] != "sft"}
        for arms, made in specs.items()
    }
    attack, defense = load(modules[0]), load(modules[1])
    main = {("run", attack.paper, next(iter(attack.arms()))), ("run", defense.paper, "main")}
    assert found["main"] == main
    assert found["grid"] == main | {("run", attack.paper, arm) for arm in attack.arms()}
    beside = {(kind, paper, arm) for kind, paper, arm in found["all"] - found["grid"]}
    assert {paper for _, paper, _ in beside} == {defense.paper}
    assert beside >= {("run", defense.paper, arm) for arm in defense.arms() if arm != "main"}
    assert any(kind == "study" for kind, _, _ in beside)
    ratios = [spec["ratio"] for spec in specs["grid"] if spec["paper"] == defense.paper]
    assert ratios == list(CONDITIONS["graded"].ratios)


def test_records_already_there_are_shared_between_papers() -> None:
    one = {j.path for j in plan(Request(modules=("p2402_01109_vaccine",), seeds=(0,), ratios=(0.1,)))}
    two = {j.path for j in plan(Request(modules=("p2405_18641_lisa",), seeds=(0,), ratios=(0.1,), arms="main"))}
    assert len(one & two) == 1


def test_a_field_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValueError, match="no field roh; fields are rho"):
        plan(Request(modules=("p2402_01109_vaccine",), fields={"roh": "5"}))


@pytest.mark.parametrize(
    ("module", "field", "value", "why"),
    [
        ("p2402_01109_vaccine", "rho", "five", "valid number"),
        ("p2402_01109_vaccine", "rho", "inf", "finite"),
        ("p2405_16229_no_two_devils_alike", "epochs", "1,2,many", "valid integer"),
        ("p2405_16229_no_two_devils_alike", "band", "0.4", "Field required"),
        ("p2405_16229_no_two_devils_alike", "matched_by", "luck", "'harmful score' or 'attack success'"),
    ],
)
def test_a_value_that_a_field_cannot_take_is_refused(module: str, field: str, value: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"field {field}: {value!r}: .*{why}"):
        plan(Request(modules=(module,), fields={field: value}))


def test_importing_the_planner_loads_no_torch() -> None:
    code = "import sys, reproduce.engine, reproduce.record, reproduce.calibration; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
