"""Markdown as pieces of text that know their emphasis, their link and their line, by list item and heading."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from markdown_it import MarkdownIt
from markdown_it.token import Token


@dataclass(frozen=True)
class Piece:
    """Text of one look; `href` is where it links to."""

    text: str
    line: int
    strong: bool = False
    em: bool = False
    href: str | None = None


@dataclass
class Block:
    """A heading, or an item with the items below it; a paragraph or table row outside lists is an item too."""

    line: int
    pieces: list[Piece] = field(default_factory=list)
    children: list["Block"] = field(default_factory=list)
    level: int = 0
    """1 to 6 for a heading, 0 for an item."""
    is_prose: bool = False
    """Whether it is a paragraph that stands in no list."""

    @property
    def text(self) -> str:
        """All that is written, without its look."""
        return " ".join("".join(piece.text for piece in self.pieces).split())


def blocks(text: str) -> Iterator[Block]:
    """Headings and outermost items in order; code, HTML and pictures are left out."""
    open_items: list[Block] = []
    heading = columns = 0
    names: list[str] = []
    row = Block(0)
    in_head = False
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        line = token.map[0] + 1 if token.map else 0
        match token.type:
            case "heading_open":
                heading = int(token.tag[1])
            case "heading_close":
                heading = 0
            case "list_item_open":
                open_items.append(Block(line))
            case "list_item_close":
                done = open_items.pop()
                if open_items:
                    open_items[-1].children.append(done)
                else:
                    yield done
            case "thead_open" | "thead_close":
                in_head = token.type == "thead_open"
                names = [] if in_head else names
            case "tr_open":
                row, columns = Block(line), 0
            case "tr_close" if not in_head:
                yield row
            case "th_open" | "td_open":
                columns += 1
            case "inline":
                found = list(_pieces(token, line))
                if heading:
                    yield Block(line, found, level=heading)
                elif open_items:
                    open_items[-1].pieces += [Piece("\n", line), *found] if open_items[-1].pieces else found
                elif in_head:
                    names.append(token.content.strip().casefold())
                elif columns:
                    name = names[columns - 1] if columns <= len(names) else ""
                    row.line = row.line or line
                    row.pieces += [Piece("\n", line), *_cell(found, name)]
                else:
                    yield Block(line, found, is_prose=True)
            case "table_close":
                columns = 0


def _cell(found: list[Piece], column: str) -> Iterator[Piece]:
    """The pieces of a table cell as they would look in a list: titles bold, venues in italics, dates in brackets."""
    for piece in found:
        if piece.href is None and "date" in column:
            yield replace(piece, text=f"({piece.text.strip('[]() ')})")
        else:
            is_title, is_venue = "title" in column or column == "paper", "venue" in column or column == "conference"
            yield replace(piece, strong=piece.strong or is_title, em=piece.em or (is_venue and piece.href is None))


def _pieces(inline: Token, line: int) -> Iterator[Piece]:
    strong = em = 0
    href: str | None = None
    pending = Piece("", line)
    for token in inline.children or []:
        content = ""
        match token.type:
            case "softbreak" | "hardbreak":
                line, content = line + 1, "\n"
            case "strong_open" | "strong_close":
                strong += token.nesting
            case "em_open" | "em_close":
                em += token.nesting
            case "link_open" | "link_close":
                href = str(token.attrs["href"]) if token.nesting > 0 else None
            case "text" | "code_inline":
                content = token.content
            case _:
                continue
        if content:
            piece = Piece(content, line, strong > 0, em > 0 and not strong, href)
            if (pending.strong, pending.em, pending.href) == (piece.strong, piece.em, piece.href):
                pending = replace(pending, text=pending.text + content)
            else:
                if pending.text:
                    yield pending
                pending = piece
    if pending.text:
        yield pending
