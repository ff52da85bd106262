"""The committed code makes the committed record from the bases that come with it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reproduce import record

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_fresh_machine_finds_the_same_key_and_much_the_same_numbers(tmp_path: Path) -> None:
    words = [
        sys.executable, "-m", "catalog", "run", "sft", "--seeds", "0,", "--ratios", "0.1", "--jobs", "1", "--json",
        "--results", str(tmp_path / "results"),
    ]  # fmt: skip
    environment = {**os.environ, "HFT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (fresh,) = json.loads(done.stdout)
    committed = record.load(record.place(fresh["spec"], record.RESULTS, fresh["digests"]["base"]))
    for metric, tolerance in {"harmful": 0.10, "accuracy": 0.05, "benign_help": 0.05, "refusal": 0.10}.items():
        new, old = (run["metrics"][metric]["k"] / run["metrics"][metric]["n"] for run in (fresh, committed))
        assert abs(new - old) <= tolerance, f"{metric}: {new} here, {old} committed"
    for name in ("base", "data"):
        assert fresh["digests"][name] == committed["digests"][name]
    assert fresh["digests"]["test"] == committed["digests"]["test"]
