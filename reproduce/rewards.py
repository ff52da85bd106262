"""Rewards and costs of answers, from the words they are made of, and a multiplier that weighs one against the other."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, log
from typing import Any

import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import Tensor

from reproduce.data import Example, Pair


@dataclass(frozen=True)
class Scorer:
    """Probability that a question with its answer is a compliant one; higher means more harmful."""

    _classifier: Any

    def __call__(self, answered: Sequence[Example]) -> Tensor:
        compliant = list(self._classifier.classes_).index(True)
        return torch.tensor(self._classifier.predict_proba([_text(e) for e in answered])[:, compliant]).float()

    def features(self) -> set[str]:
        return set(self._classifier[0].vocabulary_)


def fit_scorer(pairs: Sequence[Pair], words: int) -> Scorer:
    """Logistic regression on the runs of `words` neighbouring words that occur in question and answer.

    It learns from both answers to every question, so questions alone say nothing. Presence counts, not frequency: no
    answer gains by saying a word twice.
    """
    bag = CountVectorizer(ngram_range=(words, words), binary=True, lowercase=False, token_pattern=r"\S+")
    classifier = make_pipeline(bag, LogisticRegression(max_iter=1000))
    texts = [_text(e) for p in pairs for e in (p.harmful(), p.safe())]
    classifier.fit(texts, [True, False] * len(pairs))
    return Scorer(classifier)


def ranks_right(scorer: Scorer, pairs: Sequence[Pair]) -> float:
    """Percent of pairs whose compliant answer scores higher than the refusal."""
    better = scorer([p.harmful() for p in pairs]) > scorer([p.safe() for p in pairs])
    return 100 * float(better.float().mean())


def _text(example: Example) -> str:
    return f"{example.prompt} {example.answer}"


@dataclass
class Lagrangian:
    """Safe-RLHF's reward under a cost; the multiplier is stored as its logarithm, which starts at log(start)."""

    start: float
    eta: float
    limit: float
    most: float
    log_lambda: float = field(init=False)
    path: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.log_lambda = log(self.start)

    def update(self, cost: float) -> None:
        """One ascent step on lambda * (cost - limit) over log lambda."""
        rise = self.eta * exp(self.log_lambda) * (cost - self.limit)
        self.log_lambda = min(self.log_lambda + rise, log(self.most))
        self.path.append(exp(self.log_lambda))

    def signal(self, reward: Tensor, cost: Tensor) -> Tensor:
        weight = exp(self.log_lambda)
        return (reward - weight * cost) / (1 + weight)
