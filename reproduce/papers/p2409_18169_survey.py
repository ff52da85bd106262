"""The survey (arXiv 2409.18169) as a protocol study: what harmful fine-tuning does to an undefended model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from scipy.stats import spearmanr

from reproduce.api import Attack, Figure, Finding, Findings, Method, Study, mixture
from reproduce.baselines import NonAligned, Poison, Sft
from reproduce.data import Example, Pools
from reproduce.evaluate import rate
from reproduce.lab import Lab
from reproduce.protocol import Protocol, Schedule
from reproduce.run import Run

SAYS = {
    "harm_rise_over_ratio": ("points", "harmful score at the largest minus the smallest ratio"),
    "harm_rise_over_n": ("points", "harmful score with the most minus the fewest samples"),
    "harm_rise_over_rate": ("points", "harmful score at the largest minus the smallest learning rate"),
    "harm_rise_over_epochs": ("points", "harmful score after the most minus the fewest epochs"),
    "harm_ratio_spearman": ("correlation", "harmful score against ratio"),
    "harm_n_spearman": ("correlation", "harmful score against the number of samples"),
    "harm_rate_spearman": ("correlation", "harmful score against learning rate"),
    "harm_epochs_spearman": ("correlation", "harmful score against epochs"),
    "accuracy_range_over_ratio": ("points", "largest minus smallest accuracy over ratios"),
    "accuracy_range_over_n": ("points", "largest minus smallest accuracy over numbers of samples"),
    "accuracy_range_over_rate": ("points", "largest minus smallest accuracy over learning rates"),
    "accuracy_range_over_epochs": ("points", "largest minus smallest accuracy over epochs"),
    "forgetting_over_ratio": ("loss", "loss on alignment data at the largest minus the smallest ratio"),
    "forgetting_over_n": ("loss", "loss on alignment data with the most minus the fewest samples"),
    "forgetting_over_rate": ("loss", "loss on alignment data at the largest minus the smallest learning rate"),
    "forgetting_over_epochs": ("loss", "loss on alignment data after the most minus the fewest epochs"),
    "revitalisation_over_ratio": ("loss", "loss on unseen harmful pairs at the smallest minus the largest ratio"),
    "revitalisation_over_n": ("loss", "loss on unseen harmful pairs with the fewest minus the most samples"),
    "revitalisation_over_rate": (
        "loss",
        "loss on unseen harmful pairs at the smallest minus the largest learning rate",
    ),
    "revitalisation_over_epochs": ("loss", "loss on unseen harmful pairs after the fewest minus the most epochs"),
    "drift_ratio_spearman": ("correlation", "embedding drift against ratio"),
    "drift_n_spearman": ("correlation", "embedding drift against the number of samples"),
    "drift_rate_spearman": ("correlation", "embedding drift against learning rate"),
    "drift_epochs_spearman": ("correlation", "embedding drift against epochs"),
    "non_aligned_minus_sft": ("points", "harmful score of the non-aligned minus the aligned model, both attacked"),
    "harm_alignment_loss_spearman": ("correlation", "harmful score against alignment loss over ratios"),
    "harm_embedding_drift_spearman": ("correlation", "harmful score against embedding drift over ratios"),
    "unseen_harmful_loss_change": (
        "loss",
        "loss on unseen harmful pairs after the attack minus after clean fine-tuning",
    ),
    "alignment_loss_rise": ("loss", "growth of the loss on alignment data during the attack"),
}
LABELS = {
    "ratio": "harmful ratio",
    "n": "fine-tuning samples",
    "rate": "learning rate, as a multiple of the calibrated one",
    "epochs": "epochs, as a multiple of the usual number",
}
LOSSES = ("alignment_loss", "harmful_loss_seen", "harmful_loss_unseen")

Sweep = tuple[list[float], list[dict[str, Any]]]  # the values of what is swept, and the record at each


@dataclass(frozen=True, kw_only=True)
class Survey(Study):
    """Sweeps of ratio, samples, rate and epochs with plain SFT: harm, accuracy, forgetting, revitalisation, drift.

    The protocol its authors use in Vaccine (2402.01109, sec. 5.1); drift as in that paper's callback with padding
    masked; exact counts of harmful samples. Every point is an ordinary run record, shared with the other papers where
    they ask for the same; those at other rates than the calibrated one are runs of `PoisonAtRate`.
    """

    paper = "hft-survey"
    version = 2
    ratios: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2)
    sizes: tuple[int, ...] = (250, 500, 1000, 2000)
    rates: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)  # times the calibrated rate
    epochs: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)  # times the protocol's number
    ratio: float = 0.1  # of the sweeps over rates and epochs, and of the comparison with the non-aligned model
    size_ratio: float = 0.05  # of the sweep over sizes (Vaccine, Table 2)
    n: int = 1000  # of every sweep but that over sizes

    def measure(self, lab: Lab) -> Findings:
        sft, usual = Sft(), Poison()

        def run(method: Method, attack: "Poison | PoisonAtRate", ratio: float, n: int) -> dict[str, Any]:
            arm = "main" if isinstance(attack, Poison) else attack.arm
            return lab.run(Run(method=method, attack=attack, ratio=ratio, n=n, seed=lab.seed, arm=arm))

        sweeps: dict[str, Sweep] = {
            "ratio": (list(self.ratios), [run(sft, usual, ratio, self.n) for ratio in self.ratios]),
            "n": (list(map(float, self.sizes)), [run(sft, usual, self.size_ratio, n) for n in self.sizes]),
            "rate": (list(self.rates), [run(sft, at_rate(factor), self.ratio, self.n) for factor in self.rates]),
            "epochs": (
                list(self.epochs),
                [run(sft, replace(usual, dose=dose), self.ratio, self.n) for dose in self.epochs],
            ),
        }
        unaligned = run(NonAligned(), usual, self.ratio, self.n)
        attacked = sweeps["ratio"][1][self.ratios.index(self.ratio)]
        figures = {"steps": _over_steps(attacked)}
        for name, sweep in sweeps.items():
            figures |= _figures(name, sweep)
        values = {key: value for name, sweep in sweeps.items() for key, value in _over(name, sweep).items()}
        values |= self._single(sweeps["ratio"][1], unaligned, attacked)
        return Findings({name: Finding(value, *SAYS[name]) for name, value in values.items()}, figures)

    def _single(
        self, by_ratio: list[dict[str, Any]], unaligned: dict[str, Any], attacked: dict[str, Any]
    ) -> dict[str, float | None]:
        harm, unseen = [_percent(r, "harmful") for r in by_ratio], _of(by_ratio, "harmful_loss_unseen")
        mechanisms = attacked["mechanisms"]
        return {
            "non_aligned_minus_sft": _percent(unaligned, "harmful") - _percent(attacked, "harmful"),
            "harm_alignment_loss_spearman": _rank(_of(by_ratio, "alignment_loss"), harm),
            "harm_embedding_drift_spearman": _rank(_of(by_ratio, "embedding_drift"), harm),
            "unseen_harmful_loss_change": unseen[self.ratios.index(self.ratio)] - unseen[0],
            "alignment_loss_rise": mechanisms["alignment_loss"] - mechanisms["alignment_loss_before"],
        }


@dataclass(frozen=True, kw_only=True)
class PoisonAtRate(Attack):
    """The poison attack at a multiple of the calibrated rate (the survey's sweep of learning rates)."""

    paper = "hft-survey"
    version = 2
    trains_task: ClassVar[bool] = True
    factor: float = 2.0

    @property
    def arm(self) -> str:
        """The rate in percent of the calibrated one."""
        return f"rate-{round(100 * self.factor)}"

    def arms(self) -> dict[str, Self]:
        others = [replace(self, factor=factor) for factor in Survey().rates if factor != 1]
        return {one.arm: one for one in others}

    def data(self, pools: Pools, ratio: float | None, n: int, task: str, seed: int) -> list[Example]:
        if ratio is None:
            raise ValueError("the poison attack needs a ratio")
        return mixture(pools, ratio, n, task, seed)

    def schedule(self, protocol: Protocol, examples: int, lr: float) -> Schedule:
        return protocol.tuning(examples, self.factor * lr)


def at_rate(factor: float) -> Poison | PoisonAtRate:
    """The poison attack at so many times its usual rate."""
    return Poison() if factor == 1 else PoisonAtRate(factor=factor)


def _over(name: str, sweep: Sweep) -> dict[str, float | None]:
    """What every sweep is asked: harm, accuracy, and the three statistics of the mechanism."""
    x, runs = sweep
    harm, accuracy = ([_percent(r, metric) for r in runs] for metric in ("harmful", "accuracy"))
    kept, unseen, drift = (_of(runs, m) for m in ("alignment_loss", "harmful_loss_unseen", "embedding_drift"))
    return {
        f"harm_rise_over_{name}": harm[-1] - harm[0],
        f"harm_{name}_spearman": _rank(x, harm),
        f"accuracy_range_over_{name}": max(accuracy) - min(accuracy),
        f"forgetting_over_{name}": kept[-1] - kept[0],
        f"revitalisation_over_{name}": unseen[0] - unseen[-1],
        f"drift_{name}_spearman": _rank(x, drift),
    }


def _figures(name: str, sweep: Sweep) -> dict[str, Figure]:
    """Scores, losses and drift over one sweep."""
    x, runs = sweep
    scores = {"harmful": "harmful score", "accuracy": "fine-tune accuracy", "refusal": "refusal rate"}
    percent = {says: [_percent(r, m) for r in runs] for m, says in scores.items()}
    kept = [m for m in LOSSES if all(m in r["mechanisms"] for r in runs)]
    losses = {m.replace("_", " "): _of(runs, m) for m in kept}
    drift = {"embedding drift": _of(runs, "embedding_drift")}
    return {
        name: Figure(x, percent, LABELS[name], "percent"),
        f"losses_{name}": Figure(x, losses, LABELS[name], "cross-entropy after fine-tuning"),
        f"drift_{name}": Figure(x, drift, LABELS[name], "squared distance"),
    }


def _percent(run: dict[str, Any], metric: str) -> float:
    return 100 * rate(run["metrics"][metric])


def _of(runs: Sequence[dict[str, Any]], mechanism: str) -> list[float]:
    return [r["mechanisms"][mechanism] for r in runs]


def _rank(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman correlation; undefined when one side is constant."""
    if len(set(x)) == 1 or len(set(y)) == 1:
        return None
    return float(spearmanr(x, y).statistic)


def _over_steps(run: dict[str, Any]) -> Figure:
    curves = run["curves"]
    y = {m.replace("_", " "): curves[m] for m in LOSSES if m in curves}
    return Figure(curves["step"], y, "fine-tuning step", "cross-entropy")
