"""Names of papers: arXiv, DOI, OpenReview and ACL ids and our slugs, in every spelling people paste."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

from catalog.problems import nearest

if TYPE_CHECKING:
    from catalog.schema import Paper

Kind = Literal["arxiv", "doi", "openreview", "acl", "slug"]

SLUG = r"[a-z0-9]+(?:-[a-z0-9]+)*"
_MONTH = r"(?:0[1-9]|1[0-2])"
ARXIV = (
    rf"(?:0[7-9]|1[0-4]){_MONTH}\.\d{{4}}|(?:1[5-9]|[2-9]\d){_MONTH}\.\d{{5}}"
    rf"|[a-z-]+(?:\.[A-Z]{{2}})?/\d{{2}}{_MONTH}\d{{3}}"
)
"""Four digits after the point until 2014, five since 2015 (https://info.arxiv.org/help/arxiv_identifier.html)."""
DOI = r"10\.\d{4,9}/[^\sA-Z]+"
OPENREVIEW = r"[A-Za-z0-9_-]{6,16}"
ACL = r"\d{4}\.[a-z0-9]+-[a-z0-9]+\.\d+|[A-Z]\d{2}-\d{4}"

_ADDRESS = {
    "arxiv": "https://arxiv.org/abs/{}",
    "doi": "https://doi.org/{}",
    "openreview": "https://openreview.net/forum?id={}",
    "acl": "https://aclanthology.org/{}/",
}


@dataclass(frozen=True)
class PaperId:
    """One normalised name of a paper; arXiv ids carry no version, DOIs are lower case."""

    kind: Kind
    value: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an id, a prefixed id (`arXiv:…`, `doi:…`) or a URL; ValueError says what was understood."""
        text = text.strip()
        if re.match(r"(?i)(https?://|www\.|[a-z.]+\.(org|net|co)/)", text):
            return cls(*_from_url(text))
        prefix, _, rest = text.partition(":")
        named = {"arxiv": _arxiv, "doi": _doi, "openreview": _openreview, "acl": _acl}.get(prefix.lower())
        if named and rest:
            found = named(rest.strip())
        else:
            found = _arxiv(text) or _doi(text) or _acl(text) or _slug(text) or _openreview(text)
        if found is None:
            raise ValueError(f"'{text}' is no arXiv id, DOI, OpenReview id, ACL id, URL of one, or slug")
        return cls(*found)

    @property
    def url(self) -> str | None:
        """The address the id stands for; our own slugs have none."""
        return None if self.kind == "slug" else _ADDRESS[self.kind].format(self.value)

    def __str__(self) -> str:
        return self.value if self.kind == "slug" else f"{self.kind}:{self.value}"


class UnknownPaperError(LookupError):
    """No entry has this name; `near` holds the ids most like it, best first."""

    def __init__(self, text: str, near: list[str]) -> None:
        self.text, self.near = text, near
        hint = "did you mean " + ", ".join(near) + "?" if near else "see `hft list` for all ids"
        super().__init__(f"papers.yaml: no entry '{text}'; {hint}")


def arxiv_month(arxiv: str) -> tuple[int, int]:
    """Year and month an arXiv id was given out: '2402.01109' → (2024, 2), 'hep-th/9901001' → (1999, 1)."""
    digits = arxiv.rpartition("/")[2]
    year, month = int(digits[:2]), int(digits[2:4])
    return (1900 if year >= 91 else 2000) + year, month


def links(ids: Mapping[Kind, str]) -> dict[str, str]:
    """Addresses built from the ids of an entry, by kind."""
    return {kind: _ADDRESS[kind].format(value) for kind, value in ids.items()}


def resolve(text: str, papers: Iterable[Paper]) -> Paper:
    """The entry named by a slug, nickname, module, outside id or URL; else UnknownPaperError."""
    known = list(papers)
    names = {name: paper for paper in known for name in _nicknames(paper)}
    names |= {name: paper for paper in known for name in _names(paper)}
    for key in (text.strip().casefold(), _key(text)):
        if key in names:
            return names[key]
    near: dict[str, str] = {}
    for name in nearest(text, names):
        near.setdefault(names[name].id, name)
    shown = [slug if slug == name else f"{slug} ({name})" for slug, name in near.items()]
    raise UnknownPaperError(text, shown)


def _names(paper: Paper) -> list[str]:
    return [paper.id, *(str(PaperId(kind, value)).casefold() for kind, value in paper.ids.given().items())]


def _nicknames(paper: Paper) -> list[str]:
    """What a paper is called besides its ids; an id of another paper goes before."""
    other = [paper.nickname, paper.reproduction.module if paper.reproduction else None]
    return [name.casefold() for name in other if name]


def _key(text: str) -> str:
    try:
        return str(PaperId.parse(text)).casefold()
    except ValueError:
        return ""


_Found = tuple[Kind, str] | None


def _arxiv(text: str) -> _Found:
    text = re.sub(r"(?i)^arxiv:|\.pdf$", "", text)
    match = re.fullmatch(rf"({ARXIV})(?:v[1-9]\d*)?", text)
    return ("arxiv", match[1]) if match else None


def _doi(text: str) -> _Found:
    text = text.lower()
    if of_arxiv := re.fullmatch(r"10\.48550/arxiv\.(.+)", text):
        return _arxiv(of_arxiv[1])
    return ("doi", text) if re.fullmatch(DOI, text) else None


def _openreview(text: str) -> _Found:
    return ("openreview", text) if re.fullmatch(OPENREVIEW, text) else None


def _acl(text: str) -> _Found:
    text = text.removesuffix(".pdf")
    return ("acl", text) if re.fullmatch(ACL, text) else None


def _slug(text: str) -> _Found:
    return ("slug", text) if re.fullmatch(SLUG, text) else None


def _from_url(text: str) -> tuple[Kind, str]:
    parts = urlsplit(text if "://" in text else f"https://{text}")
    host, path = (parts.hostname or "").removeprefix("www."), unquote(parts.path).strip("/")
    last = path.rpartition("/")[2]
    found: _Found = None
    if host.endswith("arxiv.org"):
        found = _arxiv(path.partition("/")[2])
    elif host == "huggingface.co" and path.startswith("papers/"):
        found = _arxiv(last)
    elif host in ("doi.org", "dx.doi.org"):
        found = _doi(path)
    elif host == "openreview.net":
        found = _openreview(parse_qs(parts.query).get("id", [""])[0])
    elif host == "aclanthology.org":
        found = _acl(last)
    if found is None:
        raise ValueError(f"'{text}' is no address of a paper on arXiv, doi.org, OpenReview or the ACL Anthology")
    return found
