"""`hft new`: two files and one line in the entry, which do not pass as a finished reproduction."""

import ast
import datetime
import difflib
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from catalog import lint, scaffold, schema
from catalog.problems import RefusedError

HOME = Path(__file__).parents[2]
MODULE = Path("reproduce", "papers", "p2402_01010_shield.py")
TEST = Path("tests", "reproduce", "test_shield.py")


@pytest.fixture
def harness(project: Path, add_module: Any) -> Path:
    (project / "tests" / "reproduce").mkdir(parents=True)
    return project


def test_it_writes_both_files_and_names_the_module(harness: Path, hft: Any) -> None:
    before = (harness / "papers.yaml").read_text(encoding="utf-8")
    result = hft("new", "https://arxiv.org/abs/2402.01010")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split() == [str(MODULE), str(TEST)]
    after = (harness / "papers.yaml").read_text(encoding="utf-8")
    changes = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]
    assert changes == ["+     reproduction:", "+       module: p2402_01010_shield"]


def test_hft_check_refuses_it_until_its_hooks_are_written(harness: Path, hft: Any) -> None:
    hft("new", "shield")
    problems = lint.check(harness)
    line = (harness / MODULE).read_text().splitlines().index(
        '        raise NotImplementedError("leave gradients in .grad and return the loss")'
    )  # fmt: skip
    assert [(p.code, p.where) for p in problems] == [("hook-unwritten", f"{MODULE}:{line + 1}")]
    written = (harness / MODULE).read_text().replace("raise NotImplementedError(", "return float(")
    (harness / MODULE).write_text(written)
    assert lint.check(harness) == []


@pytest.mark.parametrize("case", ["twice", "file", "no-id", "unknown"])
def test_it_writes_nothing_over_anything(harness: Path, hft: Any, edit: Callable[..., int], case: str) -> None:
    if case == "twice":
        hft("new", "shield")
    elif case == "file":
        (harness / TEST).write_text("mine")
    elif case == "no-id":
        edit('arxiv: "2402.01010"', "arxiv: null")
    before = {path: path.read_bytes() for path in harness.rglob("*") if path.is_file()}
    result = hft("new", "shields" if case == "unknown" else "shield")
    assert result.exit_code == (2 if case == "unknown" else 1)
    assert {path: path.read_bytes() for path in harness.rglob("*") if path.is_file()} == before


def paper(kind: str, stage: str | None, **given: Any) -> schema.Paper:
    return schema.Paper(
        id=given.get("id", "x-y"),
        title="X",
        nickname=given.get("nickname"),
        authors=[],
        date=datetime.date(2024, 2, 2),
        ids=schema.Ids(arxiv=given.get("arxiv", "2402.01109")),
        venue=schema.Publication(name="arXiv", year=2024, status="preprint"),
        type=kind,  # type: ignore[arg-type]
        stage=stage,  # type: ignore[arg-type]
        curation=schema.Curation(added=datetime.date(2026, 1, 1), source="x", checked=datetime.date(2026, 1, 1)),
    )


CASES = [
    ("defense", "alignment", "Method", {"align_step"}),
    ("defense", "fine-tuning", "Method", {"finetune_step"}),
    ("defense", "post-fine-tuning", "Method", {"repair"}),
    ("defense", "pre-training", "Study", {"measure"}),
    ("attack", None, "Attack", {"data", "schedule"}),
    ("mechanism", None, "Study", {"measure"}),
    ("benchmark", None, "Study", {"measure"}),
]


@pytest.mark.parametrize(("kind", "stage", "base", "hooks"), CASES)
def test_each_type_gets_its_class_in_the_house_style(
    project: Path, monkeypatch: pytest.MonkeyPatch, kind: str, stage: str | None, base: str, hooks: set[str]
) -> None:
    monkeypatch.setattr(scaffold.editing, "amend", lambda document, slug, change: document.text)
    for folder in ("reproduce/papers", "tests/reproduce"):
        (project / folder).mkdir(parents=True)
    files = scaffold.write(project, paper(kind, stage))
    (cls,) = [node for node in ast.parse(files[0].read_text()).body if isinstance(node, ast.ClassDef)]
    assert (cls.name, [ast.unparse(each) for each in cls.bases]) == ("XY", [base])
    assert {node.name for node in cls.body if isinstance(node, ast.FunctionDef)} == hooks
    for command in (["format", "--check"], ["check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--config", str(HOME / "pyproject.toml"), "--no-cache"]
        done = subprocess.run([*ruff, *map(str, files)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("scaffolded", files[0])
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "scaffolded", module)
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    made = module.XY()
    assert made.paper == "x-y"
    assert made.arms() == {"main": made}
    assert hooks <= vars(module.XY).keys()


@pytest.mark.parametrize(
    ("given", "name"),
    [({"nickname": "VLGuard"}, "VLGuard"), ({"nickname": "Safe LoRA", "id": "safe-lora"}, "SafeLora"),
     ({"id": "3d-immunization"}, "Paper3dImmunization")],
)  # fmt: skip
def test_the_class_has_a_name_that_python_takes(given: dict[str, str], name: str) -> None:
    assert scaffold.class_name(paper("attack", None, **given)) == name
    assert name.isidentifier()


@pytest.mark.parametrize("arxiv", [None, "math/0309136", "0704.0001"])
def test_a_module_needs_an_arxiv_id_of_today(arxiv: str | None) -> None:
    with pytest.raises(RefusedError, match="arXiv id"):
        scaffold.module_name(paper("attack", None, arxiv=arxiv))
