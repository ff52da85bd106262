"""Lists of papers in Markdown: `* [2024/2/2] **Title** *venue* [[paper](address)] [[code](address)]` below headings."""

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from catalog import venues
from catalog.importers import addresses, days, interpreting
from catalog.importers.markdown import Block, Piece, blocks
from catalog.importers.reading import Reading, Reference
from catalog.importers.sections import Section

DATE = re.compile(rf"[\[(【]\s*({days.NUMERIC})\s*[\])】]")
URL = re.compile(r"(?:https?://|www\.)[^\s<>\])\"'|]+")
TITLE_WORDS = 3
"""A text of fewer words beside a paper is a label (`New!`, `Oral`) and no title."""


@dataclass
class Draft:
    """What has been gathered of one paper of an item."""

    line: int
    title: str = ""
    date: str = ""
    emphasised: list[str] = field(default_factory=list)
    loose: str = ""
    links: list[tuple[str, str]] = field(default_factory=list)


def read(text: str, reading: Reading, today: datetime.date) -> None:
    """Add to the reading every paper of the list, and a problem for every item below a heading that is none."""
    sections: dict[int, Section] = {0: Section()}
    for block in blocks(text):
        if block.level:
            above = sections[max(level for level in sections if level < block.level)]
            sections = {level: each for level, each in sections.items() if level < block.level}
            sections[block.level] = above.under(block.text)
        else:
            _item(block, sections[max(sections)], reading, today)


def _item(item: Block, section: Section, reading: Reading, today: datetime.date) -> None:
    if section.other or (item.is_prose and not _is_dated(item)):
        return
    details = [child for child in item.children if not _has_paper(child) and _has_paper(item)]
    rest = [child for child in item.children if child not in details]
    if rest and not _has_paper(item):  # a bullet that is a heading
        for child in rest:
            _item(child, section.under(item.text), reading, today)
        return
    drafts = list(_drafts([*item.pieces, *(piece for detail in details for piece in (_BREAK, *detail.pieces))]))
    if len(drafts) > 1:
        message = f"{len(drafts)} papers in one item; each is read on its own"
        reading.complain(item.line, "merged-lines", message, "give each paper a line of its own", warning=True)
    for draft in drafts:
        _take(draft, section, reading, today)
    for child in rest:
        _item(child, section, reading, today)


_BREAK = Piece("\n", 0)


def _has_paper(item: Block) -> bool:
    """Whether an item names a paper itself: by a date, a bold title, or an address of a paper."""
    pieces = item.pieces
    if _is_dated(item):
        return True
    addressed = [piece for piece in pieces if piece.href and not piece.href.startswith("#")]
    if any(piece.strong and _is_title(piece.text) for piece in pieces):
        return bool(addressed) or not any(_has_paper(child) for child in item.children)
    return any(_is_title(piece.text) and _is_paper(piece.href) for piece in addressed)


def _is_dated(item: Block) -> bool:
    return any(DATE.search(piece.text) for piece in item.pieces if piece.href is None)


def _is_title(text: str) -> bool:
    return len(re.findall(r"\w{2,}", text)) >= TITLE_WORDS


def _is_paper(href: str | None) -> bool:
    address = addresses.read("", href) if href else None
    return address is not None and address.id is not None


def _drafts(pieces: list[Piece]) -> Iterator[Draft]:
    """The papers of an item: a date or a bold title after the links of one begins the next."""
    draft = Draft(pieces[0].line if pieces else 0)
    in_title = False
    for piece in pieces:
        if piece.strong and not re.fullmatch(r"\W*", piece.text) and (in_title or _is_title(piece.text)):
            if not in_title and draft.title and draft.links:
                yield draft
                draft = Draft(piece.line)
            if in_title or not draft.title:
                draft.title += piece.text
                in_title = True
            if piece.href:
                draft.links.append(("paper", piece.href))
            continue
        in_title = in_title and piece.strong
        if piece.href is not None:
            draft.links.append((piece.text.strip("[] "), piece.href))
        elif piece.em:
            draft.emphasised.append(piece.text)
        else:
            before, *later = _at_dates(piece.text)
            _loose(draft, before)
            for date, text in later:
                is_aside = piece.text[: piece.text.find(date)].rstrip().endswith("(")
                if (draft.links or (draft.title and draft.date)) and not is_aside:
                    yield draft
                    draft = Draft(piece.line + piece.text.count("\n", 0, piece.text.find(date)))
                draft.date = draft.date or date
                draft.line = draft.line or piece.line
                _loose(draft, ("", text))
    yield draft


