"""From a request to records: what to run, what is there, and processes that do the rest. Torch-free at import."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reproduce import find, record
from reproduce.protocol import Mode, RequestError
from reproduce.testbeds import protocol_of

if TYPE_CHECKING:
    from reproduce.run import Run, Setting


DEFAULT_RATIO = 0.1

Arms = Literal["all", "grid", "main"]
"""All that is in a module; of defenses no ablations, controls and studies beside them; one arm of each module."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What `hft run` was asked for: module names or baselines, and under what; None takes the protocol's value."""

    modules: tuple[str, ...]  # modules joined by "+" are one combination of defenses
    testbed: str = "micro"
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    ratios: tuple[float, ...] | None = None  # None: those of each condition
    attacks: tuple[str, ...] = ("graded",)  # conditions by name, or a paper's attack as MODULE:ARM
    arms: Arms = "all"
    sweep: bool = False  # instead of arms: each defense at every value of its knob
    fields: dict[str, str] = field(default_factory=dict)  # --set name=value
    n: int | None = None
    task: str | None = None
    mode: Mode = "full"
    device: str = "cpu"
    dtype: str = "float32"
    split: str = "test"  # "validation" chooses hyper-parameters
    again: bool = False
    results: Path = record.RESULTS
    cache: Path | None = None


@dataclass(frozen=True)
class Job:
    """One record to make: a run or a study, and where it goes."""

    spec: dict[str, Any]
    path: Path
    label: str
    request: Request
    work: Any  # Run, or (Study, seed, arm)

    @property
    def done(self) -> bool:
        return self.path.exists()


def setting(request: Request) -> "Setting":
    """The testbed, protocol and machine of a request. Raises ValueError for what this machine cannot do."""
    import torch

    from reproduce.run import Setting
    from reproduce.stages import default_cache
    from reproduce.testbeds import testbed

    if request.device.startswith("cuda") and not torch.cuda.is_available():
        raise RequestError(
            f"--device {request.device}: this machine has no usable GPU; leave --device out to run on the CPU"
        )
    if request.dtype not in ("float32", "bfloat16"):
        raise RequestError(f"--dtype {request.dtype}: choose float32 or bfloat16")
    return Setting(
        testbed=testbed(request.testbed), protocol=protocol_of(request.testbed), device=request.device,
        dtype=request.dtype, split=request.split, cache=request.cache or default_cache(),
    )  # fmt: skip


def plan(request: Request) -> list[Job]:
    """All jobs of a request, twins first, each record once; seeds innermost, so that neighbours need other bases."""
    from reproduce.run import run_spec, study_spec

    where = setting(request)
    bases = {seed: where.stages(seed).base_digest() for seed in request.seeds}
    jobs: dict[str, Job] = {}
    for work in _works(request, where):
        spec = run_spec(work, where) if not isinstance(work, tuple) else study_spec(work[0], where, *work[1:])
        if (key := record.key(spec)) not in jobs:
            jobs[key] = Job(spec, _place(spec, request, bases[spec["seed"]]), _label(spec), request, work)
    return list(jobs.values())


def _place(spec: dict[str, Any], request: Request, base: str | None) -> Path:
    try:
        return record.place(spec, request.results, base, again=request.again)
    except ValueError as error:
        raise RequestError(str(error)) from error


def _works(request: Request, where: "Setting") -> Iterator[Any]:
    from reproduce.api import Attack, Method, Study

    for name in request.modules:
        modules = _load(name)
        whole = request.arms == "all" or (request.arms == "grid" and not isinstance(modules[0], Method))
        for default in modules if whole else modules[:1]:
            for arm, configured in _arms(default, request, whole=whole).items():
                if isinstance(configured, Study):
                    yield from ((configured, seed, arm) for seed in request.seeds)
                elif isinstance(configured, Attack):
                    yield from _attack_runs(request, configured, arm)
                else:
                    yield from _method_runs(request, where, configured, arm)


def _load(name: str) -> list[Any]:
    """The classes behind a module name, a baseline, or modules joined by "+"."""
    from reproduce.baselines import NonAligned, Sft
    from reproduce.combine import Combination

    if "+" in name:
        return [Combination(parts=tuple(find.load(part) for part in name.split("+")))]
    baselines = {b.paper: b for b in (Sft(), NonAligned())}
    return [baselines[name]] if name in baselines else find.load_all(name)


def _arms(default: Any, request: Request, *, whole: bool) -> dict[str, Any]:
    from reproduce.api import Method, with_fields

    if request.fields:
        module = with_fields(default, request.fields)
        return {"main" if module == default else "set": module}
    if request.sweep:
        return default.sweep() if isinstance(default, Method) else {}
    arms: dict[str, Any] = default.arms()
    return arms if whole else dict([next(iter(arms.items()))])


