"""The two files a reproduction begins with, and the line in papers.yaml that names them."""

import re
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from ruamel.yaml.comments import CommentedMap

from catalog import atomic, editing, schema
from catalog.papers import FILE, read
from catalog.problems import Problem, RefusedError

HOOKS = {"alignment": "align_step", "fine-tuning": "finetune_step", "post-fine-tuning": "repair"}
"""The hook in which the idea of a defense usually stands, by stage."""
KINDS = {"attack": "Attack", "defense": "Method"}


def write(root: Path, paper: schema.Paper) -> list[Path]:
    """Write the module and its test from an entry, and name the module there; returns the files that are new.

    RefusedError, with nothing written, when the paper has a module, a file is in the way, or there is no arXiv id of
    the form NNNN.NNNNN, which carries the name.
    """
    name = module_name(paper)
    files = {
        root / "reproduce" / "papers" / f"{name}.py": "module.py.j2",
        root / "tests" / "reproduce" / f"test_{name[12:]}.py": "module_test.py.j2",
    }
    if paper.reproduction:
        raise _refused(paper, f"has the module {paper.reproduction.module} already", "edit that one")
    for path in files:
        if path.exists():
            where = path.relative_to(root)
            raise _refused(paper, f"{where} is there already", "rename it, or add `reproduction:` by hand")
        if not path.parent.is_dir():
            raise _refused(paper, f"there is no folder {path.parent.relative_to(root)}", "change to a checkout")
    text = editing.amend(
        read(root / FILE), paper.id, lambda entry: entry.update(reproduction=CommentedMap(module=name))
    )
    templates = Environment(loader=PackageLoader("catalog"), undefined=StrictUndefined, keep_trailing_newline=True)
    try:
        for path, template in files.items():
            atomic.write(path, templates.get_template(template).render(_facts(paper, name)).encode())
        editing.save(root / FILE, text)
    except BaseException:
        for path in files:
            path.unlink(missing_ok=True)
        raise
    return list(files)


def module_name(paper: schema.Paper) -> str:
    """pNNNN_NNNNN_name, from the arXiv id and the slug."""
    if not re.fullmatch(r"\d{4}\.\d{5}", paper.ids.arxiv or ""):
        fix = "modules are named after an arXiv id of the form 2402.01109; add it to the entry's ids"
        raise _refused(paper, "the entry has no such arXiv id", fix)
    return f"p{str(paper.ids.arxiv).replace('.', '_')}_{paper.id.replace('-', '_')}"


def class_name(paper: schema.Paper) -> str:
    """The name of the class: the nickname when it is a word, else the slug in capitals."""
    if paper.nickname and re.fullmatch(r"[A-Z][A-Za-z0-9]*", paper.nickname):
        return paper.nickname
    name = "".join(part.capitalize() for part in paper.id.split("-"))
    return name if name[0].isalpha() else f"Paper{name}"


def _facts(paper: schema.Paper, name: str) -> dict[str, str]:
    hook = HOOKS.get(paper.stage or "", "")
    kind = "Study" if paper.type == "defense" and not hook else KINDS.get(paper.type, "Study")
    return {
        "arxiv": str(paper.ids.arxiv),
        "slug": paper.id,
        "module": name,
        "name": class_name(paper),
        "kind": kind,
        "stage": (paper.stage or "").replace("-", "_").upper(),
        "hook": hook,
    }


def _refused(paper: schema.Paper, message: str, fix: str) -> RefusedError:
    return RefusedError([Problem("scaffold", FILE, paper.id, message, fix)])
