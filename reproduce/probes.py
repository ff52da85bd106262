"""Mechanism statistics of every run: forgetting, revitalisation, drift, depth, pull of one harmful step."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from reproduce.data import Example
from reproduce.state import Batch, State


@torch.no_grad()
def mean_loss(s: State, batch: Batch) -> float:
    return float(s.loss(batch))


@torch.no_grad()
def attention_outputs(s: State, batch: Batch) -> Tensor:
    """Outputs of all attention parts at real positions, (blocks, tokens, width)."""
    with s.read("attention") as outputs:
        s.logits(batch)
    return torch.stack([o[batch.real] for o in outputs]).float()


HARMFUL_STEP = 0.03  # length of the simulated step, in parameter space
DEEP = 5  # answer tokens up to here are the shallow ones (shallow-vs-deep, sec. 2)
PREFILLED = range(6)


@torch.no_grad()
def answer_logprobs(s: State, batch: Batch) -> Tensor:
    """Log-probabilities that predict each position, (batch, length - 1, vocabulary)."""
    return log_softmax(s.logits(batch)[:, :-1].float(), -1)


def token_kl(now: Tensor, reference: Tensor, batch: Batch) -> list[float]:
    """KL(now || reference) at answer token 1, 2, ..., each a mean over the examples that have such a token."""
    each = (now.exp() * (now - reference)).sum(-1)
    counted = batch.answer[:, 1:]
    rank = counted.cumsum(1) * counted
    return [float(each[rank == t].mean()) for t in range(1, int(rank.max()) + 1)]


def sequence_kl(now: Tensor, reference: Tensor, batch: Batch) -> float:
    """KL(now || reference) summed over the answer, a mean over examples."""
    each = (now.exp() * (now - reference)).sum(-1)
    return float((each * batch.answer[:, 1:]).sum(1).mean())


def depth(kl: Sequence[float], prefix: str = "") -> dict[str, float]:
    """The KL summed over the shallow answer tokens, and over the rest."""
    return {f"{prefix}kl_tokens_1_5": sum(kl[:DEEP]), f"{prefix}kl_tokens_6_on": sum(kl[DEEP:])}


def harmful_step_drop(s: State, batch: Batch) -> float:
    """By how much one normalised step of length HARMFUL_STEP against the harmful loss lowers it (Booster, sec. 4)."""
    kept = s.snapshot()
    before = s.loss(batch)
    s.backward(before)
    grads = s.grads()
    s.clear_grads()
    norm = torch.sqrt(sum((g.square().sum() for g in grads), torch.zeros(())).clamp_min(1e-12))
    s.restore([w - HARMFUL_STEP * g / norm for w, g in zip(kept, grads, strict=True)])
    after = mean_loss(s, batch)
    s.restore(kept)
    return float(before.detach()) - after


def prefilled_harm(s: State, prompts: Sequence[Example]) -> dict[str, float]:
    """Share of harmful answers when the first k words of a compliant answer are given, k = 0 to 5."""
    shares = {}
    for k in PREFILLED:
        asked = [replace(e, prefix=" ".join(e.answer.split()[:k])) for e in prompts]
        whole = [f"{e.prefix} {a}".strip() for e, a in zip(asked, s.generate(asked), strict=True)]
        verdicts = [s.testbed.judge(e, a).harmful for e, a in zip(prompts, whole, strict=True)]
        shares[f"aligned_prefilled_{k}"] = sum(verdicts) / len(verdicts)
    return shares


def of_aligned(s: State, base: State, examples: int) -> dict[str, float]:
    """What an aligned model is like before any attack, on `examples` held-out harmful pairs and validation prompts."""
    held_out = s.pools.harmful_validation
    batch = s.batch(held_out[:examples])
    kl = token_kl(answer_logprobs(s, batch), answer_logprobs(base, batch), batch)
    drop = {"aligned_harmful_step_drop": harmful_step_drop(s, batch)}
    return {**drop, **depth(kl, "aligned_"), **prefilled_harm(s, held_out)}


class Probe:
    """Fixed batches on which the statistics are measured, with the attention outputs from before fine-tuning.

    - alignment_loss: mean cross-entropy on plain refusals of the alignment data (its growth is forgetting);
    - harmful_loss_seen / _unseen: the same on harmful pairs of the user's data / of nobody's (its fall is
      revitalisation);
    - embedding_drift: sum over blocks and tokens of the squared distance of attention outputs from before
      fine-tuning, on the same refusals, padding left out (Vaccine's callback sums the squares over padding too);
      embedding_drift_per_token divides by the tokens;
    - kl_tokens_1_5 / kl_tokens_6_on: divergence from the model before fine-tuning on held-out harmful answers, summed
      over the first five answer tokens / the others.
    """

    def __init__(
        self, s: State, refusals: Sequence[Example], seen: Sequence[Example], unseen: Sequence[Example]
    ) -> None:
        self._s = s
        self._batches = {"alignment_loss": s.batch(refusals), "harmful_loss_unseen": s.batch(unseen)}
        if seen:
            self._batches["harmful_loss_seen"] = s.batch(seen)
        with self._s.uncounted():
            self._before = attention_outputs(s, self._batches["alignment_loss"])
            self._reference = answer_logprobs(s, self._batches["harmful_loss_unseen"])
        self.curves: dict[str, list[float]] = {"step": []}

    def now(self) -> dict[str, float]:
        """All statistics of the model as it is; its mode, gradients and cost counters stay as they were."""
        with self._s.uncounted():
            values = {name: mean_loss(self._s, batch) for name, batch in self._batches.items()}
            moved = attention_outputs(self._s, self._batches["alignment_loss"]) - self._before
        return {**values, "embedding_drift": float(moved.square().sum())}

    def measure(self, step: int) -> None:
        """Add one point to every curve."""
        self.curves["step"].append(step)
        for name, value in self.now().items():
            self.curves.setdefault(name, []).append(value)

    def summary(self) -> dict[str, float]:
        """The statistics now, after any repair, and the losses from before fine-tuning."""
        values = self.now()
        before = {f"{n}_before": self.curves[n][0] for n in self._batches}
        held_out = self._batches["harmful_loss_unseen"]
        with self._s.uncounted():
            kl = token_kl(answer_logprobs(self._s, held_out), self._reference, held_out)
        per_token = values["embedding_drift"] / self._before.shape[1]
        return {**values, **before, **depth(kl), "embedding_drift_per_token": per_token}
