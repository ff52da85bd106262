"""Activation patching: a run that goes on (the destination) with activations from another one (the source)."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from reproduce.data import Example
from reproduce.lens import Contrast, last_prompt_token
from reproduce.state import Batch, Site, State

SITES: tuple[Site, ...] = get_args(Site)
GROUPS = ("instruction", "template", "last")
LEAST_GAP = 1.0  # logits between aligned and attacked, below which a recovered fraction means nothing

Cache = dict[Site, list[Tensor]]


@dataclass(frozen=True)
class Run:
    """Prompts as one model reads them: the batch, where its groups of positions are, and who reads."""

    s: State
    batch: Batch
    groups: dict[str, Tensor]

    @torch.no_grad()
    def cache(self) -> Cache:
        """All activations of a plain pass, to be a source."""
        with self.s.read("attention") as a, self.s.read("mlp") as m, self.s.read("layer") as x, self.s.uncounted():
            self.s.logits(self.batch)
        return {"attention": a, "mlp": m, "layer": x}

    @torch.no_grad()
    def signal(self, contrast: Contrast) -> Tensor:
        """The logit difference at the last prompt token of every prompt, through this model's own head."""
        with self.s.uncounted():
            return contrast.of(last_prompt_token(self.s.logits(self.batch), self.batch).double())

    def patched(
        self, source: Cache, parts: Sequence[tuple[Site, Sequence[int]]], group: str, contrast: Contrast
    ) -> Tensor:
        """The signal when some sites, each in some 0-based layers, are the source's at a group of positions."""
        with ExitStack() as patches:
            for site, layers in parts:
                values = [value if i in layers else None for i, value in enumerate(source[site])]
                patches.enter_context(self.s.patch(site, values, self.groups[group]))
            return self.signal(contrast)

    def sweep(self, source: Cache, contrast: Contrast) -> dict[str, list[Tensor]]:
        """The signal under every single patch: by site and group of positions, one value a layer."""
        layers = range(len(source["layer"]))
        return {f"{site}, {group}": [self.patched(source, [(site, [i])], group, contrast) for i in layers]
                for site in SITES for group in GROUPS}  # fmt: skip


def read_by(s: State, asked: Sequence[Example], instructions: Sequence[str]) -> Run:
    """A run over `asked`, in each of which the instruction is the last occurrence of its text."""
    batch = s.batch([replace(e, answer="") for e in asked])
    groups = {name: torch.zeros_like(batch.real) for name in GROUPS}
    for i, (example, instruction) in enumerate(zip(asked, instructions, strict=True)):
        text = s.testbed.render(example)
        start = text.rindex(instruction)
        encoded = s.testbed.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        for j, (left, right) in enumerate(encoded["offset_mapping"]):
            inside = left < start + len(instruction) and right > start
            groups["instruction" if inside else "template"][i, j] = True
    last = batch.prompt.sum(1) - 1
    groups["last"][torch.arange(len(last)), last] = True
    for name in ("instruction", "template"):
        groups[name] &= ~groups["last"]
    return Run(s, batch, groups)


def length_matched(s: State, one: Sequence[Example], other: Sequence[Example], count: int) -> list[tuple[int, int]]:
    """Pairs of indices of prompts with equally many tokens, as many of them equal in place as can be; nothing twice."""
    rows, others = ([s.batch([replace(e, answer="")]).ids[0].tolist() for e in group] for group in (one, other))
    free, pairs = set(range(len(others))), list[tuple[int, int]]()
    for i, row in enumerate(rows):
        alike = {j: sum(a == b for a, b in zip(row, others[j], strict=True))
                 for j in sorted(free) if len(others[j]) == len(row)}  # fmt: skip
        if alike and len(pairs) < count:
            best = max(alike, key=lambda j: alike[j])
            free.remove(best)
            pairs.append((i, best))
    return pairs


def recovered(patched: Tensor, attacked: Tensor, aligned: Tensor) -> float | None:
    """Mean share of the lost signal that a patch brings back, over prompts that lost at least one logit; None: none.

    0 is no repair, 1 the aligned model's signal, below 0 worse than unpatched.
    """
    lost = aligned - attacked
    kept = lost >= LEAST_GAP
    return float(((patched - attacked)[kept] / lost[kept]).mean()) if bool(kept.any()) else None
