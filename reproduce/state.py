"""What a hook sees: the model, its data streams, and verbs to read, change and restore them."""

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from reproduce.data import Example, Pools, derived_rng
from reproduce.generate import decode, generate, sample
from reproduce.model import (
    Adapter,
    Block,
    Weights,
    adapters,
    attach_adapter,
    blocks,
    merge_adapter,
    output_tensor,
    weights,
    with_tensor,
)
from reproduce.protocol import Lora

IGNORED = -100  # label of positions without loss

Site = Literal["attention", "mlp", "layer"]


@dataclass(frozen=True)
class Batch:
    """Right-padded sequences; all tensors (batch, length). `labels` are ids at answer positions and -100 elsewhere."""

    examples: Sequence[Example]
    ids: Tensor
    labels: Tensor
    real: Tensor  # not padding

    @property
    def answer(self) -> Tensor:
        """Positions that carry loss: the answer and its end mark."""
        return self.labels != IGNORED

    @property
    def prompt(self) -> Tensor:
        return self.real & ~self.answer


T = TypeVar("T")


class Stream(Generic[T]):
    """Endless draws from a pool (of examples or pairs): a new random order every epoch, nothing twice in one."""

    def __init__(self, examples: Sequence[T], rng: random.Random) -> None:
        if not examples:
            raise ValueError("a data stream needs at least one example")
        self.examples, self._rng, self._queue = examples, rng, list[T]()

    def take(self, count: int) -> list[T]:
        drawn: list[T] = []
        while len(drawn) < count:
            if not self._queue:
                self._queue = self._rng.sample(list(self.examples), len(self.examples))
            drawn.append(self._queue.pop())
        return drawn


@dataclass
class Cost:
    """Work done: passes are forward or backward passes of a batch, tokens those that went forward in training."""

    passes: int = 0
    tokens: int = 0


