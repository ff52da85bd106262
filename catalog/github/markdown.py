"""Comments that show foreign text as it is: nothing in it links, mentions, closes or renders."""

import json
import re
from typing import Any

LIMIT = 60_000
"""Characters of a comment; GitHub refuses more than 65,536."""


def fenced(text: str, language: str = "") -> str:
    """A code block around any text; the fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def joined(parts: list[str]) -> str:
    """Blocks as one comment; those that do not fit are left out and counted."""
    kept: list[str] = []
    for part in parts:
        if sum(len(each) + 2 for each in kept) + len(part) > LIMIT:
            return "\n\n".join([*kept, f"{len(parts) - len(kept)} more do not fit in a comment."]) + "\n"
        kept.append(part)
    return "\n\n".join(kept) + "\n"


def payload(**fields: Any) -> bytes:
    """A request body for GitHub's API."""
    return (json.dumps(fields, ensure_ascii=False, indent=1) + "\n").encode()
