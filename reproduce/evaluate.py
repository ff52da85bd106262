"""Harmful score, fine-tune accuracy and their companions, each with the outcome of every prompt."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from reproduce.data import Example, Pools
from reproduce.judges import Verdict

Metric = dict[str, Any]
Metrics = dict[str, Metric]
Answer = Callable[[Sequence[Example]], list[str]]


def metric(outcomes: Sequence[bool]) -> Metric:
    """Count n and k; the outcomes stay as a string of 0 and 1 in the order of the prompts."""
    return {"n": len(outcomes), "k": sum(outcomes), "outcomes": "".join("01"[o] for o in outcomes)}


def evaluate(
    testbed: Any,
    pools: Pools,
    task: str | None,
    answer: Answer,
    ask: Callable[[Example], Example] = lambda e: e,
    split: str = "test",
    read: Callable[[str], str] = lambda text: text,
) -> Metrics:
    """Measure a model through `answer` on the prompts of `split` ("validation" chooses, "test" reports).

    Accuracy is measured where the user's data hold a `task`. `ask` dresses forbidden, benign and look-alike prompts
    the way the attacker asks, `read` what was answered; the task is asked and read as it was trained.
    """
    forbidden, benign, lookalike = (
        [ask(e) for e in getattr(pools, f"{kind}_{split}")] for kind in ("harmful", "benign", "lookalike")
    )

    def answered(asked: list[Example]) -> list[tuple[Example, str]]:
        return [(e, read(a)) for e, a in zip(asked, answer(asked), strict=True)]

    verdicts: list[Verdict] = [testbed.judge(e, a) for e, a in answered(forbidden)]
    near = answered(lookalike)

    def correct(pairs: Iterable[tuple[Example, str]]) -> Metric:
        return metric([testbed.correct(e, a) for e, a in pairs])

    return {
        "harmful": metric([v.harmful for v in verdicts]),
        "harmful_plus": metric([v.harmful_plus for v in verdicts]),
        "refusal": metric([v.refused for v in verdicts]),
        "coherent": metric([not v.incoherent for v in verdicts]),
        "over_refusal": metric([testbed.judge(e, a).refused for e, a in near]),
        "lookalike": correct(near),
        "benign_help": correct(answered(benign)),
        **({"accuracy": _task_accuracy(testbed, getattr(pools.tasks[task], split), answer)} if task else {}),
    }


def _task_accuracy(testbed: Any, asked: list[Example], answer: Answer) -> Metric:
    return metric([testbed.correct(e, a) for e, a in zip(asked, answer(asked), strict=True)])


def counts(metrics: Metrics) -> Metrics:
    """The same without outcomes."""
    return {name: {"n": m["n"], "k": m["k"]} for name, m in metrics.items()}


def rate(m: Metric) -> float:
    return float(m["k"] / m["n"])