@dataclass
class State:
    """One model on its way through the stages of one run.

    `stage` says whether the model is being aligned or fine-tuned, `split` which prompts measure it; `references` are
    the weights of earlier stages by name ("base", "aligned"), `memo` is a method's own memory, `step` and `steps` say
    how far the current stage is.
    """

    model: Any
    testbed: Any
    pools: Pools
    seed: int
    stage: Literal["align", "finetune"] = "align"
    split: str = "test"
    streams: dict[str, Stream[Any]] = field(default_factory=dict)
    references: dict[str, Weights] = field(default_factory=dict)
    memo: dict[str, Any] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    step: int = 0
    steps: int = 0
    _encoded: dict[Example, tuple[list[int], list[int]]] = field(default_factory=dict)

    # data

    def add_stream(self, name: str, examples: Sequence[Any]) -> None:
        self.streams[name] = Stream(examples, derived_rng("stream", name, self.seed))

    def draw(self, stream: str, count: int) -> Batch:
        """The next `count` examples of a named stream."""
        return self.batch(self.streams[stream].take(count))

    def rng(self, *parts: object) -> torch.Generator:
        """A generator that depends on the seed and on `parts` only."""
        return torch.Generator().manual_seed(derived_rng(self.seed, *parts).getrandbits(62))

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Encode and pad `examples`; the loss sits on the answer and its end mark, not on a given prefix."""
        return self._padded(examples, [self._encode(e) for e in examples])

    def _padded(self, examples: Sequence[Example], rows: Sequence[tuple[list[int], list[int]]]) -> Batch:
        length = max(len(given) + len(answer) for given, answer in rows)
        pad = self.testbed.tokenizer.pad_token_id
        ids = torch.full((len(rows), length), pad)
        labels = torch.full((len(rows), length), IGNORED)
        real = torch.zeros((len(rows), length), dtype=torch.bool)
        for i, (given, answer) in enumerate(rows):
            end = len(given) + len(answer)
            ids[i, :end] = torch.tensor(given + answer)
            labels[i, len(given) : end] = torch.tensor(answer)
            real[i, :end] = True
        device = self.model.device
        return Batch(examples, ids.to(device), labels.to(device), real.to(device))

    def _encode(self, example: Example) -> tuple[list[int], list[int]]:
        if example not in self._encoded:
            tokenizer = self.testbed.tokenizer
            encode = partial(tokenizer.encode, add_special_tokens=False)
            given = encode(self.testbed.render(example))
            if example.prefix:
                given = given + encode(example.prefix)
            self._encoded[example] = given, [*encode(example.answer), tokenizer.eos_token_id]
        return self._encoded[example]

    # passes

    def logits(self, batch: Batch, under: Weights | None = None) -> Tensor:
        """Next-token logits (batch, length, vocabulary); right padding needs no attention mask in a causal model.

        `under` replaces parameters by name for this pass only, so that gradients reach what they were computed from.
        """
        self.cost.passes += 1
        self.cost.tokens += int(batch.real.sum())
        asked = {"input_ids": batch.ids, "use_cache": False}
        logits: Tensor = (functional_call(self.model, under, kwargs=asked) if under else self.model(**asked)).logits
        return logits

    def loss(self, batch: Batch, *, each: bool = False) -> Tensor:
        """Mean cross-entropy over answer tokens of the batch, or of each example when `each` (shape: batch)."""
        logits, labels = self.logits(batch)[:, :-1], batch.labels[:, 1:]
        token = cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none")
        token, counted = token.view(labels.shape), labels != IGNORED
        return token.sum(1) / counted.sum(1) if each else token.sum() / counted.sum()

    def backward(self, loss: Tensor) -> None:
        self.cost.passes += 1
        loss.backward()  # type: ignore[no-untyped-call]

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Passes made in here are a measurement's, not the method's."""
        kept = self.cost.passes, self.cost.tokens
        yield
        self.cost.passes, self.cost.tokens = kept

    def generate(self, examples: Sequence[Example]) -> list[str]:
        """Greedy answers, after each example's prefix when it has one."""
        prompts = [self._encode(e)[0] for e in examples]
        return generate(self.model, self.testbed.tokenizer, prompts, self.testbed.max_new_tokens)

    def sample(
        self, examples: Sequence[Example], max_new_tokens: int, *parts: object, temperature: float = 1.0
    ) -> Batch:
        """Sampled answers, as a batch of what was drawn; `parts` name the draw, as in `rng`.

        An answer cut off at `max_new_tokens` has no end mark.
        """
        prompts = [self._encode(e)[0] for e in examples]
        seed = derived_rng(self.seed, "sample", *parts).getrandbits(62)
        rows = sample(self.model, self.testbed.tokenizer, prompts, max_new_tokens, seed, temperature)
        texts = decode(self.testbed.tokenizer, rows)
        answered = [replace(e, answer=text) for e, text in zip(examples, texts, strict=True)]
        return self._padded(answered, list(zip(prompts, rows, strict=True)))

    # parameters

    def params(self) -> list[nn.Parameter]:
        """The trainable parameters, in a fixed order, tied ones once."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def grads(self) -> list[Tensor]:
        """Copies of the gradients, zeros where there is none, in the order of `params`."""
        return [torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for p in self.params()]

    def clear_grads(self) -> None:
        for p in self.params():
            p.grad = None

    def snapshot(self) -> list[Tensor]:
        """Detached copies of the trainable parameters."""
        return [p.detach().clone() for p in self.params()]

    @torch.no_grad()
    def restore(self, snapshot: Sequence[Tensor]) -> None:
        """Put a snapshot back, bit for bit."""
        for p, value in zip(self.params(), snapshot, strict=True):
            p.copy_(value)

    def attach_adapter(self, lora: Lora, stage: str) -> None:
        self.model = attach_adapter(self.model, lora, derived_rng("adapter", stage, self.seed).getrandbits(62))

    def merge_adapter(self) -> None:
        self.model = merge_adapter(self.model)

    def adapters(self) -> dict[str, Adapter]:
        """The LoRA pairs by weight name; empty without an adapter."""
        return adapters(self.model)

    def reference(self, name: str) -> Weights:
        """Weights of an earlier stage: "base" before alignment, "aligned" right before fine-tuning."""
        if name not in self.references:
            raise KeyError(f"no reference weights {name!r}; there are {sorted(self.references)}")
        return self.references[name]

    def delta(self, new: str, old: str) -> Weights:
        """Weight differences by name; "tuned" is the model as it is now, with any adapter's update."""
        later = self.effective_weights() if new == "tuned" else self.reference(new)
        earlier = self.reference(old)
        return {name: later[name] - earlier[name] for name in earlier}

    def effective_weights(self) -> Weights:
        """The model's weights as they act: with any adapter's update added, named as without an adapter."""
        pairs = self.adapters()
        plain = self.model.get_base_model() if pairs else self.model
        named = {n.replace(".base_layer", ""): w for n, w in weights(plain).items() if ".lora_" not in n}
        return {n: w + pairs[n].update().detach() if n in pairs else w for n, w in named.items()}

    # inside the network

    def blocks(self) -> list[Block]:
        return blocks(self.model)

    @contextmanager
    def read(self, site: Site, *, grads: bool = False) -> Iterator[list[Tensor]]:
        """Collect the outputs of a part of every block in the next forward pass, keeping their gradients if asked."""
        outputs: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            hidden = output_tensor(output)
            if grads:
                hidden.retain_grad()
            outputs.append(hidden)

        with ExitStack() as hooks:
            for block in self.blocks():
                hooks.callback(getattr(block, site).register_forward_hook(keep).remove)
            yield outputs

    @contextmanager
    def shift(self, site: Site, by: Sequence[Tensor]) -> Iterator[None]:
        """Add a constant to the output of a part of every block; gradients flow through unchanged."""

        def move(_module: nn.Module, _inputs: Any, output: Any, *, amount: Tensor) -> Any:
            return with_tensor(output, output_tensor(output) + amount)

        with ExitStack() as hooks:
            for block, amount in zip(self.blocks(), by, strict=True):
                hook = partial(move, amount=amount)
                hooks.callback(getattr(block, site).register_forward_hook(hook).remove)
            yield

    @contextmanager
    def patch(self, site: Site, values: Sequence[Tensor | None], where: Tensor) -> Iterator[None]:
        """Overwrite the output of a part of every block at positions `where` (batch, length); None spares a block."""

        def write(_module: nn.Module, _inputs: Any, output: Any, *, value: Tensor) -> Any:
            return with_tensor(output, torch.where(where.unsqueeze(-1), value, output_tensor(output)))

        with ExitStack() as hooks:
            for block, value in zip(self.blocks(), values, strict=True):
                if value is not None:
                    hook = partial(write, value=value)
                    hooks.callback(getattr(block, site).register_forward_hook(hook).remove)
            yield
