"""Testbeds: a model, disjoint data pools, judges and templates behind one interface."""

from functools import cache
from pathlib import Path
from typing import Any

from reproduce.protocol import HUB, MICRO, Protocol, RequestError


def protocol_of(name: str) -> Protocol:
    """The frozen protocol of a testbed by name. Raises RequestError for an unknown one. Torch-free."""
    if name == "micro":
        return MICRO
    if name.startswith("hub:"):
        return HUB
    raise RequestError(f"unknown testbed {name!r}: there are micro and hub:PATH (a folder with a Hugging Face model)")


@cache
def testbed(name: str) -> Any:
    """The testbed itself, one per process. Imports torch."""
    protocol_of(name)
    if name == "micro":
        from reproduce.testbeds.micro import Micro

        return Micro()
    from reproduce.testbeds.hub import Hub

    return Hub(Path(name.removeprefix("hub:")).expanduser())
