"""A release is made when its tag, the package, the citation and the changelog agree on the version."""

import json
import re
import tomllib
from pathlib import Path

from ruamel.yaml import YAML

from catalog.problems import Problem, RefusedError


def notes(root: Path, tag: str) -> str:
    """The changelog's section for a tag such as v0.1.0; RefusedError names the files that say another version."""
    version = tag.removeprefix("v")
    told = {
        "pyproject.toml": tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"],
        "CITATION.cff": str(YAML(typ="safe").load((root / "CITATION.cff").read_text(encoding="utf-8"))["version"]),
        ".zenodo.json": json.loads((root / ".zenodo.json").read_text(encoding="utf-8"))["version"],
    }
    problems = [
        Problem("release", file, "", f"says version {said}, the tag {tag}", "make them equal, or tag anew")
        for file, said in told.items()
        if said != version
    ]
    sections = re.split(r"(?m)^## ", (root / "CHANGELOG.md").read_text(encoding="utf-8"))
    section = next((text for text in sections if re.match(rf"{re.escape(version)}\b", text)), None)
    if section is None:
        fix = f"give what stands under Unreleased the heading `## {version}`"
        problems.append(Problem("release", "CHANGELOG.md", "", f"has no section {version}", fix))
    if problems or section is None:
        raise RefusedError(problems)
    return section.partition("\n")[2].strip() + "\n"
