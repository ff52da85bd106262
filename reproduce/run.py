"""One run: align, attack, repair, measure, and everything that goes into its record."""

import inspect
import os
import platform
import resource
import subprocess
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch

from reproduce import find, record
from reproduce.api import Attack, Method, Study, overrides
from reproduce.baselines import Poison, Sft
from reproduce.combine import Combination
from reproduce.data import Example, digest
from reproduce.evaluate import Answer, Metrics, counts, evaluate
from reproduce.model import weights_digest
from reproduce.probes import Probe
from reproduce.protocol import Mode, Protocol, Schedule
from reproduce.stages import Stages, default_cache
from reproduce.state import State
from reproduce.train import Diverged, train, worked


@dataclass(frozen=True, kw_only=True)
class Run:
    """A method under an attack on one replicate."""

    method: Method
    attack: Attack = field(default_factory=Poison)
    ratio: float | None = 0.1
    n: int = 1000
    task: str = "sentiment"
    mode: Mode = "full"
    seed: int = 0
    arm: str = "main"  # of the owner
    method_arm: str = "main"  # of a defense under a paper's own attack

    @property
    def owner(self) -> Method | Attack:
        """Whose run this is: the attack's when it is a paper's own, else the method's."""
        return self.method if isinstance(self.attack, Poison) else self.attack


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where runs happen: testbed, protocol, machine."""

    testbed: Any
    protocol: Protocol
    cache: Path = field(default_factory=default_cache)
    device: str = "cpu"
    dtype: str = "float32"
    split: str = "test"  # "validation" chooses hyper-parameters

    def stages(self, seed: int) -> Stages:
        return _stages(self, seed)

    def spec(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol.name, "testbed": self.testbed.name, "model": self.testbed.model_name,
            "data": self.testbed.data_name, **({} if self.dtype == "float32" else {"dtype": self.dtype}),
            **({} if self.split == "test" else {"split": self.split}),
        }  # fmt: skip


@lru_cache(maxsize=16)
def _stages(setting: Setting, seed: int) -> Stages:
    dtype = getattr(torch, setting.dtype)
    return Stages(setting.testbed, setting.protocol, seed, setting.cache, setting.device, dtype)


def run_spec(run: Run, setting: Setting) -> dict[str, Any]:
    """What is asked, and nothing that floating point makes of it: the record's key is its digest."""
    borrowed = run.owner is not run.method and run.method != Sft()
    return {
        **setting.spec(), "kind": "run", "paper": run.owner.paper, "version": run.owner.version, "arm": run.arm,
        "method": run.method.configuration(), "attack": run.attack.configuration(), "seed": run.seed,
        **({"method_arm": run.method_arm, "method_version": run.method.version} if borrowed else {}),
        "mode": run.mode, **({"ratio": run.ratio, "n": run.n, "task": run.task} if run.attack.trains_task else
        {"ratio": None, "n": None, "task": None}),
    }  # fmt: skip


def study_spec(study: Study, setting: Setting, seed: int, arm: str = "main") -> dict[str, Any]:
    fields = {k: v for k, v in study.configuration().items() if k != "paper"}
    return {
        **setting.spec(), "kind": "study", "paper": study.paper, "version": study.version, "arm": arm,
        "study": fields, "seed": seed,
    }  # fmt: skip


def perform(run: Run, setting: Setting) -> record.Record:
    """Measure one run and return its record; divergence and inapplicability are results."""
    began = time.perf_counter()
    stages = setting.stages(run.seed)
    adapter = run.attack.adapter(setting.protocol, run.mode)
    reason = run.method.skip(run.attack, adapter)
    if reason:
        return make_record(run_spec(run, setting), "not-applicable", reason, _measured(), cost_of(began), {}, run)
    user, crafted = _user_data(run, stages)
    s = stages.ready(run.method, run.mode, adapter, run.attack.lora(setting.protocol))
    s.split, s.memo["crafted"] = setting.split, crafted
    aligned = stages.aligned(run.method, run.mode).info
    clock = {f"align_{what}": aligned.get(what, 0) for what in ("seconds", "passes", "tokens")}
    digests = _digests(stages, s, user)
    try:
        measured = _fine_tune_and_measure(run, setting, stages, s, user, clock, digests["aligned"])
        status, reason = "ok", None
    except Diverged as error:
        measured, status, reason = _measured(), "diverged", str(error)
    return make_record(run_spec(run, setting), status, reason, measured, cost_of(began, s, clock), digests, run)


def _user_data(run: Run, stages: Stages) -> tuple[list[Example], dict[str, float]]:
    """The data of the last job, and what crafting them left for the record."""
    chosen = run.attack.data(stages.pools, run.ratio, run.n, run.task, run.seed)
    victim = stages.ready(run.method, run.mode, adapter=False)
    crafted = run.attack.craft(stages, victim, chosen)
    return list(run.method.curate(stages.pools, crafted)), victim.memo.get("mechanisms", {})


