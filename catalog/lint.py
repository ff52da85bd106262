"""What `hft check` says about the entries: one function a rule, each yielding problems with line and fix."""

import datetime
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from catalog import dedupe, ids, integrity, invisible
from catalog.papers import FILE, Catalogue, Document, read, validate
from catalog.problems import Problem, RefusedError, did_you_mean
from catalog.taxonomy import BASELINES

SECRET = re.compile(r"(?i)(\w*_)?token|access_?token|api_?key|key|sig(nature)?|secret|password|auth|expires|x-amz-.*")
TRACKER = re.compile(r"(?i)utm_.*|fbclid|gclid|mc_[ce]id|ref|ref_src|source|share|si|igsh")
FORBIDDEN = re.compile(r"""[<>"`\\^{|}]""")  # RFC 3986, appendix A: such an address may be code for what shows it
BUILT_HOSTS = ("arxiv.org", "openreview.net", "doi.org", "dx.doi.org", "aclanthology.org")
EXPIRING_HOSTS = ("anonymous.4open.science", "anonymous.github.io")
RESERVED = (*BASELINES, "poison")


def check(root: Path) -> list[Problem]:
    """All problems and warnings of the catalogue in `root` and of everything derived from it."""
    try:
        catalogue, problems = examine(read(root / FILE))
    except RefusedError as refused:
        return refused.problems
    return list(dict.fromkeys([*problems, *integrity.check(root, catalogue)]))


def examine(document: Document) -> tuple[Catalogue, list[Problem]]:
    """The valid part of a document, and the problems of its entries in file order."""
    catalogue, problems = validate(document)
    for rule in RULES:
        problems += rule(catalogue)
    return catalogue, sorted(problems, key=lambda problem: int(problem.where.rpartition(":")[2]))


def sound(path: Path) -> Catalogue:
    """The catalogue in a file whose entries have no problem (warnings pass); RefusedError otherwise."""
    catalogue, problems = examine(read(path))
    if errors := [problem for problem in problems if not problem.warning]:
        raise RefusedError(errors)
    return catalogue


def stage_fits_type(catalogue: Catalogue) -> Iterator[Problem]:
    """A stage belongs to every defense and to nothing else."""
    for index, paper in catalogue.numbered():
        if paper.stage and paper.type != "defense":
            message = f"stage on a paper of type {paper.type}"
            yield catalogue.document.problem(
                "stage-on-non-defense",
                ("papers", index, "stage"),
                message,
                "remove `stage:` or set type: defense",
            )
        if not paper.stage and paper.type == "defense":
            message, fix = (
                "a defense without stage",
                "add stage: pre-training, alignment, fine-tuning or post-fine-tuning",
            )
            yield catalogue.document.problem("stage-missing", ("papers", index, "type"), message, fix)


def tags_are_known(catalogue: Catalogue) -> Iterator[Problem]:
    """Tags come from the list in the head of the file, each once an entry."""
    known = catalogue.head.tags if catalogue.head else {}
    for index, paper in catalogue.numbered():
        for position, tag in enumerate(paper.tags):
            place = ("papers", index, "tags", position)
            if catalogue.head and tag not in known:
                yield catalogue.document.problem("unknown-tag", place, f"unknown tag '{tag}'", did_you_mean(tag, known))
            if tag in paper.tags[:position]:
                yield catalogue.document.problem("repeated-tag", place, f"tag '{tag}' twice", "remove one of them")


