"""A fictional catalogue with fictional records: every number here is made up to exercise the generators."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np

from reproduce import record

REPOSITORY = Path(__file__).parents[2]

PAPERS = """\
schema: 1
tags:
  perturbation: trains against a simulated shift
  data-mixing: mixes safe data into user data
  landscape: looks at the loss around a model
venues:
  NeurIPS: {kind: conference, full: Conference on Neural Information Processing Systems}
  arXiv: {kind: preprint, full: arXiv preprint}
papers:
  - id: plaster-cast
    title: "PlasterCast: a Fictional Alignment | that Sets Hard"
    nickname: PlasterCast
    authors: [Ada Example, Björn Größe]
    date: 2024-02-02
    ids: {arxiv: "2402.09991", openreview: null, doi: null, acl: null}
    venue: {name: NeurIPS, year: 2024, track: main, status: accepted}
    type: defense
    stage: alignment
    tags: [perturbation]
    setting: {access: service, harmful_data: explicit, adapts: lora}
    links: {code: "https://example.org/plaster-cast"}
    claims:
      - id: C1
        says: Lowers the harmful score at ratio 0.1 <without> losing accuracy
        kind: headline
        source: Table 1
        setting: {model: Llama-2-7B, task: SST2, ratio: 0.1, n: 1000}
        reported: {metric: harmful_score, baseline: 55.2, method: 48.2, unit: percent}
        test: {metric: harmful_score, contrast: method - sft, ratio: 0.1, better: smaller, margin: 5.0}
      - id: C2
        says: Drifts less than SFT
        kind: mechanism
        source: Figure 3
        setting: {note: same models as Table 1}
        test: {metric: embedding_drift, contrast: method - sft, ratio: 0.1, better: smaller, margin: 0.1, scale: ratio}
      - id: C3
        says: Beats a random shift of the same size
        kind: control
        source: our control, not in the paper
        setting: {ratio: 0.1}
        test: {metric: harmful_score, contrast: method - random-shift, ratio: 0.1, better: smaller, margin: 5.0}
    reported:
      - metric: harmful_score
        value: 48.2
        unit: percent
        method: plaster-cast
        setting: {model: Llama-2-7B, ratio: 0.1}
        source: Table 1
      - metric: harmful_score
        value: 55.2
        unit: percent
        method: sft
        setting: {model: Llama-2-7B, ratio: 0.1}
        source: Table 1
    reproduction:
      module: p2402_09991_plaster_cast
      differs:
        - {what: model, paper: Llama-2-7B with LoRA, ours: "micro world, full fine-tuning", matters: unknown}
        - {what: harmful data, paper: a public set, ours: fictional items, matters: "no"}
    curation: {added: 2026-11-23, source: fixture, checked: 2026-11-23}
  - id: night-watch
    title: "NightWatch: a Fictional Guard during Fine-tuning"
    nickname: NightWatch
    authors: [Cleo Example]
    date: 2024-05-28
    ids: {arxiv: "2405.09992", openreview: null, doi: null, acl: null}
    venue: {name: arXiv, year: 2024, track: null, status: preprint}
    type: defense
    stage: fine-tuning
    tags: [data-mixing]
    setting: {access: service, harmful_data: explicit, adapts: either}
    links: {}
    claims:
      - id: C1
        says: The proximal term helps beyond alternating alone
        kind: ablation
        source: Table 4
        setting: {ratio: 0.1}
        test: {metric: harmful_score, contrast: method - bare, ratio: 0.1, better: smaller, margin: 5.0}
    reproduction: {module: p2405_09992_night_watch, differs: []}
    curation: {added: 2026-11-23, source: fixture, checked: 2026-11-23}
  - id: wax-seal
    title: A Fictional Repair after Fine-tuning
    authors: [Dee Example]
    date: 2024-08-17
    ids: {arxiv: "2408.09993", openreview: null, doi: null, acl: null}
    venue: {name: arXiv, year: 2024, track: null, status: preprint}
    type: defense
    stage: post-fine-tuning
    tags: []
    setting: {access: service, harmful_data: explicit, adapts: lora}
    links: {}
    reproduction: {module: p2408_09993_wax_seal, differs: []}
    curation: {added: 2026-11-23, source: fixture, checked: 2026-11-23}
  - id: lead-lining
    title: A Fictional Defense nobody has Reproduced
    authors: [Eve Example]
    date: 2025-01-05
    ids: {arxiv: "2501.09994", openreview: null, doi: null, acl: null}
    venue: {name: arXiv, year: 2025, track: null, status: preprint}
    type: defense
    stage: pre-training
    tags: []
    setting: {access: weights, harmful_data: none, adapts: full}
    links: {}
    curation: {added: 2026-11-23, source: fixture, checked: 2026-11-23}
  - id: moth-attack
    title: A Fictional Attack that Eats Holes
    authors: [Fay Example]
    date: 2023-10-05
    ids: {arxiv: "2310.09995", openreview: null, doi: null, acl: null}
    venue: {name: arXiv, year: 2023, track: null, status: preprint}
    type: attack
    tags: []
    setting: {access: service, harmful_data: benign, adapts: full}
    links: {}
    claims:
      - id: C1
        says: Explicit data break the aligned model
        kind: headline
        source: Table 2
        setting: {n: 100}
        test: {metric: harmful_score, contrast: explicit - aligned, better: larger, margin: 20.0}
    reproduction: {module: p2310_09995_moth_attack, differs: []}
    curation: {added: 2026-11-23, source: fixture, checked: 2026-11-23}
  - id: tide-charts
    title: A Fictional Map of the Tide around a Model
    authors: [Gus Example]
    date: 2024-05-27
    ids: {arxiv: "2405.09996", openreview: null, doi: null, acl: null}
    venue: {name: NeurIPS, year: 2024, track: main, status: accepted}
    type: mechanism
    tags: [landscape]
    setting: {access: weights, harmful_data: explicit, adapts: full}
    links: {}
    claims:
      - id: C1
        says: The basin has a sharp rim
        kind: headline
        source: Figure 1
        setting: {note: four models}
        test: {finding: basin_share, at_least: 0.8}
    reproduction: {module: p2405_09996_tide_charts, differs: []}
    curation: {added: 2026-11-23, source: fixture, checked: 2026-11-23}
  - id: weigh-bridge
    title: A Fictional Benchmark
    authors: [Hal Example]
    date: 2025-06-01
    ids: {arxiv: "2506.09997", openreview: null, doi: null, acl: null}
    venue: {name: arXiv, year: 2025, track: null, status: preprint}
    type: benchmark
    tags: []
    setting: {access: weights, harmful_data: explicit, adapts: either}
    links: {}
    curation: {added: 2026-11-23, source: fixture, checked: 2026-11-23}
  - id: almanac
    title: A Fictional Survey
    authors: [Ida Example]
    date: 2024-09-26
    ids: {arxiv: "2409.09998", openreview: null, doi: null, acl: null}
    venue: {name: arXiv, year: 2024, track: null, status: preprint}
    type: survey
    tags: []
    setting: {access: service, harmful_data: none, adapts: either}
    links: {}
    curation: {added: 2026-11-23, source: fixture, checked: 2026-11-23}
