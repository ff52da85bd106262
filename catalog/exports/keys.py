"""Citation keys such as huang2024vaccine: family name, year of the first public version, word of the title.

While its authors are not known, a paper is called by its nickname or the first word of its title instead. Naming the
authors changes that key once; until then it depends on no other entry.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator

from catalog.schema import Paper

STOP = set("a an the on of in to for from with and or is are do does can how why what when toward towards".split())

FOLDED = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ð": "d", "ß": "ss", "æ": "ae", "œ": "oe", "ı": "i", "þ": "th"})
"""Latin letters that Unicode does not take apart."""


def of(papers: Iterable[Paper]) -> dict[str, str]:
    """The key of each paper by its id; every key stands once.

    Where two would get one key, the paper catalogued first keeps it and the later one takes further words of its
    title, at last its id: no later entry changes a key that was given out.
    """
    given: dict[str, str] = {}
    taken: set[str] = set()
    for paper in sorted(papers, key=lambda paper: (paper.curation.added, paper.date, paper.id)):
        given[paper.id] = next(key for key in _candidates(paper) if key not in taken)
        taken.add(given[paper.id])
    return given


def _candidates(paper: Paper) -> Iterator[str]:
    words = [word for word in _words(paper.title) if word not in STOP] or ["untitled"]
    name = _family(paper)
    if not name:
        name = next(iter(_words(paper.nickname or "")), words[0])
        words = [word for word in words if word != name] or words
    stem = f"{name}{paper.date.year}"
    for count in range(1, len(words) + 1):
        yield stem + "".join(words[:count])
    yield f"{stem}:{paper.id}"


def _family(paper: Paper) -> str:
    """Family name of the first author as printed last, or before a comma; empty when authors are unknown."""
    first = paper.authors[0] if paper.authors else ""
    family = first.partition(",")[0] if "," in first else first.rpartition(" ")[2]
    return "".join(_words(family))


def _words(text: str) -> list[str]:
    """Words of letters and digits in lower-case ASCII, accents and apostrophes dropped."""
    apart = unicodedata.normalize("NFKD", text.casefold().translate(FOLDED))
    bare = "".join(letter for letter in apart if not unicodedata.combining(letter) and letter not in "'’")
    return re.findall(r"[a-z0-9]+", bare)
