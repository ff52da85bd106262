"""Studies: what one sees (the replicate's models, and runs it shares with everyone else), and its record."""

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reproduce import record
from reproduce.api import Study
from reproduce.model import weights_digest
from reproduce.run import Run, Setting, cost_of, make_record, perform, run_spec, study_spec
from reproduce.stages import Stages
from reproduce.train import Diverged


@dataclass
class Lab:
    """One replicate (seed) of a setting."""

    setting: Setting
    seed: int
    results: Path

    @cached_property
    def stages(self) -> Stages:
        return self.setting.stages(self.seed)

    @property
    def testbed(self) -> Any:
        return self.setting.testbed

    def run(self, run: Run) -> record.Record:
        """The record of `run`, measured now if there is none yet. Raises Diverged when it gave no numbers."""
        path = record.place(run_spec(run, self.setting), self.results, self.stages.base_digest())
        if not path.exists():
            try:
                record.write(perform(run, self.setting), path)
            except FileExistsError:
                pass  # another worker measured the same run meanwhile
        made = record.load(path)
        if made["status"] != "ok":
            raise Diverged(f"{made['spec']['paper']} ({made['key']}): {made['reason']}")
        return made


def perform_study(study: Study, setting: Setting, seed: int, results: Path, arm: str = "main") -> record.Record:
    """Measure one replicate of a study and return its record."""
    began = time.perf_counter()
    lab = Lab(setting, seed, results)
    measured: dict[str, Any] = {"findings": {}, "figures": {}}
    try:
        found = study.measure(lab)
        measured["findings"] = {n: vars(f) for n, f in found.findings.items()}
        measured["figures"] = {n: vars(f) for n, f in found.figures.items()}
        status, reason = "ok", None
    except Diverged as error:
        status, reason = "diverged", str(error)
    digests = {"base": weights_digest(lab.stages.base().tensors)}
    return make_record(study_spec(study, setting, seed, arm), status, reason, measured, cost_of(began), digests, study)