def _attack_runs(request: Request, attack: Any, arm: str) -> "Iterator[Run]":
    from reproduce.baselines import Sft
    from reproduce.run import Run

    for seed in request.seeds:
        yield Run(method=Sft(), attack=attack, mode=request.mode, seed=seed, arm=arm)


def _method_runs(request: Request, where: "Setting", method: Any, arm: str) -> "Iterator[Run]":
    """The method's runs, each after its undefended twin; ablations, controls and sweeps at the default ratio only."""
    from reproduce.baselines import CONDITIONS, Sft
    from reproduce.run import Run

    for name in request.attacks:
        if name not in CONDITIONS:
            yield from _runs_under(request, name, method, arm)
            continue
        condition = CONDITIONS[name]
        ratios = request.ratios if request.ratios is not None else condition.ratios
        if (request.sweep or arm not in ("main", "set")) and DEFAULT_RATIO in ratios:
            ratios = (DEFAULT_RATIO,)
        for ratio in ratios:
            for seed in request.seeds:
                run = Run(
                    method=Sft(), attack=condition.attack, ratio=ratio, n=request.n or where.protocol.n,
                    task=request.task or where.protocol.task, mode=condition.mode or request.mode, seed=seed,
                )  # fmt: skip
                yield run
                yield replace(run, method=method, arm=arm)


def _runs_under(request: Request, name: str, method: Any, arm: str) -> "Iterator[Run]":
    """The method, after its undefended twin, under a paper's own attack (MODULE:ARM)."""
    from reproduce.baselines import Sft
    from reproduce.run import Run

    module, _, chosen = name.partition(":")
    arms = find.load(module).arms()
    if chosen and chosen not in arms:
        raise RequestError(f"--attack {name}: arms of this attack are {', '.join(arms)}")
    chosen = chosen or next(iter(arms))
    for seed in request.seeds:
        run = Run(method=Sft(), attack=arms[chosen], mode=request.mode, seed=seed, arm=chosen)
        yield run
        yield replace(run, method=method, method_arm=arm)


def _label(spec: dict[str, Any]) -> str:
    attack = spec.get("attack", {})
    under = "" if spec["paper"] == spec.get("method", {}).get("paper", spec["paper"]) else spec["method"]["paper"]
    parts = [spec["paper"], spec["arm"] if spec["arm"] != "main" else "", under, attack.get("strength", "")]
    parts += [f"dose {attack['dose']:g}"] if attack.get("dose", 1) != 1 else []
    parts += [spec[k] for k in ("method_arm", "mode") if spec.get(k, "full") != "full"]
    ratio = f"p={spec['ratio']}" if spec.get("ratio") is not None else ""
    return " ".join(p for p in [*parts, ratio, f"seed {spec['seed']}"] if p)


def pending(jobs: Iterable[Job]) -> list[Job]:
    """The jobs that have no record yet, studies first: they take longest, and no process should end on one alone."""
    return sorted((job for job in jobs if not job.done), key=lambda job: not isinstance(job.work, tuple))


def execute(jobs: list[Job], processes: int, report: Callable[[Job, str | None], None]) -> None:
    """Run all jobs that have no record yet, one torch thread a process; `report(job, problem)` sees each one end.

    A job that fails with an exception is reported with its message and leaves no record; the others go on. On Ctrl-C
    the workers stop at once; what is finished stays, and the next call goes on from there.
    """
    waiting = pending(jobs)
    if not waiting:
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(waiting)), context, initializer=_start_worker) as pool:
        futures = {pool.submit(_work, job): job for job in waiting}
        try:
            _collect(futures, report)
        except BaseException:
            for process in list(pool._processes.values()):  # before shutdown, which forgets them
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _collect(futures: dict[Future[None], Job], report: Callable[[Job, str | None], None]) -> None:
    pending = set(futures)
    while pending:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            error = future.exception()
            report(futures[future], None if error is None else f"{type(error).__name__}: {error}")


def _start_worker() -> None:
    """One torch thread; Ctrl-C is the parent's business; a worker does not outlive a killed parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(job: Job) -> None:
    from reproduce.lab import perform_study
    from reproduce.run import perform

    if job.done:
        return  # a study needed the same run and made it meanwhile
    where = setting(job.request)
    if isinstance(job.work, tuple):
        study, seed, arm = job.work
        made = perform_study(study, where, seed, job.request.results, arm)
    else:
        made = perform(job.work, where)
    try:
        record.write(made, job.path)
    except FileExistsError:
        pass  # another process was first; its record stands
