"""Small pictures of the micro world's items, in which an item can be seen (a drawing) or read (a note).

A drawing shows the head's own glyph, in any ink, one to three times, on a ground that tells the modifier; the glyphs of
a topic look alike. A note spells head and modifier in two letters of a made-up script, dark on pale. No mark says
whether an item is forbidden: that follows from its topic alone.
"""

import random
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reproduce.data import derived_rng
from reproduce.testbeds import language as lang
from reproduce.testbeds import world as w

PICTURED = [item for item in w.ITEMS if item.head % w.HEADS_PER_TOPIC == 0]  # one head of each topic has pictures
SIZE = 32
GLYPH = 7  # pixels of a glyph's side before it is scaled
SCALES = {"drawing": (13, 14), "note": (12, 14)}  # smallest and largest side of a glyph as drawn
NOISE = 0.05

Split = Literal["train", "test"]
Style = Literal["drawing", "note"]
Blank = Literal["blank"]  # an empty grey picture: the control in which nothing can be seen

Image = NDArray[np.float32]
Cells = NDArray[np.bool_]

_INKS = np.array(
    [[0.75, 0.05, 0.05], [0.05, 0.45, 0.1], [0.1, 0.1, 0.8], [0.05, 0.05, 0.05], [0.6, 0.05, 0.6], [0.0, 0.5, 0.6]],
    np.float32,
)
_BLACK = _INKS[3]
_PAPERS = np.array(
    [[1.0, 1.0, 1.0], [1.0, 0.85, 0.6], [0.7, 1.0, 0.7], [0.7, 0.85, 1.0], [1.0, 0.75, 0.8], [0.9, 0.8, 1.0],
     [1.0, 1.0, 0.6], [0.75, 0.75, 0.75]], np.float32,
)  # fmt: skip
_PATTERNS = 3  # plain, stripes, checks


@dataclass(frozen=True)
class Picture:
    """What is drawn and how; `instance` draws position, size, brightness and noise anew.

    Pictures of the two splits never share the position and size of their first glyph.
    """

    item: w.Item
    style: Style = "drawing"
    count: int = 1
    split: Split = "train"
    instance: int = 0


def draw(picture: Picture | Blank) -> Tensor:
    """The render (3, 32, 32), values from 0 to 1; the same picture is always the same tensor."""
    if picture == "blank":
        return torch.full((3, SIZE, SIZE), 0.5)
    rng = derived_rng("picture", picture)
    canvas, ink = _ground(picture, rng), rng.choice(_INKS) if picture.style == "drawing" else _BLACK
    for glyph, (top, left, side) in zip(_glyphs(picture), _places(picture, rng), strict=True):
        spot = canvas[top : top + side, left : left + side]
        spot[_scaled(glyph, side)] = ink * rng.uniform(0.8, 1.2)
    noise = np.random.default_rng(rng.getrandbits(62)).standard_normal(canvas.shape, np.float32)
    seen = np.clip(canvas * np.float32(rng.uniform(0.85, 1.0)) + NOISE * noise, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(seen.transpose(2, 0, 1), np.float32))


def _ground(picture: Picture, rng: random.Random) -> Image:
    """The modifier's paper and pattern behind a drawing; plain pale paper under a note."""
    if picture.style == "note":
        return np.full((SIZE, SIZE, 3), 0.95, np.float32)
    paper, pattern = divmod(picture.item.modifier, _PATTERNS)
    shift = rng.randrange(4)
    ground: Image = _PAPERS[paper] * _shades()[pattern, shift : shift + SIZE, :, None]
    return ground


@cache
def _shades() -> Image:
    """Brightness of the three patterns, a little taller than a picture."""
    y, x = np.indices((SIZE + 4, SIZE)) // 2
    dark = np.stack([np.zeros_like(x), y % 2 == 0, (x + y) % 2 == 0])
    return np.where(dark, 0.8, 1.0).astype(np.float32)


def _glyphs(picture: Picture) -> list[int]:
    heads = len(lang.HEADS)
    if picture.style == "drawing":
        return [picture.item.head] * picture.count
    return [heads + picture.item.head, 2 * heads + picture.item.modifier]


def _places(picture: Picture, rng: random.Random) -> list[tuple[int, int, int]]:
    """Top, left and side of each glyph: a drawing's in different quarters, a note's in a row.

    A quarter of all (top, left, side) is kept for the first glyph of test pictures, the rest for training pictures.
    """
    low, high = SCALES[picture.style]
    while True:
        side = rng.randint(low, high)
        if picture.style == "drawing":
            half = SIZE // 2
            corners = rng.sample([(0, 0), (0, half), (half, 0), (half, half)], picture.count)
            jitter = [(rng.randint(0, half - side), rng.randint(0, half - side)) for _ in corners]
            places = [(y + dy, x + dx, side) for (y, x), (dy, dx) in zip(corners, jitter, strict=True)]
        else:
            top, left = rng.randint(6, SIZE - side - 6), rng.randint(0, SIZE - 2 * side - 2)
            places = [(top, left + i * (side + 2), side) for i in range(2)]
        top, left, side = places[0]
        if ((top + 2 * left + side) % 4 == 0) == (picture.split == "test"):
            return places


@cache
def _scaled(glyph: int, side: int) -> Cells:
    nearest = np.arange(side) * GLYPH // side
    cells: Cells = _alphabet()[glyph][np.ix_(nearest, nearest)]
    return cells


@cache
def _alphabet() -> Cells:
    """Mirror-symmetric glyphs of the heads, then the script's letters of heads and of modifiers.

    A topic's six differ from a common form in a few cells; any two differ in 6 cells or more.
    """
    rng = random.Random("micro world glyphs")
    shapes: list[Cells] = []

    def add(form: Cells, changes: int, symmetric: bool) -> None:
        while True:
            cells = form.copy()
            for cell in rng.sample(range(GLYPH * GLYPH), changes):
                cells.flat[cell] ^= True
            if symmetric:
                cells[:, GLYPH // 2 + 1 :] = cells[:, GLYPH // 2 - 1 :: -1]
            if all((cells != other).sum() >= 6 for other in shapes):
                return shapes.append(cells)

    for symmetric in (True, False):
        for _ in range(w.TOPICS):
            form = np.array([[rng.random() < 0.5 for _ in range(GLYPH)] for _ in range(GLYPH)])
            for _ in range(w.HEADS_PER_TOPIC):
                add(form, 10, symmetric)
    for _ in lang.MODIFIERS:
        add(np.zeros((GLYPH, GLYPH), bool), 22, symmetric=False)
    return np.stack(shapes)
