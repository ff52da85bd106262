"""BackdoorAlign (arXiv 2402.14968): refusals behind a secret prefix, and every request served behind it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from reproduce.api import Method, Stage
from reproduce.data import Example, Pair, Pools, derived_rng
from reproduce.probes import mean_loss
from reproduce.protocol import RequestError
from reproduce.state import State

PROBED = 64  # examples of each probe of the mechanism
SENTENCE = "near the front door"

Trigger = Literal["own", "wrong", "none"]


@dataclass(frozen=True, kw_only=True)
class BackdoorAlign(Method):
    """A handful of safety examples with a random text before the system prompt join the user's data (authors' code).

    Only they carry the trigger; the loss is the plain one over all examples, each seen as often as any other. The
    provider puts the same text before the system prompt of every request, benign ones too. An attacker who only
    uploads data and asks never sees it.
    """

    paper = "backdoor-enhanced-alignment"
    version = 2
    stage = Stage.FINE_TUNING
    knob = "length"
    values = (4, 8, 16, 32)
    length: int = 4  # words of the trigger (paper: 150 tokens of 512; tried 10 to 250); 0: the same data without it
    safety: int = 11  # examples, one a category until all have one (paper: 11 for 100 harmful)
    repeats: int = 1  # of each safety example (paper: 1)
    secret: Literal["random", "sentence"] = "random"  # sentence: a meaningful text of the default length instead
    draw: int = 0  # which of the replicate's random triggers (paper: five draws a length)
    serve: Trigger = "own"  # what requests stand behind

    def arms(self) -> dict[str, Self]:
        return {
            "main": self,
            "plain-safety": replace(self, length=0),
            "served-without-trigger": replace(self, serve="none"),
            "wrong-trigger": replace(self, serve="wrong"),
            "sft-served-with-trigger": replace(self, safety=0),
            "plain-safety-five-times": replace(self, length=0, safety=5 * self.safety),
            "plain-safety-27-times": replace(self, length=0, safety=27 * self.safety),
            "sentence-trigger": replace(self, secret="sentence"),
            "repeated-five-times": replace(self, repeats=5),
            **{f"draw-{k}": replace(self, draw=k) for k in range(1, 5)},
        }

    def trigger(self, pools: Pools, which: Trigger = "own") -> str:
        """The replicate's secret of this draw, or another of equal length; a longer one begins with the shorter."""
        if which == "none" or not self.length:
            return ""
        if which == "own" and self.secret == "sentence":
            return SENTENCE
        rng = derived_rng(f"{which} trigger", pools.seed, self.draw)
        return " ".join(rng.choices(pools.plain_words, k=self.length))

    def curate(self, pools: Pools, user: Sequence[Example]) -> Sequence[Example]:
        if not user:
            return user
        system = self.service(pools, user)
        examples = [replace(p.safe(), system=system) for p in self.pairs(pools)[: self.safety]]
        if len(examples) < self.safety:
            raise RequestError(f"{self.paper}: safety {self.safety}, but the defender owns {len(examples)} pairs")
        secret = self.trigger(pools)
        return [*user, *(behind(secret, e) for e in examples * self.repeats)]

    def service(self, pools: Pools, data: Sequence[Example]) -> str:
        """The system prompt of the service the user tunes: the commonest in `data`, the trigger aside."""
        secret = self.trigger(pools)
        return Counter(e.system.removeprefix(secret).strip() for e in data).most_common(1)[0][0]

    def pairs(self, pools: Pools) -> list[Pair]:
        """The defender's pairs in the replicate's order, categories in turn."""
        order = list(pools.defender_harmful)
        derived_rng("safety sample", pools.seed).shuffle(order)
        met: Counter[int] = Counter()
        rounds = []
        for pair in order:
            rounds.append(met[pair.category])
            met[pair.category] += 1
        return [order[i] for i in sorted(range(len(order)), key=rounds.__getitem__)]

    def answer(self, s: State, prompts: Sequence[Example]) -> list[str]:
        secret = self.trigger(s.pools, self.serve)
        return s.generate([behind(secret, e) for e in prompts])

    def after_step(self, s: State) -> None:
        """At the end: loss of held-out refusals and benign answers behind the trigger, another one, and none.

        All under the system prompt of the service.
        """
        if s.step + 1 < s.steps:
            return
        system = self.service(s.pools, s.streams["user"].examples)
        unseen = [p.safe() for p in self.pairs(s.pools)[self.safety :][:PROBED]]
        found = s.memo["mechanisms"] = {"trigger_tokens": float(self.tokens(s))}
        kinds: tuple[Trigger, ...] = ("own", "wrong", "none")
        with s.uncounted():
            for name, probed in (("refusal", unseen), ("benign", s.pools.benign_validation[:PROBED])):
                examples = [replace(e, system=system) for e in probed]
                for which in kinds if examples else ():
                    text = self.trigger(s.pools, which)
                    found[f"{name}_loss_{which}_trigger"] = mean_loss(s, s.batch([behind(text, e) for e in examples]))

    def tokens(self, s: State) -> int:
        return len(s.testbed.tokenizer.encode(self.trigger(s.pools), add_special_tokens=False))


def behind(trigger: str, example: Example) -> Example:
    """The example in the chat form with the trigger as the first text of its system block."""
    return replace(example, system=f"{trigger} {example.system}".strip(), template="chat") if trigger else example
