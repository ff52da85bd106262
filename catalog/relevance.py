"""Which candidates are worth reading first, and what they are: models learnt from every decision taken so far.

TF-IDF of words and pairs of words, and logistic regression with balanced classes. What is in the catalogue stands
against what excluded.yaml keeps; type and stage are learnt from the catalogue. Nothing is tuned on these data: the
penalty is scikit-learn's default. One thread does it, since for so little text several only wait for one another
(measured on two busy cores: 1.3 s against 5.9 s).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import RepeatedStratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from threadpoolctl import threadpool_limits

from catalog import screening
from catalog.excluded import Excluded
from catalog.schema import Paper
from catalog.screening import Spread

FOLDS, REPEATS, SEED = 5, 4, 0
FEWEST = 20
"""Papers on each side below which relevance is not learnt."""
ENOUGH = 40
"""Abstracts on each side from which papers with an abstract alone are learnt from, by title and abstract."""
FEWEST_OF_A_KIND = 10
"""Papers of a type or stage below which it is never predicted."""


@dataclass(frozen=True)
class Text:
    """What is read of a paper; `arxiv` is its id there, if it has one."""

    title: str
    arxiv: str | None


@dataclass(frozen=True)
class Examples:
    """Texts with what was decided about each."""

    texts: list[str]
    labels: list[str]

    @property
    def counts(self) -> dict[str, int]:
        return dict(sorted(Counter(self.labels).items()))


class Reader:
    """What was decided so far, read by titles, or by titles and abstracts where both sides have enough of these.

    Never by titles here and abstracts there: a model would learn who has an abstract, not what it says.
    """

    def __init__(self, papers: Iterable[Paper], left_out: Iterable[Excluded], abstracts: Mapping[str, str]) -> None:
        self._abstracts = abstracts
        entries = list(papers)
        inside = [Text(paper.title, paper.ids.arxiv) for paper in entries]
        outside = [Text(each.title, each.ids.arxiv) for each in left_out]
        counts = [sum(bool(abstracts.get(each.arxiv or "")) for each in side) for side in (inside, outside)]
        self.reads_abstracts = min(counts) >= ENOUGH
        self.relevance = self._examples([(each, "in") for each in inside] + [(each, "out") for each in outside])
        self.types = self._common([(text, p.type) for text, p in zip(inside, entries, strict=True)])
        staged = [(text, p.stage) for text, p in zip(inside, entries, strict=True) if p.stage and p.type == "defense"]
        self.stages = self._common([(text, str(stage)) for text, stage in staged])

    @property
    def reads(self) -> str:
        return "titles and abstracts" if self.reads_abstracts else "titles"

    def read(self, text: Text) -> str | None:
        """What the models see of a paper; None when that is its abstract and it has none."""
        if not self.reads_abstracts:
            return text.title
        abstract = self._abstracts.get(text.arxiv or "")
        return f"{text.title}\n{abstract}" if abstract else None

    def _examples(self, pairs: Iterable[tuple[Text, str]]) -> Examples:
        known = [(seen, label) for text, label in pairs if (seen := self.read(text)) is not None]
        return Examples([seen for seen, _ in known], [label for _, label in known])

    def _common(self, pairs: Iterable[tuple[Text, str]]) -> Examples:
        """The examples of labels that occur often enough to be learnt."""
        found = self._examples(pairs)
        often = {label for label, count in found.counts.items() if count >= FEWEST_OF_A_KIND}
        kept = [(text, label) for text, label in zip(found.texts, found.labels, strict=True) if label in often]
        return Examples([text for text, _ in kept], [label for _, label in kept])


@dataclass(frozen=True)
class Opinion:
    """Relevance from 0 to 1, for ordering only; the likeliest type, and stage if that is a defense."""

    score: float | None
    type: str | None
    stage: str | None


class Judge:
    """The models, fitted once."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        counts = reader.relevance.counts
        self.ranks = min(counts.get("in", 0), counts.get("out", 0)) >= FEWEST
        self._relevance = _fitted(reader.relevance.texts, reader.relevance.labels) if self.ranks else None
        self._type, self._stage = (
            _fitted(each.texts, each.labels) if len(each.counts) > 1 else None for each in (reader.types, reader.stages)
        )

    def opinion(self, text: Text) -> Opinion | None:
        """What the models make of a paper; None when they read abstracts and it has none."""
        seen = self._reader.read(text)
        if seen is None:
            return None
        score = None
        if self._relevance is not None:
            inside = list(self._relevance.classes_).index("in")
            score = round(float(self._relevance.predict_proba([seen])[0, inside]), 3)
        kind = str(self._type.predict([seen])[0]) if self._type is not None else None
        stage = str(self._stage.predict([seen])[0]) if self._stage is not None and kind == "defense" else None
        return Opinion(score, kind, stage)


