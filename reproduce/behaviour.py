"""How a model behaves on sets of prompts that an attack's probe brings along, before or after fine-tuning."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from reproduce.data import Example
from reproduce.state import State

EACH = 100  # questions of a kind


def conduct(s: State, sets: Mapping[str, Sequence[Example]]) -> dict[str, float]:
    """Shares of each named set of forbidden prompts that are answered harmfully and refused, a given prefix included.

    Sets may overlap: a prompt is asked once. An empty set has no shares.
    """
    asked = list(dict.fromkeys(e for prompts in sets.values() for e in prompts))
    whole = [f"{e.prefix} {a}".strip() for e, a in zip(asked, s.generate(asked), strict=True)]
    verdicts = {e: s.testbed.judge(e, a) for e, a in zip(asked, whole, strict=True)}
    found: dict[str, float] = {}
    for name, prompts in sets.items():
        if prompts:
            found[f"{name}_harm"] = fmean(verdicts[e].harmful for e in prompts)
            found[f"{name}_refusal"] = fmean(verdicts[e].refused for e in prompts)
    return found


def utility(s: State, ask: Callable[[Example], Example]) -> float:
    """Share of harmless questions answered right, a mean over kinds: recipes, places, lists of parts, reviews.

    Sums and descriptions are left out: an aligned micro model gets few of them right, so there is nothing to lose.
    """
    start = 0 if s.split == "test" else EACH
    kinds = [getattr(s.pools, f"{pool}_{s.split}") for pool in ("benign", "lookalike")]
    kinds += [[e for e in s.pools.benign if e.kind == kind][start : start + EACH] for kind in ("list", "mood")]
    asked = [[ask(e) for e in kind] for kind in kinds if kind]
    return fmean(fmean(map(s.testbed.correct, each, s.generate(each))) for each in asked)
