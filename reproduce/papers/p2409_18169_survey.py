"""The survey (arXiv 2409.18169) as a protocol study: what harmful fine-tuning does to an undefended model."""

from dataclasses import dataclass
from typing import Any

from scipy.stats import spearmanr

from reproduce.api import Figure, Finding, Findings, Method, Study
from reproduce.baselines import NonAligned, Poison, Sft
from reproduce.evaluate import rate
from reproduce.lab import Lab
from reproduce.run import Run

SAYS = {
    "harm_rise_over_ratio": ("points", "harmful score at the largest minus the smallest ratio"),
    "harm_ratio_spearman": ("correlation", "harmful score against ratio"),
    "accuracy_range_over_ratio": ("points", "largest minus smallest accuracy over ratios"),
    "non_aligned_minus_sft": ("points", "harmful score of the non-aligned minus the aligned model, both attacked"),
    "harm_alignment_loss_spearman": ("correlation", "harmful score against alignment loss over ratios"),
    "harm_embedding_drift_spearman": ("correlation", "harmful score against embedding drift over ratios"),
    "unseen_harmful_loss_change": (
        "loss",
        "loss on unseen harmful pairs after the attack minus after clean fine-tuning",
    ),
    "alignment_loss_rise": ("loss", "growth of the loss on alignment data during the attack"),
    "harm_rise_over_n": ("points", "harmful score with the most minus the fewest samples"),
}
LOSSES = ("alignment_loss", "harmful_loss_seen", "harmful_loss_unseen")


@dataclass(frozen=True, kw_only=True)
class Survey(Study):
    """Sweeps of harmful ratio and sample number with plain SFT: harm, accuracy, forgetting, revitalisation, drift.

    The protocol its authors use in Vaccine (2402.01109, sec. 5.1); drift as in that paper's callback with padding
    masked; exact counts of harmful samples. Every point is an ordinary run record, shared with the other papers.
    """

    paper = "hft-survey"
    ratios: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2)
    sizes: tuple[int, ...] = (250, 500, 1000, 2000)
    ratio: float = 0.1  # of the sweep over sizes, and of the comparison with the non-aligned model
    n: int = 1000  # of the sweep over ratios

    def measure(self, lab: Lab) -> Findings:
        def run(method: Method, ratio: float, n: int) -> dict[str, Any]:
            return lab.run(Run(method=method, attack=Poison(), ratio=ratio, n=n, seed=lab.seed))

        by_ratio = [run(Sft(), ratio, self.n) for ratio in self.ratios]
        by_size = [run(Sft(), self.ratio, n) for n in self.sizes]
        unaligned = run(NonAligned(), self.ratio, self.n)
        attacked = by_ratio[self.ratios.index(self.ratio)]
        figures = {
            "ratio": _scores("harmful ratio", list(self.ratios), by_ratio),
            "size": _scores("fine-tuning samples", [float(n) for n in self.sizes], by_size),
            "mechanism": _statistics(list(self.ratios), by_ratio),
            "drift": _figure("harmful ratio", list(self.ratios), {"embedding drift": _of(by_ratio, "embedding_drift")},
                             "squared distance"),
            "steps": _over_steps(attacked),
        }  # fmt: skip
        return Findings(self._findings(by_ratio, by_size, unaligned, attacked), figures)

    def _findings(
        self, by_ratio: list[dict[str, Any]], by_size: list[dict[str, Any]], unaligned: dict[str, Any],
        attacked: dict[str, Any],
    ) -> dict[str, Finding]:  # fmt: skip
        harm, sizes = [_percent(r, "harmful") for r in by_ratio], [_percent(r, "harmful") for r in by_size]
        accuracy = [_percent(r, "accuracy") for r in by_ratio]
        unseen = _of(by_ratio, "harmful_loss_unseen")
        mechanisms = attacked["mechanisms"]
        values = {
            "harm_rise_over_ratio": harm[-1] - harm[0],
            "harm_ratio_spearman": _rank(self.ratios, harm),
            "accuracy_range_over_ratio": max(accuracy) - min(accuracy),
            "non_aligned_minus_sft": _percent(unaligned, "harmful") - _percent(attacked, "harmful"),
            "harm_alignment_loss_spearman": _rank(_of(by_ratio, "alignment_loss"), harm),
            "harm_embedding_drift_spearman": _rank(_of(by_ratio, "embedding_drift"), harm),
            "unseen_harmful_loss_change": unseen[self.ratios.index(self.ratio)] - unseen[0],
            "alignment_loss_rise": mechanisms["alignment_loss"] - mechanisms["alignment_loss_before"],
            "harm_rise_over_n": sizes[-1] - sizes[0],
        }
        return {name: Finding(value, *SAYS[name]) for name, value in values.items()}


def _percent(run: dict[str, Any], metric: str) -> float:
    return 100 * rate(run["metrics"][metric])


def _of(runs: list[dict[str, Any]], mechanism: str) -> list[float]:
    return [r["mechanisms"][mechanism] for r in runs]


def _rank(x: Any, y: Any) -> float | None:
    """Spearman correlation; undefined when one side is constant."""
    if len(set(x)) == 1 or len(set(y)) == 1:
        return None
    return float(spearmanr(x, y).statistic)


def _figure(label: str, x: list[float], y: dict[str, list[float]], unit: str) -> Figure:
    return Figure(x, y, label, unit)


def _scores(label: str, x: list[float], runs: list[dict[str, Any]]) -> Figure:
    names = {"harmful": "harmful score", "accuracy": "fine-tune accuracy", "refusal": "refusal rate"}
    return Figure(x, {says: [_percent(r, m) for r in runs] for m, says in names.items()}, label, "percent")


def _statistics(x: list[float], runs: list[dict[str, Any]]) -> Figure:
    kept = [m for m in LOSSES if all(m in r["mechanisms"] for r in runs)]
    return Figure(
        x, {m.replace("_", " "): _of(runs, m) for m in kept}, "harmful ratio", "cross-entropy after fine-tuning"
    )


def _over_steps(run: dict[str, Any]) -> Figure:
    curves = run["curves"]
    y = {m.replace("_", " "): curves[m] for m in LOSSES if m in curves}
    return Figure(curves["step"], y, "fine-tuning step", "cross-entropy")
