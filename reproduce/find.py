"""Paper id <-> module file, by file name alone. Torch-free: listing what can be reproduced imports no module."""

import ast
import hashlib
import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAPERS = Path(__file__).parent / "papers"
NAME = re.compile(r"p(\d{4})_(\d{5})_([a-z0-9_]+)")


@dataclass(frozen=True)
class Module:
    """A paper module: `name` carries the arXiv id, `digest` is that of its code (docstrings and comments aside)."""

    name: str
    arxiv: str
    path: Path

    @property
    def digest(self) -> str:
        return source_digest(self.path)


def modules(folder: Path = PAPERS) -> dict[str, Module]:
    """All paper modules by name. Raises ValueError for a file whose name carries no id."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        if path.stem == "__init__":
            continue
        match = NAME.fullmatch(path.stem)
        if not match:
            raise ValueError(f"{path}: name it pNNNN_NNNNN_name.py after the paper's arXiv id")
        found[path.stem] = Module(path.stem, f"{match[1]}.{match[2]}", path)
    return found


def load_all(name: str) -> list[Any]:
    """The paper's Method, Attack or Study with default fields; a Study may stand beside another. Imports torch.

    Raises ValueError for a file with no class that has a `paper`, or with two of one kind.
    """
    module = importlib.import_module(f"reproduce.papers.{name}")
    classes = [c for c in vars(module).values() if _is_paper(c, module.__name__)]
    kinds = {c.__bases__ for c in classes}
    if not classes or len(kinds) != len(classes):
        raise ValueError(f"reproduce/papers/{name}.py: expected one class a kind with a `paper`, found {len(classes)}")
    return [c() for c in classes]


def load(name: str) -> Any:
    """The first of a paper's classes, with its default fields. Imports torch."""
    return load_all(name)[0]


def _is_paper(value: Any, module: str) -> bool:
    return isinstance(value, type) and value.__module__ == module and isinstance(vars(value).get("paper"), str)


def source_digest(path: Path) -> str:
    """SHA-256 of a Python file's code as a syntax tree, so that comments, docstrings and layout do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and _documented(node):
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _documented(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    first = node.body[0] if node.body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