def _at_dates(text: str) -> list[tuple[str, str]]:
    """The text before the first date, then each date with the text after it."""
    parts = DATE.split(text)
    return [("", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]


def _loose(draft: Draft, part: tuple[str, str]) -> None:
    """Plain text of an item: addresses in it become links, the rest is kept."""
    text = part[1]
    draft.links += [("", url) for url in URL.findall(text)]
    draft.loose += URL.sub(" ", text)


def _take(draft: Draft, section: Section, reading: Reading, today: datetime.date) -> None:
    links = [(label, href) for label, href in draft.links if not href.startswith(("#", "mailto:"))]
    if not draft.title and (links or draft.date):
        _untitled(draft, links)
    if not draft.title and not any(_is_paper(href) for _, href in links) and not draft.date:
        if section.type and (draft.loose.strip() or links):
            message = f"no paper in '{' '.join((draft.loose or links[0][0]).split())[:60]}'"
            fix = "write it as `* [2024/2/2] **Title** *venue* [[paper](address)]`, or move it to another section"
            reading.complain(draft.line, "not-understood", message, fix)
        return
    if dated := re.match(rf"\W*({days.NUMERIC})\W+", draft.title):
        draft.date, draft.title = draft.date or dated[1], draft.title[dated.end() :]
    authors, venue = _apart(draft)
    interpreting.take(
        Reference(
            line=draft.line,
            title=draft.title,
            authors=authors,
            date=draft.date,
            venue=venue,
            addresses=links,
            type=section.type,
            stage=section.stage,
            tags=list(section.tags),
        ),
        reading,
        today,
    )


def _untitled(draft: Draft, links: list[tuple[str, str]]) -> None:
    """Find a title that is not bold: the label of the first address, an emphasis, or what stands before them."""
    labelled = next((label for label, href in links if _is_title(label) and addresses.read("", href)), "")
    plain = re.split(r"[\[\]|]|\s-\s", draft.loose.strip(" -:|\n"))[0].strip(' *_"“”\n')
    slanted = next((text for text in draft.emphasised if _is_title(text) and not _is_venue(text)), "")
    draft.title = labelled or (plain if _is_title(plain) else "") or slanted
    draft.emphasised = [text for text in draft.emphasised if text != draft.title]


def _is_venue(text: str) -> bool:
    return venues.normalise(text, datetime.date(2000, 1, 1)) is not None


def _apart(draft: Draft) -> tuple[list[str], str]:
    """Authors and venue among the emphasised and the plain text: a venue is one that is known."""
    told = [text.strip(" .,()[]*") for text in draft.emphasised]
    plain = [part.strip(" .,()*\n-") for part in re.split(r"[\[\]|\n]|,\s(?=[A-Z]{2,})", draft.loose)]
    venue = next((text for text in (*told, *plain) if text and _is_venue(text)), "")
    people = next((text for text in told if text != venue and _is_people(text)), "")
    if not venue:
        venue = next((text for text in told if text and text != people), "")
    return [name for name in re.split(r",\s*(?:and\s+)?|;\s*|\s+and\s+|\s*&\s*", people) if name], venue


def _is_people(text: str) -> bool:
    names = re.split(r",\s*(?:and\s+)?|;\s*|\s+and\s+", text)
    shape = r"(et al\.?|([^\W\d_][\w.'’-]*\s+){1,3}[^\W\d_][\w'’-]+)"
    return len(names) > 1 and all(re.fullmatch(shape, name.strip()) for name in names if name.strip())
