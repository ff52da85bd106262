"""Numbers and conditions in words: the one place that decides how they are printed."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup

from catalog.conditions import DECLARED, DEFAULT
from catalog.measured import Cell, Failure
from catalog.meta.effects import Estimate

METRICS = {
    "harmful": "Harmful score",
    "accuracy": "Fine-tune accuracy",
    "harmful_plus": "Harmful or incoherent",
    "refusal": "Refusal",
    "over_refusal": "Over-refusal",
    "benign_help": "Benign help",
}
COSTS = {"passes": "Passes", "seconds": "Seconds", "memory": "Memory"}
MODES = {"full": "full fine-tuning", "single-lora": "one adapter", "double-lora": "fresh adapter"}
STAGES = ("pre-training", "alignment", "fine-tuning", "post-fine-tuning")
TYPES = {
    "attack": "Attacks",
    "defense": "Defenses",
    "mechanism": "Mechanisms",
    "benchmark": "Benchmarks",
    "survey": "Surveys",
}


def percent(estimate: Estimate) -> tuple[str, str, str]:
    """A proportion as percent, its interval, and (prompts × seeds)."""
    value, low, high = (_plain(100 * part, 0) for part in (estimate.value, estimate.low, estimate.high))
    return value, f"[{low}, {high}]", counted(estimate)


def points(estimate: Estimate, unit: str = "") -> tuple[str, str, str]:
    """A difference of proportions in points (or a relative one in percent), always signed."""
    value, low, high = (_signed(100 * part, 1) for part in (estimate.value, estimate.low, estimate.high))
    interval = "[no interval]" if math.isnan(estimate.low) else f"[{low}, {high}]"
    return value + unit, interval, counted(estimate)


def number(estimate: Estimate) -> tuple[str, str, str]:
    """A quantity in its own unit, to three digits of the value."""
    largest = max(abs(part) for part in (estimate.value, estimate.high) if not math.isnan(part))
    digits = 2 - math.floor(math.log10(largest)) if largest else 2
    value, low, high = (_plain(part, digits) for part in (estimate.value, estimate.low, estimate.high))
    interval = "[no interval]" if math.isnan(estimate.low) else f"[{low}, {high}]"
    return value, interval, counted(estimate)


def line(parts: tuple[str, str, str]) -> str:
    """The printed form in one line: `48 [41, 55] (300 × 5)`."""
    return " ".join(parts)


def counted(estimate: Estimate) -> str:
    """How much was measured: prompts × seeds, or seeds alone."""
    if estimate.prompts:
        return f"({estimate.prompts} × {estimate.seeds})"
    return f"({estimate.seeds} seed{'s' if estimate.seeds != 1 else ''})"


def scenario(cell: Cell) -> str:
    """The condition of a cell without its dose, in words."""
    condition, attack = cell.condition, dict(cell.attack)
    paper, strength, steps = attack.pop("paper"), attack.pop("strength", None), attack.pop("dose", 1)
    mode, task, samples = (condition.get(name) for name in ("mode", "task", "n"))
    if paper == "poison":
        name = f"{strength} attack".capitalize()
    else:
        name = "The paper's own attack" if paper == cell.paper else f"Attack {paper} ({settings(attack)})"
    adapter = "adapter on the fully aligned model" if (strength, mode) == ("strong", "full") else None
    parts = [name, f"{_plain(float(steps), 1)} × the steps" if steps != 1 else None]
    parts += [adapter or MODES.get(str(mode), str(mode)), f"task {task}" if task else None]
    parts += [f"{samples} samples" if samples and paper == "poison" else None]
    return ", ".join(part for part in parts if part)


def dose(cell: Cell) -> str:
    """The part of the condition that is swept: the harmful share, or what the attack's own arms vary."""
    share = None if cell.ratio is None else f"{_plain(100 * cell.ratio, 1)} % harmful data"
    samples = cell.condition.get("n") if cell.attack.get("paper") == cell.paper else None
    parts = [share, f"{samples} samples" if samples else None]
    return ", ".join(part for part in parts if part) or "After the attack"


def settings(values: Mapping[str, Any]) -> str:
    """Hyper-parameters as `rho = 2.0, steps = 10`; of a combination, those of each part."""
    if "parts" in values:
        parts = [(part["paper"], {key: part[key] for key in part if key != "paper"}) for part in values["parts"]]
        return "; ".join(f"{paper}: {settings(own)}" for paper, own in parts if own)
    return ", ".join(f"{name} = {value}" for name, value in sorted(values.items()))


def condition(name: str) -> str:
    """What a declared condition is, as far as it departs from the default one."""
    declared, usual = DECLARED[name], DECLARED[DEFAULT]
    attack = declared.attack
    parts = [f"{attack['strength']} attack"] if attack["strength"] != usual.attack["strength"] else []
    parts += [f"{_plain(float(attack['dose']), 1)} × the steps"] if attack["dose"] != usual.attack["dose"] else []
    parts += [f"{_plain(100 * declared.ratio, 1)} % harmful data"] if declared.ratio != usual.ratio else []
    parts += [MODES[declared.mode]] if declared.mode != usual.mode else []
    whole = f"{attack['strength']} attack, {_plain(100 * declared.ratio, 1)} % harmful data, {MODES[declared.mode]}"
    return ", ".join(parts) or whole


def times(estimate: Estimate) -> tuple[str, str, str]:
    """A cost as a multiple of that of SFT."""
    value, low, high = (_plain(part, 2) for part in (estimate.value, estimate.low, estimate.high))
    interval = "[no interval]" if math.isnan(estimate.low) else f"[{low}, {high}]"
    return f"{value} ×", interval, counted(estimate)


def reasons(failures: Iterable[Failure]) -> str:
    """Why runs gave no numbers."""
    return "; ".join(f"{failure.status}: {failure.reason}" for failure in failures)


def slug(text: str) -> str:
    """A file name made of the words of a text."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def markdown(text: object) -> Markup:
    """Text that shows as itself in Markdown and in HTML."""
    plain = str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return Markup(re.sub(r"([\\`*_\[\]|~#])", r"\\\1", plain))


def many(count: int, noun: str, plural: str = "") -> str:
    """A count with its noun: 1 paper, 2 papers."""
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


def _plain(value: float, digits: int) -> str:
    """Rounded, with a real minus sign, and neither a lone .0 nor a minus zero."""
    text = f"{round(value, digits) + 0.0:,.{max(digits, 0)}f}"
    return text.replace("-", "−").removesuffix(".0").replace(",", " ")


def _signed(value: float, digits: int) -> str:
    text = f"{round(value, digits) + 0.0:+.{digits}f}"
    return "0.0" if float(text) == 0 else text.replace("-", "−")
