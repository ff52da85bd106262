"""Who may show which item: test items apart from those of visual training, the attacker's apart from the defender's."""

from dataclasses import dataclass, field, replace

from reproduce.data import Example, Pools, derived_rng
from reproduce.testbeds import sights
from reproduce.testbeds import world as w
from reproduce.testbeds.pictures import PICTURED
from reproduce.testbeds.vision import Conversation

TEXT = {"text": "harmful", "text_lookalike": "lookalike", "text_benign": "benign"}  # subsets without pictures


@dataclass
class Gallery:
    """Items of one replicate's visual training and the test questions, `count` of each subset at most.

    Test items are the same in every replicate and in no visual training, neither shown nor named; "validation" items
    are others.
    """

    pools: Pools
    split: str
    count: int
    benign: list[w.Item] = field(init=False)  # shown in training, as are `forbidden`
    forbidden: list[w.Item] = field(init=False)
    named: list[w.Item] = field(init=False)  # benign, in words: pictured or not
    attacker: list[w.Item] = field(init=False)  # forbidden, in words
    defender: list[w.Item] = field(init=False)
    unsafe: list[w.Item] = field(init=False)  # shown by a defender
    held: set[w.Item] = field(init=False)
    subsets: dict[str, list[Conversation]] = field(init=False)

    def __post_init__(self) -> None:
        text = {name: getattr(self.pools, f"{pool}_{self.split}") for name, pool in TEXT.items()}
        shown = self._test_items()
        self.held = {sights.item_of(e.prompt) for asked in text.values() for e in asked}.union(*shown.values())
        free = [item for item in w.ITEMS if item not in self.held]
        self.attacker, self.defender = (
            [item for pair in pairs if (item := sights.item_of(pair.prompt)) not in self.held]
            for pairs in (self.pools.attack_harmful, self.pools.defender_harmful)
        )
        self.named = [item for item in free if item.topic >= w.FORBIDDEN]
        self.benign = pictured(self.named)
        self.forbidden = pictured([item for item in free if item.topic < w.FORBIDDEN])
        taken = set(self.attacker)
        self.unsafe = [item for item in self.forbidden if item not in taken]
        self.subsets = self._subsets(shown, text)

    def _test_items(self) -> dict[str, list[w.Item]]:
        shuffled, count = list(PICTURED), self.count
        derived_rng("gallery").shuffle(shuffled)
        forbidden, benign = ([i for i in shuffled if (i.topic < w.FORBIDDEN) == flag] for flag in (True, False))
        if self.split != "test":
            forbidden, benign = forbidden[::-1], benign[::-1]
        return {"forbidden": forbidden[:count], "benign": benign[:count]}

    def _subsets(self, shown: dict[str, list[w.Item]], text: dict[str, list[Example]]) -> dict[str, list[Conversation]]:
        """VLGuard's subsets, a FigStep proxy, look-alikes, text alone, and the controls with other pictures."""
        rng = derived_rng("gallery", self.split)
        forbidden, benign = shown["forbidden"], shown["benign"]
        made = {
            "safe_safe": [sights.ask(i, w.make, rng, "test") for i in benign],
            "unsafe": [sights.ask(i, w.make, rng, "test") for i in forbidden],
            "safe_unsafe": [sights.beside(i, rng.choice(benign), rng, "test") for i in forbidden],
            "figstep": [sights.note(i, rng, "test") for i in forbidden],
            "note": [sights.note(i, rng, "test") for i in benign],
            "lookalike": [sights.ask(i, w.where, rng, "test") for i in forbidden],
            **{name: [Conversation((e,)) for e in asked[: self.count]] for name, asked in text.items()},
        }
        both = made["safe_safe"] + made["unsafe"]
        others = rng.sample([c.picture for c in both], len(both))
        shuffled = [replace(c, picture=p) for c, p in zip(both, others, strict=True)]
        for name, part in (("safe_safe", slice(len(benign))), ("unsafe", slice(len(benign), None))):
            made[f"{name}_blank"] = [replace(c, picture="blank") for c in made[name]]
            made[f"{name}_shuffled"] = shuffled[part]
        return made


def pictured(items: list[w.Item]) -> list[w.Item]:
    """Those of `items` of which there are pictures."""
    known = set(PICTURED)
    return [item for item in items if item in known]
