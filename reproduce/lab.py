"""What a study sees: the replicate's models, and runs whose records it shares with everyone else."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reproduce import record
from reproduce.run import Run, Setting, perform, run_spec
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
        path = record.path_of(run_spec(run, self.setting), self.results)
        if not path.exists():
            try:
                record.write(perform(run, self.setting), path)
            except FileExistsError:
                pass  # another worker measured the same run meanwhile
        made = record.load(path)
        if made["status"] != "ok":
            raise Diverged(f"{made['spec']['paper']} ({made['key']}): {made['reason']}")
        return made