def venues_are_normal(catalogue: Catalogue) -> Iterator[Problem]:
    """Venues are in the head's list, accepted unless a preprint server, and not before the first date."""
    known = catalogue.head.venues if catalogue.head else {}
    for index, paper in catalogue.numbered():
        place, venue = ("papers", index, "venue"), paper.venue
        if catalogue.head and venue.name not in known:
            name = re.sub(r"[\s'’]*(\d{2}|\d{4})$", "", venue.name)
            message, fix = (
                f"unknown venue '{venue.name}'",
                did_you_mean(name, known) + " The year stands in `year`.",
            )
            yield catalogue.document.problem("unknown-venue", place, message, fix)
        elif catalogue.head and (known[venue.name].kind == "preprint") != (venue.status == "preprint"):
            message = f"status {venue.status} at {venue.name}, which is a {known[venue.name].kind}"
            fix = "preprints stand as {name: arXiv, year: …, track: null, status: preprint}"
            yield catalogue.document.problem("venue-status", place, message, fix)
        if venue.year < paper.date.year:
            message = f"venue year {venue.year} lies before the first public date {paper.date}"
            yield catalogue.document.problem("venue-year", place, message, "correct the year of the venue or the date")


def dates_fit(catalogue: Catalogue) -> Iterator[Problem]:
    """Dates lie in the past and near the month of the arXiv id, unless an earlier posting is named."""
    today = datetime.date.today()
    for index, paper in catalogue.numbered():
        place = ("papers", index, "date")
        if paper.date > today:
            message = f"date {paper.date} lies in the future"
            yield catalogue.document.problem(
                "date-in-future", place, message, "give the day of the first public version"
            )
        for name in ("added", "checked"):
            if (day := getattr(paper.curation, name)) > today:
                curation = ("papers", index, "curation")
                message = f"curation.{name} {day} lies in the future"
                yield catalogue.document.problem("date-in-future", curation, message, "give the day it was done")
        if not paper.ids.arxiv:
            continue
        year, month = ids.arxiv_month(paper.ids.arxiv)
        late = (paper.date.year - year) * 12 + paper.date.month - month
        if late > 0:
            message = f"date {paper.date} lies after the month of arXiv {paper.ids.arxiv}"
            fix = "give the day of version 1 (or of an earlier posting), or correct the arXiv id"
            yield catalogue.document.problem("date-after-arxiv", place, message, fix)
        if late < -1 and not (paper.ids.openreview or paper.ids.doi or paper.ids.acl):
            message = f"date {paper.date} lies more than a month before arXiv {paper.ids.arxiv}"
            fix = "name the earlier posting in ids (openreview, doi or acl), or correct the date"
            yield catalogue.document.problem("date-before-arxiv", place, message, fix)


def names_are_single(catalogue: Catalogue) -> Iterator[Problem]:
    """No slug, nickname or outside id stands in two entries, and no slug is that of a baseline."""
    seen: dict[str, str] = {}
    for index, paper in catalogue.numbered():
        for key, value in (("id", paper.id), ("nickname", paper.nickname), *paper.ids.given().items()):
            place = ("papers", index, key) if key in ("id", "nickname") else ("papers", index, "ids", key)
            name = f"{key} {value}".casefold()
            if value and name in seen:
                message = f"{key} {value} stands already in entry '{seen[name]}'"
                fix = "merge the two entries into one that has all ids, or correct the wrong one"
                yield catalogue.document.problem("duplicate", place, message, fix)
            if key == "id" and value in RESERVED:
                message = f"id '{value}' is that of a baseline"
                yield catalogue.document.problem("reserved-id", place, message, "choose another slug")
            seen.setdefault(name, paper.id)


def titles_are_single(catalogue: Catalogue) -> Iterator[Problem]:
    """No two entries within a year have nearly the same title."""
    places = {id(paper): index for index, paper in catalogue.numbered()}
    for paper, other in dedupe.twins(catalogue.papers):
        message = f"title nearly equal to that of entry '{other.id}', less than a year apart"
        fix = "if they are one paper (arXiv and OpenReview twins), merge them into one entry"
        yield catalogue.document.problem("duplicate", ("papers", places[id(paper)], "title"), message, fix)


def links_are_clean(catalogue: Catalogue) -> Iterator[Problem]:
    """Links use https, carry no token, tracker or query, and repeat no address that an id gives."""
    for index, paper in catalogue.numbered():
        for kind, link in paper.links.model_dump(exclude_none=True).items():
            for code, message, fix in link_faults(link):
                yield catalogue.document.problem(code, ("papers", index, "links", kind), f"{kind} {message}", fix)
            if kind == "code" and urlsplit(link).hostname in EXPIRING_HOSTS:
                message = f"code link to an anonymous host, which expires: {link}"
                fix = "link the authors' public repository once there is one"
                place = ("papers", index, "links", kind)
                yield catalogue.document.problem("link-expiring", place, message, fix, warning=True)


