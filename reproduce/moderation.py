"""A content filter as a provider of fine-tuning may run it: it has read plain text only, and knows no code."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from reproduce.data import Example, Pools

PENALTY = 1e-4  # on squared weights
ROUNDS = 60


def text_of(example: Example) -> str:
    """All that the provider sees of a training item or of a dialogue."""
    return " ".join(part for part in (example.system, example.prompt, example.prefix, example.answer) if part)


class ContentFilter:
    """Logistic regression on the words of a text (there or not), both sides weighed alike; flagged or passed.

    Words it has never seen say nothing.
    """

    def __init__(self, harmful: Sequence[str], harmless: Sequence[str]) -> None:
        words = sorted({word for text in (*harmful, *harmless) for word in text.split()})
        self._index = {word: i for i, word in enumerate(words)}
        bad, good = self._features(harmful), self._features(harmless)
        self._weights = torch.zeros(len(words) + 1, requires_grad=True)
        optimiser = torch.optim.LBFGS([self._weights], max_iter=ROUNDS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = softplus(-bad @ self._weights).mean() + softplus(good @ self._weights).mean()
            loss = loss + PENALTY * self._weights.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimiser.step(closure)  # type: ignore[no-untyped-call]

    def _features(self, texts: Sequence[str]) -> Tensor:
        rows = torch.zeros(len(texts), len(self._index) + 1)
        rows[:, -1] = 1.0
        for row, text in zip(rows, texts, strict=True):
            row[[self._index[word] for word in set(text.split()) if word in self._index]] = 1.0
        return rows

    @torch.no_grad()
    def flags(self, texts: Sequence[str]) -> list[bool]:
        """Which texts it takes for harmful."""
        found: list[bool] = (self._features(texts) @ self._weights > 0).tolist()
        return found

    def share(self, texts: Sequence[str]) -> float:
        """Share of the texts that are flagged."""
        return sum(self.flags(texts)) / len(texts)


def trained_filter(pools: Pools) -> ContentFilter:
    """The filter of a defender who tells harmful pairs from the alignment data: harmless questions and refusals."""
    return ContentFilter([text_of(p.harmful()) for p in pools.defender_harmful], [text_of(e) for e in pools.alignment])
