"""What an address beside a paper is: an id of it, or a link to its code, data or page, freed of what clings to it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

from catalog.ids import PaperId
from catalog.lint import link_faults

LinkKind = Literal["paper", "code", "data", "project"]
LABELS: dict[str, LinkKind] = {
    r"code|codes?base|repo(sitory)?|github|gitlab|implementation|official": "code",
    r"data|datasets?|checkpoints?": "data",
    r"project|web(site| ?page)?|home ?page|page|blog|demo": "project",
    r"paper|pdf|abs|html|arxiv|open ?rev?i?ew|acl|anthology|doi|link|url|preprint|proceedings|springer|acm": "paper",
}
HOSTS: dict[str, LinkKind] = {
    r"github\.com|gitlab\.com|bitbucket\.org|codeberg\.org|anonymous\.4open\.science|anonymous\.github\.io": "code",
    r"huggingface\.co|zenodo\.org|kaggle\.com": "data",
    r".*\.github\.io": "project",
}
PRINTED_DOI = re.compile(r"(?i)(?:^|/)(?:doi/(?:[a-z]+/)?|article/|chapter/|doi\.org/)?(10\.\d{4,9}/[^\s?#]+)")
DOI_HOSTS = re.compile(r"dl\.acm\.org|link\.springer\.com|.*wiley\.com|.*tandfonline\.com|.*sagepub\.com|.*doi\.org")


@dataclass(frozen=True)
class Address:
    """An id, or a link of a kind; `faults` (code, message, fix) are what was mended."""

    id: PaperId | None
    kind: LinkKind
    link: str
    faults: tuple[tuple[str, str, str], ...] = ()


def read(label: str, text: str) -> Address | None:
    """The id or link that a labelled address is; None when it is none. No secret of the address is told on."""
    text = text.strip().strip("<>").rstrip(").,;]").strip()
    if not text or text.startswith(("#", "mailto:")):
        return None
    if found := _id(text):
        return Address(found, "paper", found.url or "", tuple(_told(text)))
    if not re.match(r"(?i)https?://\S+$", text):
        return None
    scheme_less = re.sub(r"(?i)^http:", "https:", text)
    faults = tuple(link_faults(scheme_less))
    parts = urlsplit(scheme_less)
    host = parts.netloc.rpartition("@")[2].lower()
    kind = _kind(label, host.removeprefix("www."), parts.path)
    path = parts.path.rstrip("/").removesuffix(".git") if kind == "code" else parts.path
    return Address(None, kind, f"https://{host}{path}", faults)


def _id(text: str) -> PaperId | None:
    text = re.sub(r"(?i)^(https?://)?(www\.)?(ar5iv|alphaxiv)\.org/[a-z]+/", "https://arxiv.org/abs/", text)
    parts = urlsplit(text if "://" in text else "")
    if parts.hostname and DOI_HOSTS.fullmatch(parts.hostname) and (doi := PRINTED_DOI.search(unquote(parts.path))):
        text = f"doi:{doi[1].removesuffix('.pdf')}"
    try:
        found = PaperId.parse(text)
    except ValueError:
        return None
    return None if found.kind == "slug" or _is_word(text) else found


def _is_word(text: str) -> bool:
    """Whether a text is an id only because nearly any word could be one of OpenReview."""
    return re.fullmatch(r"[A-Za-z0-9_-]{6,16}", text) is not None and "." not in text


def _told(text: str) -> Iterator[tuple[str, str, str]]:
    """Secrets of an address that an id replaces; other stray parts of it vanish unmentioned."""
    return (fault for fault in link_faults(text) if fault[0] == "link-token")


def _kind(label: str, host: str, path: str) -> LinkKind:
    known = next((kind for hosts, kind in HOSTS.items() if re.fullmatch(hosts, host)), None)
    told = next((kind for words, kind in LABELS.items() if re.search(rf"(?i)\b({words})\b", label)), None)
    if host == "huggingface.co" and not path.startswith("/datasets/"):
        known = "project"
    if told == "paper" and known:
        return known
    return told or known or "paper"