@dataclass(frozen=True)
class Ranking:
    """How well candidates are ranked; `chance` is the average precision of a random order, the share that is in.

    `most` is the work that a perfect ranking would save.
    """

    average_precision: Spread
    chance: float
    work_saved: Spread
    most: float
    specificity: Spread


@dataclass(frozen=True)
class Guessing:
    """How often a label is predicted rightly, against always saying the commonest one."""

    counts: dict[str, int]
    accuracy: Spread
    majority: float


@dataclass(frozen=True)
class Evaluation:
    """Cross-validated figures; `folds` is fold by repeat, None stands for what cannot be learnt yet."""

    reads: str
    counts: dict[str, int]
    folds: str
    relevance: Ranking | None
    type: Guessing | None
    stage: Guessing | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"caveat": self.caveat}

    @property
    def caveat(self) -> str:
        """What the figures do not say."""
        inside, outside = (self.counts.get(side, 0) for side in ("in", "out"))
        return (
            f"from {inside} papers in and {outside} out, which are neighbours of the subject that people looked at: "
            "this says little about arXiv, where far more is out and precision is lower"
        )


def evaluate(reader: Reader) -> Evaluation:
    """Stratified cross-validation of the models, vectoriser included, with a fixed seed."""
    kinds = [_guessing(each) if len(each.counts) > 1 else None for each in (reader.types, reader.stages)]
    counts = reader.relevance.counts
    can_rank = min(counts.get("in", 0), counts.get("out", 0)) >= FEWEST
    ranking = _ranking(reader.relevance) if can_rank else None
    return Evaluation(reader.reads, counts, f"{FOLDS} folds, {REPEATS} times", ranking, *kinds)


def _model() -> Pipeline:
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), strip_accents="unicode")
    return make_pipeline(words, LogisticRegression(class_weight="balanced", max_iter=1000))


def _fitted(texts: Any, labels: Any) -> Pipeline:
    with threadpool_limits(1):  # type: ignore[no-untyped-call]
        return _model().fit(texts, labels)


def _folds(examples: Examples) -> Iterable[tuple[Any, Any]]:
    splits = RepeatedStratifiedKFold(n_splits=FOLDS, n_repeats=REPEATS, random_state=SEED)
    found: Iterable[tuple[Any, Any]] = splits.split(examples.texts, examples.labels)
    return found


def _ranking(examples: Examples) -> Ranking:
    texts, is_in = np.array(examples.texts, dtype=object), np.array([label == "in" for label in examples.labels])
    precision, saved, most, spared = [], [], [], []
    for train, test in _folds(examples):
        model = _fitted(texts[train], is_in[train])
        scores: Sequence[float] = model.predict_proba(texts[test])[:, 1].tolist()
        truth: Sequence[bool] = is_in[test].tolist()
        precision.append(float(average_precision_score(truth, scores)))
        saved.append(screening.work_saved(truth, scores))
        most.append(screening.most_work_saved(truth))
        spared.append(screening.specificity(truth, scores))
    spreads = [Spread.of(each) for each in (precision, saved, spared)]
    chance, at_most = round(float(is_in.mean()), 4), Spread.of(most).mean
    return Ranking(spreads[0], chance, spreads[1], at_most, spreads[2])


def _guessing(examples: Examples) -> Guessing:
    texts, labels = np.array(examples.texts, dtype=object), np.array(examples.labels)
    right = [
        float((_fitted(texts[train], labels[train]).predict(texts[test]) == labels[test]).mean())
        for train, test in _folds(examples)
    ]
    counts = examples.counts
    return Guessing(counts, Spread.of(right), round(max(counts.values()) / len(labels), 4))
