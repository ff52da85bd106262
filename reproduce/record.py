"""Run records: one append-only JSON file a run, found by the key of what was asked. Torch-free."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMA = 1
RESULTS = Path(__file__).parent / "results"
FIELDS = {"schema", "key", "spec", "status", "reason", "cost", "digests", "environment", "made", "seal"}
RUN_FIELDS = {"metrics", "before", "mechanisms", "curves"}
STUDY_FIELDS = {"findings", "figures"}
STATUSES = {"ok", "diverged", "skipped", "not-applicable"}

Record = dict[str, Any]


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: the same text for the same value on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def key(spec: dict[str, Any]) -> str:
    """What was asked, as 16 hexadecimal digits."""
    return sha256(spec)[:16]


def path_of(spec: dict[str, Any], root: Path = RESULTS, again: int = 0) -> Path:
    """Where the record of `spec` lives; measurements on other bases, and repeated ones (`--again`), carry a number."""
    suffix = f".{again}" if again else ""
    folder, paper = spec["testbed"].replace(":", "-"), spec["paper"]
    return root / str(folder) / str(paper) / f"{key(spec)}{suffix}.json"


def place(spec: dict[str, Any], root: Path, base: str | None, *, again: bool = False) -> Path:
    """Where the record of `spec` on the base model of this digest is, or would go; `again` wants a free place.

    Without a digest any record of `spec` counts. Trained on another kind of processor a seed gives another base, and
    what was measured on that one stays beside.
    """
    number = 0
    while (path := path_of(spec, root, number)).exists():
        if not again and base in (None, load(path)["digests"].get("base", base)):
            return path
        number += 1
    return path


def seal(record: Record) -> str:
    """Digest of everything but the seal itself, so that an edited record shows."""
    return sha256({k: v for k, v in record.items() if k != "seal"})


def write(record: Record, path: Path) -> None:
    """Create the record whole or not at all. Raises FileExistsError if there is one; nothing is ever overwritten."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**record, "seal": seal(record)}, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        os.link(temporary, path)
    finally:
        Path(temporary).unlink()


def paths(root: Path = RESULTS) -> list[Path]:
    """All record files below `root`, in a fixed order."""
    return sorted(root.glob("*/*/*.json"))


def read(root: Path = RESULTS) -> Iterator[Record]:
    """All records below `root`. Raises ValueError naming a file that is no JSON object."""
    for path in paths(root):
        yield load(path)


def load(path: Path) -> Record:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); restore it with git or delete it and run again") from None
    if misshapen := _misshapen(record):
        raise ValueError(f"{path}: {misshapen}; restore it with git or delete it and run again")
    return dict(record)


def _misshapen(record: Any) -> str | None:
    """What keeps a JSON value from being read as a record at all."""
    if not isinstance(record, dict):
        return "a record is a JSON object"
    objects = {"spec", "cost", "digests", "environment"}
    objects |= (
        STUDY_FIELDS if isinstance(record.get("spec"), dict) and record["spec"].get("kind") == "study" else RUN_FIELDS
    )
    if wrong := sorted(name for name in objects if not isinstance(record.get(name), dict)):
        return f"no object for {', '.join(wrong)}"
    if missing := {"kind", "paper", "arm", "version", "testbed", "seed"} - record["spec"].keys():
        return f"spec without {', '.join(sorted(missing))}"
    if record.get("status") not in [*STATUSES]:
        return f"unknown status {record.get('status')!r}"
    broken = [
        n for n, m in record.get("metrics", {}).items() if not isinstance(m, dict) or {"n", "k", "outcomes"} - m.keys()
    ]
    return f"metric {', '.join(broken)} without n, k or outcomes" if broken else None


def verify(root: Path = RESULTS) -> list[dict[str, str]]:
    """Re-derive every key, seal and count; one problem {path, message, fix} for each record that does not hold."""
    problems = []
    for path in paths(root):
        try:
            message = _problem(load(path), path, root)
        except ValueError as error:
            message = str(error).removeprefix(f"{path}: ").partition("; ")[0]
        if message:
            fix = f"restore it: git checkout -- {path}; or delete it and run again"
            problems.append({"path": str(path), "message": message, "fix": fix})
    return problems


def _problem(record: Record, path: Path, root: Path) -> str | None:
    missing = FIELDS - record.keys()
    if missing:
        return f"fields missing: {', '.join(sorted(missing))}"
    kind = STUDY_FIELDS if record["spec"].get("kind") == "study" else RUN_FIELDS
    if record.keys() != FIELDS | kind:
        return f"fields differ from the schema: {', '.join(sorted(record.keys() ^ (FIELDS | kind)))}"
    if record["schema"] != SCHEMA:
        return f"unknown schema {record['schema']!r}"
    if record["key"] != key(record["spec"]):
        return f"key {record['key']} is not that of its spec ({key(record['spec'])}): the spec was edited"
    again = path.name.removeprefix(record["key"]).removesuffix(".json").removeprefix(".")
    if path != path_of(record["spec"], root, int(again) if again.isdigit() else 0):
        return "the file's name or folder is not that of its spec"
    if record["seal"] != seal(record):
        return "the contents were edited after the run (the seal does not match)"
    return _bad_count(record.get("metrics", {}))


def _bad_count(metrics: dict[str, Any]) -> str | None:
    for name, m in metrics.items():
        if m["n"] != len(m["outcomes"]) or m["k"] != m["outcomes"].count("1"):
            return f"metric {name}: n and k disagree with the outcomes"
    return None
