"""How much work a ranking saves who screens candidates: average precision and work saved over sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

RECALL = 0.95


@dataclass(frozen=True)
class Spread:
    """A number over the folds of a cross-validation: mean, standard deviation, least and greatest."""

    mean: float
    sd: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least two values."""
        return cls(*(round(each, 4) for each in (fmean(values), stdev(values), min(values), max(values))))

    def __str__(self) -> str:
        return f"{self.mean:.3f} (folds {self.low:.3f} to {self.high:.3f}, sd {self.sd:.3f})"


def work_saved(is_relevant: Sequence[bool], scores: Sequence[float], recall: float = RECALL) -> float:
    """Work saved over sampling: (TN + FN) / N - (1 - recall), read where the ranking first reaches `recall`.

    The share of candidates nobody needs to read, less what a random order would save at that recall. From Cohen,
    Hersh, Peterson, Yen (2006), Reducing workload in systematic review preparation using automated citation
    classification, JAMIA 13(2), 206-219, doi:10.1197/jamia.M1929. Candidates with the score of the last one needed
    count as read. ValueError without a relevant candidate.
    """
    return 1 - len(_read(is_relevant, scores, recall)) / len(scores) - (1 - recall)


def most_work_saved(is_relevant: Sequence[bool], recall: float = RECALL) -> float:
    """The work saved by a perfect ranking, which is less the more of the candidates are relevant."""
    return work_saved(is_relevant, [float(each) - n * 1e-9 for n, each in enumerate(is_relevant)], recall)


def specificity(is_relevant: Sequence[bool], scores: Sequence[float], recall: float = RECALL) -> float:
    """The share of irrelevant candidates that nobody needs to read at that recall, which no base rate enters.

    Work saved over sampling scaled to lie between 0 and 1 (Kusa, Lipani, Knoth, Hanbury 2023, An analysis of work
    saved over sampling in the evaluation of automated citation screening, doi:10.1016/j.iswa.2023.200193).
    """
    wrongly_read = sum(not is_relevant[n] for n in _read(is_relevant, scores, recall))
    return 1 - wrongly_read / (len(scores) - sum(is_relevant))


def _read(is_relevant: Sequence[bool], scores: Sequence[float], recall: float) -> list[int]:
    """Which candidates are read until `recall` of the relevant ones are found."""
    found = sorted((score for score, relevant in zip(scores, is_relevant, strict=True) if relevant), reverse=True)
    if not found:
        raise ValueError("no relevant candidate to be found")
    last = found[math.ceil(recall * len(found) - 1e-9) - 1]
    return [n for n, score in enumerate(scores) if score >= last]
