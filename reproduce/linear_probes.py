"""Linear read-outs of hidden states, trained on one model and applied to others, layer by layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from reproduce.data import derived_rng

HELD_OUT = 0.2
Array = NDArray[Any]


@dataclass(frozen=True)
class Reading:
    """What held-out prompts of a model look like by layer: to the first model's probes, and to probes of its own."""

    area: list[float]  # under the ROC curve; 0.5 is chance
    native: list[float]
    shift: list[float]  # of the logit over positive prompts, see `shift`


def split(labels: Array, seed: int) -> tuple[Array, Array]:
    """Indices to train on and held-out indices, with the same share of each label."""
    state = derived_rng("probe split", seed).getrandbits(31)
    train, held = train_test_split(np.arange(len(labels)), test_size=HELD_OUT, stratify=labels, random_state=state)
    return np.sort(train), np.sort(held)


def fit_probe(states: Array, labels: Array) -> Any:
    """Logistic regression with an L2 penalty on standardised states; its logit speaks for label 1."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000)).fit(states, labels)


def auc(probe: Any, states: Array, labels: Array) -> float:
    return float(roc_auc_score(labels, probe.decision_function(states)))


def shift(then: Array, later: Array, labels: Array) -> float:
    """Mean change of a probe's logit over prompts of label 1, in standard deviations of all logits before."""
    return float((later - then)[labels == 1].mean() / then.std())


def cross_read(states: Mapping[str, Array], labels: Array, seed: int) -> dict[str, Reading]:
    """Train a probe a layer on the first model's states (layers, prompts, width) and read every model with it."""
    reference = next(iter(states.values()))
    train, held = split(labels, seed)
    found: dict[str, Reading] = {}
    for name, own in states.items():
        rows = []
        for before, now in zip(reference, own, strict=True):
            probe, native = (fit_probe(x[train], labels[train]) for x in (before, now))
            then, later = (probe.decision_function(x[held]) for x in (before, now))
            rows.append((auc(probe, now[held], labels[held]), auc(native, now[held], labels[held]),
                         shift(then, later, labels[held])))  # fmt: skip
        found[name] = Reading(*map(list, zip(*rows, strict=True)))
    return found


def affine_lens(states: Mapping[str, Array], signal: Array, labels: Array, seed: int) -> dict[str, list[float]]:
    """The mean final signal of label 1 as a ridge regression by layer sees it, fitted to the first model's `signal`.

    It shares neither norm nor unembedding with the logit lens, whose reading of early layers it controls.
    """
    reference = next(iter(states.values()))
    train, held = split(labels, seed)
    lenses = [make_pipeline(StandardScaler(), Ridge(alpha=1.0)).fit(x[train], signal[train]) for x in reference]
    shown = held[labels[held] == 1]
    return {n: [float(f.predict(x[shown]).mean()) for f, x in zip(lenses, own, strict=True)]
            for n, own in states.items()}  # fmt: skip
