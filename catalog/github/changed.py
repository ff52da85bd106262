"""Which tests a change calls for."""

import re
from collections.abc import Iterable

CATALOGUE = ("tests/catalog/test_canonical.py", "tests/catalog/test_lint.py", "tests/catalog/test_editing.py")
CONTRACT = ("tests/reproduce/test_contract.py", "tests/reproduce/test_contract_runs.py")
PROSE = re.compile(r"[A-Z]+\.md|CITATION\.cff|LICENSE|\.zenodo\.json|reproduce/results/.+\.json|site/pages/.+")
MODULE = re.compile(r"reproduce/papers/p\w+\.py")
TEST = re.compile(r"tests/[a-z_/]+/test_\w+\.py")
WORKFLOWS = "tests/catalog/test_workflows.py"


def tests(files: Iterable[str]) -> list[str]:
    """Test files for a list of changed files; all of `tests` once a file is changed that other code builds on."""
    chosen: set[str] = set()
    for file in files:
        if file in ("papers.yaml", "excluded.yaml"):
            chosen.update(CATALOGUE, CONTRACT[:1])
        elif MODULE.fullmatch(file):
            chosen.update(CONTRACT)
        elif TEST.fullmatch(file):
            chosen.add(file)
        elif file.startswith(".github/"):
            chosen.add(WORKFLOWS)
        elif not PROSE.fullmatch(file):
            return ["tests"]
    return sorted(chosen)
