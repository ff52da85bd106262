"""Put one candidate more into excluded.yaml and leave every other byte as it is."""

import json
import re
from pathlib import Path

from catalog import atomic, editing, excluded
from catalog.excluded import FILE, Excluded
from catalog.papers import parse
from catalog.problems import Problem, RefusedError

HEAD = "# yaml-language-server: $schema=catalog/excluded.schema.json\nschema: 1\nexcluded:\n"


def add(root: Path, new: Excluded) -> None:
    """Write the candidate to its place by date; RefusedError when the file has problems or another layout."""
    path = root / FILE
    text = path.read_text(encoding="utf-8-sig") if path.is_file() else HEAD
    atomic.write(path, editing.encoded(path, inserted(text, new)))


def inserted(text: str, new: Excluded) -> str:
    """The text of excluded.yaml with a candidate more, before the first later one and the comments above that."""
    text = re.sub(r"(?m)^excluded: *\[\] *$", "excluded:", text)
    is_empty = text.rstrip().endswith("excluded:")
    before, problems = ([], []) if is_empty else excluded.parsed(text)
    if problems:
        raise RefusedError(problems)
    lines = text.rstrip("\n").splitlines()
    later = next((n for n, (_, each) in enumerate(before) if str(each.date) > str(new.date)), None)
    if is_empty:
        lines += _block(new)
    elif later is None:
        lines += ["", *_block(new)]
    else:
        place = parse(text)["excluded"].lc.item(later)[0]
        while lines[place - 1].lstrip().startswith("#"):
            place -= 1
        lines[place:place] = [*_block(new), ""]
    after = "\n".join(lines) + "\n"
    entries, problems = excluded.parsed(after)
    kept = [each for _, each in entries if each != new]
    if problems or kept != [each for _, each in before] or len(entries) != len(before) + 1:
        message, fix = "an entry cannot be added to this layout", "write each entry as `  - title: …`, the list last"
        raise RefusedError([Problem("format", f"{FILE}:1", "", message, fix)])
    return after


def _block(new: Excluded) -> list[str]:
    """The lines of an entry, in the order and the quotes that people use."""
    names = ", ".join(f"{kind}: {json.dumps(value)}" for kind, value in new.ids.given().items())
    lines = [
        f"  - title: {json.dumps(new.title, ensure_ascii=False)}",
        f"    ids: {{{names}}}",
        f"    date: {new.date}",
        f"    decision: {new.decision}",
        f"    rule: {new.rule}",
    ]
    lines += [f"    why: {json.dumps(new.why, ensure_ascii=False)}"] if new.why else []
    return [*lines, f"    decided: {new.decided}"]