def _fine_tune_and_measure(
    run: Run, setting: Setting, stages: Stages, s: State, user: list[Example], clock: dict[str, float], aligned: str
) -> dict[str, Any]:
    def measure(answer: Answer) -> Metrics:
        return evaluate(
            s.testbed, stages.pools, run.task if run.attack.trains_task else None, answer,
            lambda e: run.attack.ask(e, stages.pools), setting.split, run.attack.read,
        )  # fmt: skip

    before = counts(measure(lambda asked: stages.first_answers(aligned, run.method, s, asked)))
    run.attack.prepare(s)
    for data, earlier in run.attack.earlier(setting.protocol, stages.pools, run.seed):
        if _tunes_plainly(run.method):
            stages.undefended_job(s, data, earlier)
            continue
        _enter_job(run, s, stages, list(run.method.curate(stages.pools, data)))
        train(s, "user", earlier, run.method.finetune_step, run.method.after_step, betas=run.method.betas)
    _enter_job(run, s, stages, user)
    probe = _probe(s, stages, user, setting.protocol)
    schedule = _schedule(run, setting, stages, len(user))
    marks = {
        round(schedule.steps * i / setting.protocol.probe_points) for i in range(setting.protocol.probe_points + 1)
    }
    tuning = worked(setting.device)
    train(s, "user", schedule, run.method.finetune_step, run.method.after_step,
          lambda done: probe.measure(done) if done in marks else None, run.method.betas)  # fmt: skip
    clock["tune_seconds"] = worked(setting.device) - tuning
    repairing = worked(setting.device)
    run.method.repair(s)
    clock["repair_seconds"] = worked(setting.device) - repairing
    s.merge_adapter()
    of_aligned = stages.aligned(run.method, run.mode).info.get("mechanisms", {})
    own = s.memo.get("mechanisms", {})
    with s.uncounted():
        asked = run.attack.probe(s)
    mechanisms = {
        **of_aligned, **probe.summary(), **s.memo["crafted"], **own, **asked, "learning_rate": schedule.lr,
    }  # fmt: skip
    return _measured(measure(lambda asked: run.method.answer(s, asked)), before, mechanisms, probe.curves)


def _tunes_plainly(method: Method) -> bool:
    """Is user fine-tuning what it is without a defense? So it is under methods of alignment and under repairs."""
    return not any(overrides(method, hook) for hook in ("curate", "finetune_step", "after_step", "betas"))


def _enter_job(run: Run, s: State, stages: Stages, user: list[Example]) -> None:
    s.add_stream("user", user)
    s.add_stream("align", stages.pools.alignment)
    run.method.start(s)


def _schedule(run: Run, setting: Setting, stages: Stages, examples: int) -> Schedule:
    lr = stages.learning_rate().info["lr"]
    if run.attack.adapter(setting.protocol, run.mode):
        lr *= setting.protocol.adapter_lr
    return run.attack.schedule(setting.protocol, examples, lr)


def _probe(s: State, stages: Stages, user: list[Example], protocol: Protocol) -> Probe:
    count = protocol.probe_examples
    known = {(p.prompt, p.compliant) for p in stages.pools.attack_harmful}
    seen = [e for e in user if (e.prompt, e.answer) in known]
    return Probe(s, stages.pools.refusals()[:count], seen[:count], stages.pools.harmful_validation[:count])


def _measured(
    metrics: dict[str, Any] | None = None,
    before: dict[str, Any] | None = None,
    mechanisms: dict[str, Any] | None = None,
    curves: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {"metrics": metrics or {}, "before": before or {}, "mechanisms": mechanisms or {}, "curves": curves or {}}


def make_record(
    spec: dict[str, Any], status: str, reason: str | None, measured: dict[str, Any], cost: dict[str, Any],
    digests: dict[str, str], owner: Run | Study,
) -> record.Record:  # fmt: skip
    """A record without its seal: what was asked, what came out, what it cost, and what made it."""
    module = owner.owner if isinstance(owner, Run) else owner
    return {
        "schema": record.SCHEMA, "key": record.key(spec), "spec": spec, "status": status, "reason": reason,
        **_rounded(measured), "cost": _rounded(cost), "digests": {**digests, "source": source_digest(module)},
        "environment": environment(), "made": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }  # fmt: skip


def source_digest(owner: Method | Attack | Study) -> str:
    """Digest of the file that defines a paper's class, as `hft check` computes it; of all parts' for a combination."""
    if isinstance(owner, Combination):
        return record.sha256([source_digest(part) for part in owner.parts])
    return find.source_digest(Path(inspect.getfile(type(owner))))


def _rounded(value: Any) -> Any:
    """Floats to six significant digits: what a reader can use, in a file that stays small."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value


def cost_of(began: float, s: State | None = None, clock: dict[str, float] | None = None) -> dict[str, Any]:
    """Seconds by the clock, of work by stage, passes and tokens of fine-tuning, peak memory in bytes."""
    return {
        "seconds": time.perf_counter() - began, **(clock or {}), "passes": s.cost.passes if s else 0,
        "tokens": s.cost.tokens if s else 0, "peak_bytes": _peak_bytes(),
    }  # fmt: skip


def _peak_bytes() -> int:
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _digests(stages: Stages, s: State, user: list[Example]) -> dict[str, str]:
    return {
        "base": weights_digest(stages.base().tensors), "aligned": weights_digest(s.references["aligned"]),
        "data": digest(user), "test": digest(stages.pools.harmful_test),
    }  # fmt: skip


@cache
def environment() -> dict[str, str]:
    """The machine and versions a record was made with."""
    import transformers

    return {
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        "system": f"{platform.system()} {platform.machine()}", "cpus": str(os.cpu_count()), "commit": _commit(),
    }  # fmt: skip


def _commit() -> str:
    """The checked-out commit, with "+" when reproduce/ differs from it (results aside)."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=find.PAPERS, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "..", ":(exclude)../results")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