def link_faults(link: str) -> Iterator[tuple[str, str, str]]:
    """Code, message and fix of everything that clings to a link; secrets are not told on."""
    parts = urlsplit(link)
    host = (parts.hostname or "").removeprefix("www.")
    bare = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    has_token = any(SECRET.fullmatch(name) for name in names)
    has_credentials = bool(parts.username or parts.password)
    shown = bare if has_token or has_credentials else link
    if FORBIDDEN.search(link):
        fix = "write each as % and its two hexadecimal digits, or copy the address anew"
        yield "link-characters", f"link has characters that no address has: {shown}", fix
    if parts.scheme == "http":
        yield "link-http", f"link without encryption: {shown}", f"write https:{shown.removeprefix('http:')}"
    if has_credentials:
        yield "link-token", f"link carries credentials for {host}", "remove them, and revoke them if they are real"
    if host in BUILT_HOSTS:
        yield "link-built", f"link {shown} repeats an id", "put the id under `ids:`; the link is built from it"
    if has_token:
        yield "link-token", f"link to {host} carries a token", f"write {bare} (and revoke the token if it is real)"
    elif any(TRACKER.fullmatch(name) for name in names):
        yield "link-tracker", f"link carries a tracker: {shown}", f"write {bare}"
    elif "?" in link:
        yield "link-query", f"link carries a stray query: {shown}", f"write {bare}"


def text_is_seen(catalogue: Catalogue) -> Iterator[Problem]:
    """No text holds characters that nobody sees: with some, what is shown is not what is written."""
    for index, paper in catalogue.numbered():
        whole = paper.model_dump_json()
        if whole.isprintable() and "\\" not in whole:  # nearly every entry, and much faster than text by text
            continue
        for place, text in _texts(("papers", index), paper.model_dump(exclude_none=True)):
            if name := invisible.named(text):
                message, fix = f"{place[-1]} holds the invisible character {name}", "type the text anew without it"
                yield catalogue.document.problem("invisible", place, message, fix)


def _texts(place: tuple[str | int, ...], value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every text below a place, and where it stands."""
    if isinstance(value, str):
        yield place, value
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, part in parts:
        yield from _texts((*place, key), part)


def claims_are_single(catalogue: Catalogue) -> Iterator[Problem]:
    """Within an entry each claim has an id of its own."""
    for index, paper in catalogue.numbered():
        names = [claim.id for claim in paper.claims]
        for position, name in enumerate(names):
            if name in names[:position]:
                place = ("papers", index, "claims", position)
                yield catalogue.document.problem(
                    "duplicate-claim", place, f"claim {name} twice", "number claims C1, C2, …"
                )


def guesses_are_marked(catalogue: Catalogue) -> Iterator[Problem]:
    """A warning for every entry that names keys as guesses."""
    for index, paper in catalogue.numbered():
        if paper.unsure:
            first = next((str(ids.PaperId(kind, value)) for kind, value in paper.ids.given().items()), paper.id)
            message = f"not looked up yet: {', '.join(paper.unsure)}"
            filled = f"`hft add {first}` with a network fills in the title; " if "title" in paper.unsure else ""
            fix = f"{filled}correct {'the rest' if filled else 'what is wrong'} and remove `unsure:`"
            yield catalogue.document.problem("unsure", ("papers", index, "unsure"), message, fix, warning=True)


RULES: tuple[Callable[[Catalogue], Iterator[Problem]], ...] = (
    stage_fits_type,
    tags_are_known,
    venues_are_normal,
    dates_fit,
    names_are_single,
    titles_are_single,
    links_are_clean,
    text_is_seen,
    claims_are_single,
    guesses_are_marked,
)