"""

RISK = {
    "sft": 0.0,
    "plaster-cast": -1.6,
    "night-watch": -1.1,
    "bare": -1.0,
    "wax-seal": -2.0,
    "non-aligned": 1.5,
}
"""Fictional lean of the harmful score of each arm, in logits against SFT."""
COUNTS = {"harmful": 300, "accuracy": 300, "over_refusal": 100, "benign_help": 120, "lookalike": 100}
STEPS = [0, 30, 60, 90, 120, 150]


class World:
    """Writes fictional records below a root."""

    def __init__(self, root: Path, seeds: int = 3, shrink: int = 5) -> None:
        self.root, self.seeds, self.shrink = root, seeds, shrink

    def spec(self, paper: str, seed: int, **fields: object) -> dict:
        base = {"kind": "run", "protocol": "micro-1", "testbed": "micro", "paper": paper, "arm": "main"}
        base |= {
            "version": 1,
            "method": {"paper": paper},
            "attack": {"paper": "poison", "strength": "graded", "dose": 1.0},
        }
        base |= {"ratio": 0.1, "n": 1000, "task": "sentiment", "mode": "full", "model": "micro-llama"}
        return base | {"data": "micro-world-1", "seed": seed} | fields

    def run(self, paper: str, lean: float, **fields: object) -> None:
        for seed in range(self.seeds):
            self.write(self.spec(paper, seed, **fields), **self.measure(paper, lean, seed, fields))

    def fail(self, paper: str, status: str, reason: str, **fields: object) -> None:
        for seed in range(self.seeds):
            self.write(self.spec(paper, seed, **fields), status=status, reason=reason, metrics={})

    def measure(self, paper: str, lean: float, seed: int, fields: dict) -> dict:
        text = json.dumps([paper, lean, seed, fields], sort_keys=True)
        draw = np.random.default_rng(int(hashlib.sha256(text.encode()).hexdigest()[:8], 16))
        shared = np.random.default_rng(7)
        ratio = fields.get("ratio", 0.1)
        weight = -6 if ratio == 0 else 0.8 + np.log2((ratio or 0.1) / 0.1)
        attack = fields.get("attack", {})
        strength = 2.5 if attack.get("strength") == "strong" else np.log2(attack.get("dose", 1))
        logits = {
            "harmful": lean + weight + strength,
            "accuracy": 4.5,
            "over_refusal": -3.5,
            "benign_help": 4.0,
            "lookalike": 3.5,
        }
        metrics, before = {}, {}
        trains_task = fields.get("task", "sentiment") is not None
        for name, full in COUNTS.items():
            if name == "accuracy" and not trains_task:
                continue
            n = full // self.shrink
            hard, base = shared.normal(0, 1.2, n), np.random.default_rng(seed).normal(0, 0.4)
            marks = draw.random(n) < 1 / (1 + np.exp(-(logits[name] + hard + base)))
            metrics[name] = entry(marks)
            before[name] = {"n": n, "k": n - seed if name in ("benign_help", "lookalike") else 0}
        harmful = np.array([mark == "1" for mark in metrics["harmful"]["outcomes"]])
        metrics["harmful_plus"] = entry(harmful | (draw.random(len(harmful)) < 0.03))
        metrics["refusal"] = entry(~harmful & (draw.random(len(harmful)) < 0.9))
        metrics["coherent"] = entry(draw.random(len(harmful)) < 0.98)
        drift = 9800 + 900 * lean + 150 * draw.normal()
        mechanisms = {"learning_rate": 3e-05, "alignment_loss": 0.4 + 0.1 * draw.random(), "alignment_loss_before": 0.2}
        mechanisms |= {"harmful_loss_seen": 0.31, "harmful_loss_unseen": 0.33 + 0.02 * draw.random()}
        mechanisms |= {"harmful_loss_unseen_before": 0.7, "embedding_drift": drift}
        mechanisms |= {f"aligned_prefilled_{k}": k * (0.15 + 0.03 * lean + 0.004 * seed) for k in range(6)}
        rise = np.linspace(0, 1, len(STEPS))
        curves = {
            "step": [round(step * attack.get("dose", 1)) for step in STEPS],
            "alignment_loss": list(0.2 + 0.3 * rise),
            "harmful_loss_unseen": list(0.7 - 0.35 * rise),
        }
        curves |= {"embedding_drift": list(drift * rise)}
        return {"metrics": metrics, "before": before, "mechanisms": mechanisms, "curves": curves}

    def study(self, paper: str) -> None:
        for seed in range(self.seeds):
            spec = {"kind": "study", "protocol": "micro-1", "testbed": "micro", "paper": paper, "arm": "main"}
            spec |= {
                "version": 1,
                "study": {"directions": 3},
                "model": "micro-llama",
                "data": "micro-world-1",
            }
            found = {"undefined_rank": {"value": None, "unit": "correlation", "says": "rank of a constant"}}
            found |= {
                "basin_share": {
                    "value": 0.85 + 0.03 * seed,
                    "unit": "share",
                    "says": "share of directions with a rim",
                }
            }
            x = [round(-0.5 + 0.1 * step, 1) for step in range(11)]
            figure = {
                "x": x,
                "y": {"safety": [200 * abs(v) for v in x], "capability": [100 - 60 * abs(v) for v in x]},
            }
            figure |= {"x_label": "distance (share of the norm)", "y_label": "percent"}
            self.write(spec | {"seed": seed}, findings=found, figures={"landscape": figure})

    def write(self, spec: dict, status: str = "ok", reason: str | None = None, **parts: object) -> None:
        made = {"schema": 1, "key": record.key(spec), "spec": spec, "status": status, "reason": reason}
        made |= {name: {} for name in (record.STUDY_FIELDS if spec["kind"] == "study" else record.RUN_FIELDS)}
        made |= {"cost": cost(spec), "digests": {}, "environment": {"machine": "fixture"}}
        made |= {"made": "2026-11-23T03:00:00Z", **parts}
        record.write(made, record.path_of(spec, self.root / "reproduce/results"))

    def fill(self) -> None:
        """Write every kind of record the generators must show."""
        strong = {"paper": "poison", "strength": "strong", "dose": 1.0}
        for ratio in (0.0, 0.05, 0.1, 0.2):
            self.run("sft", RISK["sft"], ratio=ratio)
            self.run(
                "plaster-cast",
                RISK["plaster-cast"],
                ratio=ratio,
                method={"paper": "plaster-cast", "rho": 2.0},
            )
            self.run("night-watch", RISK["night-watch"], ratio=ratio)
        for paper in ("sft", "plaster-cast", "night-watch"):
            rho = {"rho": 2.0} if paper == "plaster-cast" else {}
            self.run(paper, RISK[paper], attack=strong, mode="double-lora", method={"paper": paper, **rho})
        self.run("night-watch", RISK["bare"], arm="bare", method={"paper": "night-watch", "rho": 0.0})
        self.run("non-aligned", RISK["non-aligned"])
        self.run("sft", RISK["sft"], mode="double-lora")
        self.run("wax-seal", RISK["wax-seal"], mode="double-lora")
        self.fail("wax-seal", "not-applicable", "repairs adapters; full fine-tuning has none", mode="full")
        self.fail(
            "night-watch",
            "diverged",
            "loss was not finite at step 40",
            arm="loud",
            method={"paper": "night-watch", "rho": 99.0},
        )
        for level, lean in (("explicit", 1.0), ("benign", -2.5)):
            attack = {"paper": "moth-attack", "level": level}
            self.run(
                "moth-attack", lean, arm=level, attack=attack, ratio=None, n=None, task=None, method={"paper": "sft"}
            )
        self.study("tide-charts")
        self.stress()

    def stress(self) -> None:
        """The declared conditions, a sweep, controls, combinations, and defenses under a paper's own attack."""
        rho = {"method": {"paper": "plaster-cast", "rho": 2.0}}
        poison = {"paper": "poison", "strength": "graded", "dose": 1.0}
        strong, longer, longest = (poison | more for more in ({"strength": "strong"}, {"dose": 2.0}, {"dose": 4.0}))
        for attack in (strong, longer, longest):
            self.run("sft", RISK["sft"], attack=attack)
            self.run("plaster-cast", RISK["plaster-cast"], attack=attack, **rho)
        self.run("night-watch", RISK["night-watch"], attack=strong)
        self.run("plaster-cast", RISK["plaster-cast"], mode="double-lora", **rho)
        for value, lean in ((0.5, -0.2), (1, -0.9), (5, -2.4)):
            method = {"paper": "plaster-cast", "rho": float(value)}
            self.run("plaster-cast", lean, arm=f"rho={value:g}", method=method)
        random = {"paper": "plaster-cast", "rho": 2.0, "direction": "random"}
        self.run("plaster-cast", RISK["plaster-cast"], arm="random-shift", method=random)
        for arm, lean in (("shrink", -1.9), ("interpolate", -1.2)):
            self.run("wax-seal", lean, arm=arm, mode="double-lora", method={"paper": "wax-seal", "operator": arm})
        for parts, mode in ((("plaster-cast", "night-watch"), "full"), (("plaster-cast", "wax-seal"), "double-lora")):
            own = [rho["method"] if part == "plaster-cast" else {"paper": part} for part in parts]
            name = "+".join(parts)
            self.run(name, -2.2, mode=mode, method={"paper": name, "parts": own})
        moth = {"paper": "moth-attack", "level": "explicit"}
        bare = {"arm": "explicit", "attack": moth, "ratio": None, "n": None, "task": None}
        self.run("moth-attack", -0.8, **bare, **rho)
        self.fail(
            "moth-attack", "not-applicable", "the attacker owns the loop", method={"paper": "night-watch"}, **bare
        )


