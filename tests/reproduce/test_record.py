"""Records: created once and whole, and an edited one is named."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reproduce import record

SPEC: dict[str, Any] = {
    "kind": "run", "testbed": "micro", "paper": "sft", "arm": "main", "version": 1, "seed": 0, "ratio": 0.1,
}  # fmt: skip


def a_record(spec: dict[str, Any] = SPEC) -> dict[str, Any]:
    return {
        "schema": 1, "key": record.key(spec), "spec": spec, "status": "ok", "reason": None,
        "metrics": {"harmful": {"n": 4, "k": 2, "outcomes": "0110"}}, "before": {}, "mechanisms": {}, "curves": {},
        "cost": {}, "digests": {}, "environment": {}, "made": "2026-11-23T00:00:00Z",
    }  # fmt: skip


def written(root: Path) -> Path:
    path = record.path_of(SPEC, root)
    record.write(a_record(), path)
    return path


def test_key_is_that_of_the_canonical_json() -> None:
    # sha256 of '{"a":1,"b":0.5}', computed with sha256sum
    assert record.key({"b": 0.5, "a": 1}) == "2e76599baa1e42fd"


@given(
    st.dictionaries(st.text(), st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()))
)
def test_key_survives_a_json_round_trip_and_reordering(spec: dict[str, Any]) -> None:
    again = json.loads(json.dumps(dict(reversed(spec.items()))))
    assert record.key(again) == record.key(spec)


def test_a_written_record_verifies_and_reads_back(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert record.verify(tmp_path) == []
    assert [r["key"] for r in record.read(tmp_path)] == [path.stem]


def test_a_record_is_never_overwritten(tmp_path: Path) -> None:
    path = written(tmp_path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        record.write({**a_record(), "status": "diverged"}, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda r: r["metrics"]["harmful"].update(k=1), "edited"),
        (lambda r: r["spec"].update(seed=1), "spec was edited"),
        (lambda r: r.pop("cost"), "no object for cost"),
        (lambda r: r.update(status="great"), "status"),
        (lambda r: r.update(extra=1), "extra"),
    ],
)
def test_verify_names_an_edited_record(tmp_path: Path, edit: Any, says: str) -> None:
    path = written(tmp_path)
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    (problem,) = record.verify(tmp_path)
    assert problem["path"] == str(path)
    assert says in problem["message"]
    assert "git checkout" in problem["fix"]


def test_verify_counts_outcomes_even_when_the_seal_was_forged(tmp_path: Path) -> None:
    path = record.path_of(SPEC, tmp_path)
    wrong = a_record()
    wrong["metrics"]["harmful"]["k"] = 3
    record.write(wrong, path)
    assert "disagree with the outcomes" in record.verify(tmp_path)[0]["message"]


def test_verify_names_a_moved_record_and_a_broken_file(tmp_path: Path) -> None:
    path = written(tmp_path)
    moved = path.with_name("0123456789abcdef.json")
    path.rename(moved)
    (tmp_path / "micro" / "sft" / "half.json").write_text('{"schema": 1')
    problems = {Path(p["path"]).name: p["message"] for p in record.verify(tmp_path)}
    assert "not that of its spec" in problems[moved.name]
    assert "not valid JSON" in problems["half.json"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_record import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # the kernel refuses to write more than 100 bytes
try:
    written(Path({str(tmp_path)!r}))
except OSError as error:
    print("refused", error.errno)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("refused")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_record_on_another_base_does_not_stand_for_this_one(tmp_path: Path) -> None:
    """Three machines: two bases of one seed, and one that cannot say which base it will have."""
    first = record.place(SPEC, tmp_path, "aa")
    record.write({**a_record(), "digests": {"base": "aa"}}, first)
    assert record.place(SPEC, tmp_path, "aa") == first == record.place(SPEC, tmp_path, None)
    second = record.place(SPEC, tmp_path, "bb")
    assert second != first
    assert not second.exists()
    record.write({**a_record(), "digests": {"base": "bb"}}, second)
    assert record.place(SPEC, tmp_path, "bb") == second
    assert record.place(SPEC, tmp_path, "aa") == first
    third = record.place(SPEC, tmp_path, "bb", again=True)
    assert not third.exists()
    record.write({**a_record(), "digests": {}}, third)  # not applicable: no base was needed
    assert record.place(SPEC, tmp_path, "cc") == third
    assert record.verify(tmp_path) == []
