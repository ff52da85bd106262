"""Two lines of operating points compared at equal benefit: harm at equal accuracy, lost utility at equal harm."""

from collections.abc import Sequence

import numpy as np

Point = tuple[float, float]  # what is held equal, and a price of which less is better


def saving_at_equal(ours: Sequence[Point], other: Sequence[Point]) -> float | None:
    """Mean over our points of the other line's price minus ours, interpolated where the first coordinate is equal.

    Of points with the same first coordinate the other line keeps the cheapest; ours outside its range do not count.
    None when no point of ours lies inside.
    """
    cheapest: dict[float, float] = {}
    for at, price in other:
        cheapest[at] = min(price, cheapest.get(at, price))
    x = sorted(cheapest)
    savings = [float(np.interp(at, x, [cheapest[v] for v in x])) - p for at, p in ours if x[0] <= at <= x[-1]]
    return sum(savings) / len(savings) if savings else None
