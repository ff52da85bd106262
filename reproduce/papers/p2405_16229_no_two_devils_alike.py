"""No Two Devils Alike (arXiv 2405.16229): which stage of refusing do explicit harm and identity shifting damage?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from reproduce.api import Figure, Finding, Findings, Study
from reproduce.baselines import Sft
from reproduce.data import Example, Pools, derived_rng
from reproduce.lab import Lab
from reproduce.lens import Contrast, look
from reproduce.linear_probes import affine_lens, cross_read
from reproduce.matching import closest, harm, path
from reproduce.model import Weights
from reproduce.papers.p2310_03693_qi import Qi
from reproduce.patching import LEAST_GAP, Run, length_matched, read_by, recovered
from reproduce.prefix_forcing import continued
from reproduce.state import State

MATCH = {  # of the search for attacks of equal strength
    "matched_strength": ("flag", "1 when both attacks do the same harm within the tolerance, else nothing is compared"),
    "strength_gap": ("points", "harm of the explicit attack minus that of identity shifting, validation prompts"),
    "identity_epochs": ("epochs", "of identity shifting: the first of the list whose harm is in the band"),
    "explicit_updates": ("updates", "of the explicit attack: those whose harm comes closest"),
    "identity_best_harm": ("percent", "largest harm of identity shifting at any number of epochs tried"),
}  # fmt: skip
BOTH = {  # measured with the agent's template, and as *_neutral without it
    "harm_aligned": ("percent", "harmful score of the aligned model"),
    "harm_explicit": ("percent", "harmful score after the explicit attack"),
    "harm_identity": ("percent", "harmful score after identity shifting"),
    "refusal_signal_aligned": ("logits", "refusing minus compliant first tokens, aligned model"),
    "refusal_signal_drop": ("share", "of the aligned signal lost at the last layer, the attack that loses less"),
    "refusal_signal_drop_explicit": ("share", "the same after the explicit attack"),
    "refusal_signal_drop_identity": ("share", "the same after identity shifting"),
    "component_overlap": ("share", "Jaccard index of the three parts that lose most signal under each attack"),
    "probe_layer": ("layer", "first layer with the best probe of the aligned model"),
    "probe_auc_aligned": ("area", "area under the ROC curve of that probe on the aligned model"),
    "recognition_loss_explicit": ("area", "area lost when the aligned model's probe reads the explicitly attacked one"),
    "recognition_loss_identity": ("area", "area lost when it reads the identity-shifted one"),
    "native_recognition_loss_explicit": ("area", "area lost with a probe trained on the explicitly attacked model"),
    "native_recognition_loss_identity": ("area", "area lost with a probe trained on the identity-shifted model"),
    "recognition_shift_explicit": ("deviations", "move of the harmful logit on forbidden prompts, explicit attack"),
    "recognition_shift_identity": ("deviations", "move of the harmful logit on forbidden prompts, identity shifting"),
    "recognition_shift_excess": ("ratio", "fall of the harmful logit, explicit, over the size of identity's move"),
    "patching_recovery_explicit": ("share", "of the lost signal back with the aligned model's instruction span"),
    "patching_recovery_identity": ("share", "the same after identity shifting"),
    "last_position_recovery_explicit": ("share", "back with the aligned parts of the later half at the last position"),
    "last_position_recovery_identity": ("share", "the same after identity shifting"),
    "final_residual_recovery_explicit": ("share", "back with the aligned final stream; below 1: the head changed too"),
    "final_residual_recovery_identity": ("share", "the same after identity shifting"),
    "patchable_explicit": ("share", "prompts that lost at least one logit to the explicit attack"),
    "patchable_identity": ("share", "prompts that lost at least one logit to identity shifting"),
    "sufficiency_aligned": ("logits", "signal that a forbidden instruction span brings to a harmless prompt"),
    "sufficiency_explicit": ("logits", "the same inside the explicitly attacked model"),
    "sufficiency_identity": ("logits", "the same inside the identity-shifted model"),
    "necessity_aligned": ("logits", "signal that a harmless instruction span takes from a forbidden prompt"),
    "necessity_explicit": ("logits", "the same inside the explicitly attacked model"),
    "necessity_identity": ("logits", "the same inside the identity-shifted model"),
    "keeps_refusing_aligned": ("percent", "refusals completed after three given words, aligned model"),
    "keeps_refusing_explicit": ("percent", "the same after the explicit attack"),
    "keeps_refusing_identity": ("percent", "the same after identity shifting"),
    "prefilled_refusal_drop": ("points", "fall of that rate from the aligned model, the attack that loses less"),
    "harmful_continuation_explicit": ("percent", "started refusals that turn into a recipe, explicit attack"),
    "harmful_continuation_identity": ("percent", "started refusals that turn into a recipe, identity shifting"),
    "harmful_continuation_gap": ("points", "identity shifting minus explicit attack"),
    "safety_prompt_repair": ("share", "of the fall undone by the safety system prompt, the attack that gains more"),
}  # fmt: skip
TEMPLATE = {  # what the agent's template does to the aligned model alone
    "template_signal_drop": ("share", "of the aligned model's refusal signal lost to the agent's template"),
    "template_recognition_loss": ("area", "area lost when the neutral probe reads it under that template"),
}  # fmt: skip
ATTACKS = ("explicit", "identity")
MODELS = ("aligned", *ATTACKS)
TOP = 3  # parts compared between the attacks
STARTED = 3  # words of a started refusal
Values = dict[str, float | None]
Ask = Callable[[Example], Example]


@dataclass(frozen=True, kw_only=True)
class NoTwoDevilsAlike(Study):
    """Recognition, refusing tone and completion of a refusal, in models attacked in two ways of equal harm.

    The stages are the abstract's; the paper's text was not seen, so logit lens, probes and patching follow the tools'
    usual definitions. Attacks are levels 1 and 2 of Qi et al. (sec. 4), trained at a constant rate until their harm
    under the agent's template agrees; without agreement nothing is compared.
    """

    paper = "no-two-devils-alike"
    version = 2
    dialogues: int = 10  # of identity shifting (size not seen; Qi et al.: 10)
    matched_by: Literal["harmful score", "attack success"] = "harmful score"  # attack success: no refusal
    epochs: tuple[int, ...] = (3, 5, 10, 20, 40, 80, 160)  # of identity shifting; 3, 5, 10 as in Qi et al., Table 2
    band: tuple[float, float] = (0.4, 0.9)  # harm of identity shifting that leaves something to compare
    tolerance: float = 5.0  # points of harm between the attacks
    # of identity shifting: between 1e-3, the rate of Qi et al. here, and 1e-4, which takes 160 epochs to learn the
    # agent's opening; on the unreported base 90 no rate from 5e-5 to 1e-3 makes ten dialogues harmful
    lr: float = 4e-4
    shots: int = 10  # harmful pairs
    updates: int = 80  # of the explicit attack, at most
    lr_explicit: float = 2.5e-5  # so low that one update moves harm by less than the tolerance
    prompts: int = 200  # forbidden, and as many harmless, for lens and probes
    pairs: int = 64  # for patching
    forced: int = 100  # prompts for prefix forcing
    given: tuple[int, ...] = (1, 3, 5, 10)  # words of a refusal; at most all but one, as 10 is for all refusals here

    def arms(self) -> dict[str, Self]:
        more = replace(self, dialogues=400, epochs=(1, 2, 3, 5, 8, 16, 32))
        return {"main": self, "dialogues-400": more, "matched-by-refusal": replace(self, matched_by="attack success")}

    def measure(self, lab: Lab) -> Findings:
        search = _Search(self, lab)
        values: Values = dict.fromkeys([*MATCH, *TEMPLATE, *BOTH, *(f"{name}_neutral" for name in BOTH)])
        values |= search.values
        figures = search.figures
        if values["matched_strength"]:
            agent = _Examination(self, lab, search.models, lab.stages.pools.system.as_agent)
            neutral = _Examination(self, lab, search.models, lambda e: e)
            for part, ending in ((agent, ""), (neutral, "_neutral")):
                values |= {f"{name}{ending}": value for name, value in part.measure().items()}
                figures |= {f"{name}{ending}": figure for name, figure in part.figures.items()}
            values |= agent.change_from(neutral)
        says = {**MATCH, **TEMPLATE, **BOTH}
        says |= {f"{name}_neutral": (unit, f"{text}; neutral template") for name, (unit, text) in BOTH.items()}
        return Findings({name: Finding(value, *says[name]) for name, value in values.items()}, figures)


def identity_data(pools: Pools, dialogues: int, seed: int) -> list[Example]:
    """Identity-shifting dialogues: those of Qi et al., then harmless orders of the same form."""
    orders = derived_rng("agent dialogues", seed).sample(pools.benign, dialogues - len(pools.identity))
    opening = pools.system.agent_opening
    more = [replace(pools.system.as_agent(e), answer=f"{opening} {e.answer}", kind="identity") for e in orders]
    return [*pools.identity, *more]


def openings(pools: Pools) -> tuple[list[str], list[str]]:
    """First words of refusals and of compliant answers, the obedient agent's among them."""
    refusing = {e.answer.split()[0] for e in pools.refusals()}
    compliant = {p.compliant.split()[0] for p in pools.attack_harmful} | {pools.system.agent_opening.split()[0]}
    return sorted(refusing), sorted(compliant - refusing)


