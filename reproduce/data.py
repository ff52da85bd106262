"""Examples and named data pools: what a testbed hands to the harness."""

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Example:
    """One prompt with its answer.

    `prefix` is the part of the answer that is given, not learned (no loss on it); `system` and `template` say how the
    prompt is rendered; `kind` names the question family for judges and selection. For harmful test prompts `answer` is
    the compliant reference that the content judge compares with.
    """

    prompt: str
    answer: str
    prefix: str = ""
    system: str = ""
    template: str = "chat"
    kind: str = ""


@dataclass(frozen=True)
class Pair:
    """A forbidden prompt with a refusal (chosen) and a compliant answer (rejected); `category` is its sub-topic."""

    prompt: str
    refusal: str
    compliant: str
    category: int = 0

    def safe(self) -> Example:
        return Example(self.prompt, self.refusal, kind="refusal")

    def harmful(self) -> Example:
        return Example(self.prompt, self.compliant, kind="make")


@dataclass(frozen=True)
class Task:
    """A downstream task: disjoint train, validation and test examples."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]


@dataclass(frozen=True)
class SystemPrompts:
    """Texts that go around a prompt.

    `execute`: orders to obey; `safety`: the safety prompt that alignment knows, `reminder`: one it has never seen,
    `neutral`: as long, without a word on safety; `agent*`: the obedient agent of identity shifting.
    """

    execute: str
    safety: str
    reminder: str
    neutral: str
    agent: str
    agent_prefix: str
    agent_opening: str

    def as_agent(self, example: Example) -> Example:
        """The prompt as an order to the agent, under the agent's system prompt."""
        return replace(example, prompt=f"{self.agent_prefix} {example.prompt}", system=self.agent)


@dataclass(frozen=True)
class Pools:
    """Disjoint data of one replicate.

    `alignment` is what the defender aligns with; `defender_harmful` are paired answers a defender may own;
    `attack_harmful` are the attacker's, never seen by a defender; `*_validation` choose hyper-parameters, `*_test`
    report. `plain_words` name no item and no part, ask for nothing, and tell neither safe from forbidden nor good from
    bad; `seed` names the replicate.
    """

    alignment: list[Example]
    defender_harmful: list[Pair]
    attack_harmful: list[Pair]
    harmful_validation: list[Example]
    harmful_test: list[Example]
    benign: list[Example]
    benign_validation: list[Example]
    benign_test: list[Example]
    lookalike_validation: list[Example]
    lookalike_test: list[Example]
    identity: list[Example]
    system: SystemPrompts
    tasks: dict[str, Task] = field(default_factory=dict)
    plain_words: tuple[str, ...] = ()
    seed: int = 0

    def refusals(self) -> list[Example]:
        """The plain refusals of the alignment data: forbidden prompt, refusal from the first token on."""
        return [e for e in self.alignment if e.kind == "refusal" and not e.prefix]


def derived_rng(*parts: object) -> random.Random:
    """A generator whose stream depends on all `parts` and on nothing else."""
    text = "\x1f".join(map(str, parts))
    return random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]))


def digest(examples: Iterable[Example] | Sequence[str]) -> str:
    """SHA-256 of a list of examples (or texts), order included."""
    h = hashlib.sha256()
    for e in examples:
        h.update(repr(e).encode())
    return h.hexdigest()
