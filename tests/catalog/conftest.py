"""A tiny fictional catalogue in a directory of its own, with no modules and no records."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from catalog import cli, readme
from reproduce import find, record

LIST_MODULES = find.modules

GARDEN = Path(__file__).parents[1] / "fixtures" / "garden.yaml"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout that `hft` finds from its working directory: papers.yaml without a problem, a README left alone."""
    shutil.copy(GARDEN, tmp_path / "papers.yaml")
    (tmp_path / "README.md").touch()
    monkeypatch.setattr(readme, "drift", lambda root: [])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(find, "modules", dict)
    return tmp_path


@pytest.fixture
def hft(project: Path) -> Callable[..., Any]:
    """Run the program in the project; returns Typer's result with exit_code, stdout and stderr."""
    return lambda *arguments: CliRunner().invoke(cli.app, list(arguments))


@pytest.fixture
def edit(project: Path) -> Callable[..., int]:
    """Replace a text that stands once in papers.yaml; returns the line where the new text starts."""

    def change(old: str, new: str) -> int:
        path = project / "papers.yaml"
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
        path.write_text(text.replace(old, new), encoding="utf-8")
        return text[: text.index(old)].count("\n") + 1

    return change


@pytest.fixture
def add_module(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Write a paper module into the project; then `reproduce.find` sees only the project's modules."""
    folder = project / "reproduce" / "papers"
    folder.mkdir(parents=True)
    monkeypatch.setattr(find, "modules", lambda: LIST_MODULES(folder))

    def write(name: str, source: str) -> Path:
        path = folder / f"{name}.py"
        path.write_text(source, encoding="utf-8")
        return path

    return write


@pytest.fixture
def add_record(project: Path) -> Callable[..., Path]:
    """Write a sealed run record of a paper into the project; keywords replace top-level fields."""

    def write(paper: str = "shield", version: int = 1, **fields: Any) -> Path:
        spec = {
            "kind": "run",
            "protocol": "micro-1",
            "testbed": "micro",
            "paper": paper,
            "arm": "main",
            "version": version,
            "method": {"paper": paper, "rho": 2.0},
            "attack": {"paper": "poison", "strength": "graded"},
            "ratio": 0.1,
            "n": 1000,
            "task": "sentiment",
            "mode": "full",
            "model": "micro-llama",
            "data": "micro-world-1",
            "seed": 0,
        }
        entry = {
            "schema": 1,
            "key": record.key(spec),
            "spec": spec,
            "status": "ok",
            "reason": None,
            "metrics": {"harmful": {"n": 4, "k": 1, "outcomes": "0100"}},
            "before": {"harmful": {"n": 4, "k": 0}},
            "mechanisms": {"alignment_loss": 0.41},
            "curves": {},
            "cost": {"seconds": 14.2},
            "digests": {"source": ""},
            "environment": {},
            "made": "2026-11-20T03:00:00Z",
            **fields,
        }
        if "findings" in fields:
            spec["kind"] = "study"
            entry["key"] = record.key(spec)
            entry = {name: value for name, value in entry.items() if name not in record.RUN_FIELDS}
        path = record.path_of(spec, project / "reproduce" / "results")
        record.write(entry, path)
        return path

    return write
