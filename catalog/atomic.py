"""Write a file, or several together, whole or not at all."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path


def write(path: Path, data: bytes) -> None:
    """Replace the file in one step: a reader, or a crash, finds the old bytes or the new ones; its mode stays."""
    path = path.resolve()
    staged = stage(path, data)
    try:
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


def stage(path: Path, data: bytes) -> Path:
    """Write the bytes to a temporary file beside `path`, with its mode, ready to take its place."""
    path = path.resolve()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~umask)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def replace_all(staged: Mapping[Path, Path]) -> None:
    """Put each staged file in its place; when one cannot be, all places get their old bytes back."""
    before = {place: place.read_bytes() if place.is_file() else None for place in staged}
    done: list[Path] = []
    try:
        for place, new in staged.items():
            new.replace(place.resolve())
            done.append(place)
    except BaseException:
        for place in done:
            if (old := before[place]) is None:
                place.unlink(missing_ok=True)
            else:
                write(place, old)
        raise
