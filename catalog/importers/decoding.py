"""Bytes of a file as text: UTF-8 or what is left of it, with one kind of line end."""

import codecs

import ftfy

from catalog.importers.reading import Reading
from catalog.problems import Problem, RefusedError


def decode(data: bytes, reading: Reading) -> str:
    """The text with line ends as newlines; lines in Windows-1252, and UTF-8 once read as that, are mended.

    RefusedError when the file is no text.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16", errors="replace").encode()
    if b"\0" in data:
        fix = "save it as UTF-8 text"
        raise RefusedError([Problem("not-text", f"{reading.name}:1", "", "the file is binary", fix)])
    data = data.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return "\n".join(_line(line, number, reading) for number, line in enumerate(data.split(b"\n"), 1))


def _line(data: bytes, number: int, reading: Reading) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
        message = "bytes that are not UTF-8, read as Windows-1252"
        reading.complain(number, "encoding", message, "save the file as UTF-8", warning=True)
    mended = text if text.isascii() else ftfy.fix_encoding(text)
    if mended != text:
        broken = next(word for word in text.split() if word not in mended.split())
        message = f"'{broken}' is UTF-8 that was read in another encoding; mended"
        reading.complain(number, "mojibake", message, "compare the entry with the paper", warning=True)
    return mended
