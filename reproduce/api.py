"""What a paper module implements: a Method (defense), an Attack or a Study.

A module is one frozen dataclass. Its fields are the paper's hyper-parameters, its overridden hooks the paper's idea;
depth of inheritance is one. A step hook only leaves gradients in `.grad` and returns the loss to log.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from reproduce.data import Example, Pools, derived_rng
from reproduce.protocol import Lora, Protocol, RequestError, Schedule

if TYPE_CHECKING:
    from reproduce.lab import Lab
    from reproduce.stages import Stages
    from reproduce.state import Batch, State


class Stage(StrEnum):
    """Where a defense acts (survey taxonomy)."""

    ALIGNMENT = "alignment"
    FINE_TUNING = "fine-tuning"
    POST_FINE_TUNING = "post-fine-tuning"


class Threat(StrEnum):
    """Who owns the fine-tuning loop: the provider (attacker only supplies data), or the attacker."""

    SERVICE = "service"
    WEIGHTS = "weights"


def sft_step(s: "State", batch: "Batch") -> float:
    """Supervised fine-tuning: cross-entropy on answer tokens."""
    loss = s.loss(batch)
    s.backward(loss)
    return float(loss.detach())


class _Module:
    """What all three kinds share: a paper, a version to bump when the meaning changes, and named arms."""

    paper: ClassVar[str]
    version: ClassVar[int] = 1

    def arms(self) -> dict[str, Self]:
        """Configurations that run by default: "main" first, then the paper's ablations and the controls it owes."""
        return {"main": self}

    def configuration(self) -> dict[str, Any]:
        """The paper and the fields, as they stand in a record's spec."""
        return {"paper": self.paper, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True, kw_only=True)
class Method(_Module):
    """A defense; with no hook overridden it is undefended supervised fine-tuning."""

    stage: ClassVar[Stage | None] = None
    aligned: ClassVar[bool] = True  # False: the base model goes to fine-tuning as it is
    knob: ClassVar[str] = ""  # the field that is swept, and on validation prompts tuned
    values: ClassVar[tuple[float, ...]] = ()  # its values, the default among them

    def sweep(self) -> dict[str, Self]:
        """The method at every value of its knob; at the default it is the main arm."""
        at = {value: replace(self, **{self.knob: value}) for value in self.values}
        return {"main" if m == self else f"{self.knob}={value:g}": m for value, m in at.items()}

    @property
    def betas(self) -> tuple[float, float]:
        """AdamW's moment decay rates in user fine-tuning."""
        return (0.9, 0.999)

    def aligner(self) -> "Method | None":
        """The method that aligns the model in phase 2; None: plain supervised fine-tuning does."""
        return self if self.stage is Stage.ALIGNMENT else None

    def curate(self, pools: Pools, user: Sequence[Example]) -> Sequence[Example]:
        """Choose or extend the user's data before fine-tuning."""
        del pools
        return user

    def start(self, s: "State") -> None:
        """Prepare `s.memo` and streams; called before its own alignment and before fine-tuning (see `s.stage`)."""

    def align_step(self, s: "State", batch: "Batch") -> float:
        """One step of alignment phase 2."""
        return sft_step(s, batch)

    def finetune_step(self, s: "State", batch: "Batch") -> float:
        """One step of user fine-tuning, where the defender owns the loop."""
        return sft_step(s, batch)

    def after_step(self, s: "State") -> None:
        """After each optimiser step of user fine-tuning."""

    def repair(self, s: "State") -> None:
        """Change the fine-tuned weights, adapter still attached."""

    def answer(self, s: "State", prompts: Sequence[Example]) -> list[str]:
        """Answer evaluation prompts."""
        return s.generate(prompts)

    def skip(self, attack: "Attack", adapter: bool) -> str | None:
        """Why this method does not apply here, or None; `adapter` says whether fine-tuning trains one."""
        del adapter
        owns_loop = attack.threat is Threat.SERVICE
        late = self.stage in (Stage.FINE_TUNING, Stage.POST_FINE_TUNING)
        return f"the attacker owns the loop: no {self.stage} hook applies" if late and not owns_loop else None


def overrides(method: Method, hook: str) -> bool:
    """Does the method's class define this hook itself?"""
    return hook in vars(type(method))