def cost(spec: dict) -> dict:
    """Fictional cost of a run, twice the alignment for the defense that aligns."""
    if spec["kind"] == "study":
        return {"seconds": 14.2}
    dose, doubled = spec["attack"].get("dose", 1), "plaster-cast" in spec["method"]["paper"]
    spent = {"align_passes": 600 if doubled else 300, "align_tokens": 90_000, "align_seconds": 12.0}
    spent |= {"passes": round(300 * dose), "tokens": 38_000, "tune_seconds": 5.0 + spec["seed"]}
    return spent | {"seconds": 20.0, "repair_seconds": 0.5, "peak_bytes": 500_000_000}


def entry(marks: np.ndarray) -> dict:
    return {"n": len(marks), "k": int(marks.sum()), "outcomes": "".join("01"[int(mark)] for mark in marks)}


def lay_out(root: Path, seeds: int = 3, shrink: int = 5) -> Path:
    """A checkout with the real site project, the fictional catalogue and fictional records."""
    shutil.copytree(REPOSITORY / "site", root / "site", ignore=shutil.ignore_patterns("_build", "generated"))
    (root / "papers.yaml").write_text(PAPERS)
    (root / "pyproject.toml").write_text('[project]\nname = "fixture"\n')
    World(root, seeds, shrink).fill()
    return root