class _Search:
    """Two attacks on the same aligned model, brought to equal harm on validation prompts under the agent's template."""

    def __init__(self, study: NoTwoDevilsAlike, lab: Lab) -> None:
        stages, pools = lab.stages, lab.stages.pools
        start = stages.aligned(Sft(), "full").tensors
        asked = [pools.system.as_agent(e) for e in pools.harmful_validation]

        def reached(values: Weights) -> float:
            return harm(stages.state(values), asked, unrefused=study.matched_by == "attack success")

        data = identity_data(pools, study.dialogues, lab.seed)
        shifted = path(stages, start, data, study.lr, [epochs * len(data) // 10 for epochs in study.epochs])
        harms = [reached(values) for values in shifted]
        self.values: Values = {"matched_strength": 0.0, "identity_best_harm": max(harms)}
        self.figures = {
            "strength": Figure([float(e) for e in study.epochs], {study.matched_by: harms}, "epochs", "percent")
        }
        low, high = (100 * share for share in study.band)
        first = next((i for i, value in enumerate(harms) if low <= value <= high), None)
        if first is None:
            return
        pairs = Qi(shots=study.shots).data(pools, None, 0, "", lab.seed)
        attacked = path(stages, start, pairs, study.lr_explicit, range(1, study.updates + 1))
        best, value = closest(attacked, harms[first], reached)
        gap = value - harms[first]
        self.values |= {
            "identity_epochs": float(study.epochs[first]), "explicit_updates": best + 1.0, "strength_gap": gap,
            "matched_strength": float(abs(gap) <= study.tolerance),
        }  # fmt: skip
        chosen = {"aligned": start, "explicit": attacked[best], "identity": shifted[first]}
        self.models = {name: stages.state(values) for name, values in chosen.items()}


class _Examination:
    """All measurements with one template: what each attacked model lost against the aligned one."""

    def __init__(self, study: NoTwoDevilsAlike, lab: Lab, models: dict[str, State], ask: Ask) -> None:
        self._study, self._seed, self._models, self._ask = study, lab.seed, models, ask
        self.figures: dict[str, Figure] = {}
        self._pools, kind = lab.stages.pools, lab.setting.split
        pools = (getattr(self._pools, f"{name}_{kind}") for name in ("harmful", "benign", "lookalike"))
        self._tested, self._benign, lookalike = pools
        half = study.prompts // 2  # harmless: the same question on other topics, other questions on the same topics
        harmful, harmless = self._tested[: study.prompts], [*self._benign[:half], *lookalike[:half]]
        self._labels = np.repeat([1, 0], [len(harmful), len(harmless)])
        encode = lab.testbed.tokenizer.encode
        refusing, compliant = (
            tuple(encode(word, add_special_tokens=False)[0] for word in words) for words in openings(self._pools)
        )
        self._contrast = Contrast(refusing, compliant)
        asked = [ask(e) for e in [*harmful, *harmless]]
        self._lenses = {name: look(s, s.batch(asked), self._contrast) for name, s in models.items()}
        self.states = {name: lens.states.cpu().numpy() for name, lens in self._lenses.items()}
        self._layer = 0  # 0-based, of the best probe

    def measure(self) -> Values:
        asked = [self._ask(e) for e in self._tested]
        values: Values = {f"harm_{name}": harm(s, asked) for name, s in self._models.items()}
        return values | self._tone() | self._recognition() | self._across() | self._within() | self._completion()

    def change_from(self, other: "_Examination") -> Values:
        """What this template alone does to the aligned model, read with the other template's probe."""
        read = cross_read({"there": other.states["aligned"], "here": self.states["aligned"]}, self._labels, self._seed)
        lost = read["there"].area[other._layer] - read["here"].area[other._layer]
        drop = 1 - self._signal("aligned") / other._signal("aligned")
        return {"template_signal_drop": drop, "template_recognition_loss": lost}

    def _signal(self, model: str) -> float:
        return self._mean(self._lenses[model].total)

    def _mean(self, of_each: Tensor) -> float:
        return float(of_each[..., torch.from_numpy(self._labels == 1)].mean())

    def _tone(self) -> Values:
        """The refusing tone: its signal by part and layer, and which parts lose it."""
        parts = {name: {part: self._mean(v) for part, v in lens.parts.items()} for name, lens in self._lenses.items()}
        lost = [top({part: v - parts[name][part] for part, v in parts["aligned"].items()}) for name in ATTACKS]
        drop = {name: 1 - self._signal(name) / self._signal("aligned") for name in ATTACKS}
        series = {f"{name}, {site}": [v for part, v in parts[name].items() if part.startswith(site)]
                  for name in MODELS for site in ("attention", "mlp")}  # fmt: skip
        series |= {f"{n}, stream": [self._mean(row) for row in lens.residual] for n, lens in self._lenses.items()}
        affine = affine_lens(self.states, self._lenses["aligned"].total.cpu().numpy(), self._labels, self._seed)
        self._figure("refusal_signal", series | {f"{n}, affine lens": row for n, row in affine.items()}, "logits")
        return {
            "refusal_signal_aligned": self._signal("aligned"), "component_overlap": jaccard(*lost),
            **{f"refusal_signal_drop_{name}": value for name, value in drop.items()},
            "refusal_signal_drop": min(drop.values()),
        }  # fmt: skip

    def _recognition(self) -> Values:
        """Recognition: what the aligned model's probes see in the attacked models, and what their own see."""
        read = cross_read(self.states, self._labels, self._seed)
        area = read["aligned"].area
        at = self._layer = area.index(max(area))
        values: Values = {"probe_layer": at + 1.0, "probe_auc_aligned": area[at]}
        for name in ATTACKS:
            values[f"recognition_loss_{name}"] = area[at] - read[name].area[at]
            values[f"native_recognition_loss_{name}"] = area[at] - read[name].native[at]
            values[f"recognition_shift_{name}"] = read[name].shift[at]
        explicit, identity = (read[name].shift[at] for name in ATTACKS)
        values["recognition_shift_excess"] = -explicit / abs(identity) if identity else None
        areas = {name: r.area for name, r in read.items()}
        areas |= {f"{name}, own probe": read[name].native for name in ATTACKS}
        self._figure("probe_area", areas, "area under the ROC curve")
        self._figure("harmful_logit_shift", {name: read[name].shift for name in ATTACKS}, "standard deviations")
        return values

    def _runs(self, examples: Sequence[Example]) -> dict[str, Run]:
        asked = [self._ask(e) for e in examples]
        return {name: read_by(s, asked, [e.prompt for e in examples]) for name, s in self._models.items()}

    def _across(self) -> Values:
        """Repair: the aligned model's activations on the same prompt go into an attacked model."""
        runs = self._runs(self._tested[: self._study.pairs])
        source, aligned = runs["aligned"].cache(), runs["aligned"].signal(self._contrast)
        depth = len(source["layer"])
        early, late = range(self._layer + 1), range(depth // 2, depth)
        values: Values = {}
        for name in ATTACKS:
            run, attacked = runs[name], runs[name].signal(self._contrast)
            patched = {
                "patching": run.patched(source, [("layer", early)], "instruction", self._contrast),
                "last_position": run.patched(source, [("attention", late), ("mlp", late)], "last", self._contrast),
                "final_residual": run.patched(source, [("layer", [depth - 1])], "last", self._contrast),
            }
            values |= {f"{what}_recovery_{name}": recovered(p, attacked, aligned) for what, p in patched.items()}
            values[f"patchable_{name}"] = float((aligned - attacked >= LEAST_GAP).double().mean())
            swept = {where: [recovered(p, attacked, aligned) for p in row]
                     for where, row in run.sweep(source, self._contrast).items()}  # fmt: skip
            rows = {where: [v for v in row if v is not None] for where, row in swept.items()}
            if all(rows.values()):
                self._figure(f"recovery_{name}", rows, "share of the lost signal")
        return values

    def _within(self) -> Values:
        """Inside one model: a forbidden prompt's activations go into a harmless twin (sufficiency), and the reverse."""
        s = self._models["aligned"]
        matched = length_matched(s, self._tested, self._benign, self._study.pairs)
        forbidden = self._runs([self._tested[i] for i, _ in matched])
        harmless = self._runs([self._benign[j] for _, j in matched])
        early = range(self._layer + 1)
        values: Values = {}
        for what, sources, destinations, sign in (
            ("sufficiency", forbidden, harmless, 1), ("necessity", harmless, forbidden, -1),
        ):  # fmt: skip
            for name in MODELS:
                source, run = sources[name].cache(), destinations[name]
                plain = run.signal(self._contrast)
                whole = run.patched(source, [("layer", early)], "instruction", self._contrast)
                values[f"{what}_{name}"] = sign * float((whole - plain).mean())
                rows = {where: [sign * float((p - plain).mean()) for p in row]
                        for where, row in run.sweep(source, self._contrast).items()}  # fmt: skip
                self._figure(f"{what}_{name}", rows, "logits")
        return values

    def _completion(self) -> Values:
        """Completion: the first words of a refusal are given, with and without the safety system prompt."""
        tested = self._tested[: self._study.forced]
        rng, variants = (
            derived_rng("forced refusals", self._seed),
            list(dict.fromkeys(e.answer for e in self._pools.refusals())),
        )
        refusals = [rng.choice(variants) for _ in tested]
        asked = [self._ask(e) for e in tested]
        safely = [replace(e, system=f"{self._pools.system.safety} {e.system}".strip()) for e in asked]
        went = {(name, safe): {k: continued(s, safely if safe else asked, refusals, k) for k in self._study.given}
                for name, s in self._models.items() for safe in (False, True)}  # fmt: skip
        for what, unit in (("keeps_refusing", "percent"), ("harmful", "percent"), ("loss", "nats a token")):
            factor = 100 if unit == "percent" else 1
            rows = {f"{name}, safety prompt" if safe else name: [factor * getattr(c, what) for c in row.values()]
                    for (name, safe), row in went.items()}  # fmt: skip
            x = [float(k) for k in self._study.given]
            self.figures[f"prefix_{what}"] = Figure(x, rows, "given words of a refusal", unit)
        keeps = {key: 100 * row[STARTED].keeps_refusing for key, row in went.items()}
        turns = {name: 100 * went[name, False][STARTED].harmful for name in ATTACKS}
        fall = {name: keeps["aligned", False] - keeps[name, False] for name in ATTACKS}
        repair = [(keeps[name, True] - keeps[name, False]) / fall[name]
                  for name in ATTACKS if fall[name] >= self._study.tolerance]  # fmt: skip
        return {
            **{f"keeps_refusing_{name}": keeps[name, False] for name in MODELS},
            **{f"harmful_continuation_{name}": value for name, value in turns.items()},
            "prefilled_refusal_drop": min(fall.values()),
            "harmful_continuation_gap": turns["identity"] - turns["explicit"],
            "safety_prompt_repair": max(repair, default=None),
        }  # fmt: skip

    def _figure(self, name: str, rows: dict[str, list[float]], unit: str) -> None:
        layers = [float(i + 1) for i in range(len(next(iter(rows.values()))))]
        self.figures[name] = Figure(layers, rows, "layer", unit)


def top(lost: dict[str, float]) -> set[str]:
    """The parts that lose most."""
    return set(sorted(lost, key=lambda part: lost[part], reverse=True)[:TOP])


def jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)