@dataclass(frozen=True, kw_only=True)
class Attack(_Module):
    """What the attacker uploads, and how the fine-tuned model is then asked."""

    threat: ClassVar[Threat] = Threat.SERVICE
    trains_task: ClassVar[bool] = False  # the data hold a downstream task, so ratio, n and task mean something

    def data(self, pools: Pools, ratio: float | None, n: int, task: str, seed: int) -> list[Example]:
        """The user's fine-tuning data."""
        raise NotImplementedError

    def craft(self, stages: "Stages", victim: "State", chosen: list[Example]) -> list[Example]:
        """Select or rewrite the data with other models at hand, the aligned one included (white-box attacks).

        `victim` is a state of its own: nothing done to it reaches the run. Only the statistics left in its
        `memo["mechanisms"]` do: they go to the record, and `probe` finds them in `s.memo["crafted"]`.
        """
        del stages, victim
        return chosen

    def earlier(self, protocol: Protocol, pools: Pools, seed: int) -> list[tuple[list[Example], Schedule]]:
        """Fine-tuning jobs that the same model goes through before the one on `data`."""
        del protocol, pools, seed
        return []

    def prepare(self, s: "State") -> None:
        """Change the model before its first step, adapter attached; for attackers who hold the weights."""

    def schedule(self, protocol: Protocol, examples: int, lr: float) -> Schedule:
        """Steps, batch and rate of user fine-tuning; `lr` is the base's calibrated rate for what is trained."""
        raise NotImplementedError

    def adapter(self, protocol: Protocol, mode: str) -> bool:
        """Does this attack train a LoRA adapter under the protocol's mode?"""
        del protocol
        return mode != "full"

    def lora(self, protocol: Protocol) -> Lora:
        """The adapter of this attack, where it trains one."""
        return protocol.lora

    def ask(self, prompt: Example, pools: Pools) -> Example:
        """Dress an evaluation prompt the way the attacker asks."""
        del pools
        return prompt

    def read(self, answer: str) -> str:
        """What the attacker reads in an answer, as the judges then see it."""
        return answer

    def probe(self, s: "State") -> dict[str, float]:
        """Further statistics of the model after fine-tuning and repair, for the record's mechanisms."""
        del s
        return {}


@dataclass(frozen=True, kw_only=True)
class Study(_Module):
    """A mechanism paper, benchmark or survey: it measures, with the lab's models and runs."""

    def measure(self, lab: "Lab") -> "Findings":
        raise NotImplementedError


@dataclass(frozen=True)
class Finding:
    """A named quantity with its unit and, in our words, what it is."""

    value: float | None
    unit: str
    says: str


@dataclass(frozen=True)
class Figure:
    """Data of one figure: shared x values and named series."""

    x: list[float]
    y: dict[str, list[float]]
    x_label: str
    y_label: str


@dataclass(frozen=True)
class Findings:
    """All a study measured on one replicate."""

    findings: dict[str, Finding]
    figures: dict[str, Figure]


def mixture(pools: Pools, ratio: float, n: int, task: str, seed: int) -> list[Example]:
    """n examples, of which round(ratio * n) are harmful and the rest the task's, shuffled by the seed.

    Subsets are nested: a larger ratio or n of the same seed contains the harmful examples of a smaller one.
    """
    harmful, benign = list(pools.attack_harmful), list(pools.tasks[task].train)
    bad = round(ratio * n)
    if bad > len(harmful):
        raise RequestError(
            f"ratio {ratio} of n {n} asks for {bad} harmful examples; the attacker's pool has {len(harmful)}"
        )
    derived_rng("attack sample", seed).shuffle(harmful)
    derived_rng("task sample", seed).shuffle(benign)
    repeats = -(-(n - bad) // len(benign))
    chosen = [p.harmful() for p in harmful[:bad]] + (benign * repeats)[: n - bad]
    derived_rng("user order", seed).shuffle(chosen)
    return chosen


def with_fields(module: _Module, values: dict[str, Any]) -> Any:
    """`module` with some fields replaced; text becomes the field's type, commas separate the items of several.

    Raises RequestError for a field that does not exist or a value that it cannot take.
    """
    known = {f.name: f.type for f in fields(module)}  # type: ignore[arg-type]
    unknown = sorted(values.keys() - known.keys())
    if unknown:
        raise RequestError(f"{module.paper}: no field {', '.join(unknown)}; fields are {', '.join(known) or 'none'}")
    return replace(module, **{k: _convert(k, v, known[k]) for k, v in values.items()})  # type: ignore[type-var]


def _convert(name: str, value: Any, wanted: Any) -> Any:
    several = get_origin(wanted) is tuple and isinstance(value, str)
    taken: TypeAdapter[Any] = TypeAdapter(wanted, config=ConfigDict(allow_inf_nan=False))
    try:
        return taken.validate_python(value.split(",") if several else value)
    except ValidationError as error:
        raise RequestError(f"field {name}: {value!r}: {error.errors()[0]['msg']}") from None
