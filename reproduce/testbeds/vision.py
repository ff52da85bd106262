"""A small vision-language model on the micro world: frozen image encoder, projector, and the text model behind it.

As in LLaVA: the encoder has been trained to match pictures with words (as CLIP; the words' vectors are fixed, those of
the base model) and stays frozen; a two-layer projector turns its features into a few vectors that stand among the
embedded words of the user's question. Nothing but these vectors tells the text model what the picture shows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from reproduce.data import Example, derived_rng
from reproduce.generate import BATCH
from reproduce.model import Weights
from reproduce.protocol import Schedule
from reproduce.stages import Stages
from reproduce.state import IGNORED, Batch, State
from reproduce.testbeds import language as lang
from reproduce.testbeds.pictures import PICTURED, SIZE, Blank, Picture, Split, Style, draw

TOKENS = 4  # visual tokens of a picture
FEATURES = 256
NAMED = {"head": lang.HEADS, "modifier": lang.MODIFIERS, "topic": lang.KINDS}  # attributes that words name
COUNTED = {"style": 2, "count": 3}  # the others, with their number of values
ENCODER = Schedule(steps=600, batch=96, lr=6e-3)


Words = dict[str, Tensor]  # vectors of the words of each named attribute, (values, width)


class Encoder(nn.Module):
    """Three convolutions and two linear layers: 32 x 32 pixels to a feature vector, and a readout of each attribute."""

    def __init__(self, words: Words) -> None:
        super().__init__()
        widths = (3, 16, 32, 64)
        layers = [
            layer
            for i, o in pairwise(widths)
            for layer in (nn.Conv2d(i, o, 3 if i > 3 else 4, stride=2, padding=1), nn.BatchNorm2d(o), nn.ReLU())
        ]
        self.eye = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(widths[-1] * (SIZE // 8) ** 2, 384), nn.BatchNorm1d(384), nn.ReLU(),
            nn.Linear(384, FEATURES), nn.ReLU(),
        )  # fmt: skip
        sizes = {name: len(vectors) for name, vectors in words.items()} | COUNTED
        self.classes = nn.ModuleDict({name: nn.Linear(FEATURES, size) for name, size in sizes.items()})
        self.spoken = nn.ModuleDict({name: nn.Linear(FEATURES, v.shape[1]) for name, v in words.items()})
        self.words = words

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.eye(images - 0.5)
        return features

    def name(self, features: Tensor) -> dict[str, Tensor]:
        """Logits over the values of each attribute."""
        return {name: layer(features) for name, layer in self.classes.items()}

    def speak(self, features: Tensor) -> dict[str, Tensor]:
        """Logits over words: projections on their vectors."""
        return {name: layer(features) @ self.words[name].T for name, layer in self.spoken.items()}


def word_vectors(stages: Stages) -> Words:
    """The base model's vectors of the words that name attributes, the mean over a word's tokens, whitened.

    Whitening is linear, so what matches these vectors is a linear map away from the model's own.
    """
    s = stages.state(stages.base().tensors)
    table, encode = s.model.get_input_embeddings().weight.detach(), s.testbed.tokenizer.encode
    return {
        name: whitened(torch.stack([table[encode(word, add_special_tokens=False)].mean(0) for word in words]).cpu())
        for name, words in NAMED.items()
    }


def whitened(vectors: Tensor) -> Tensor:
    """Centred rows after a linear map that makes their columns orthogonal; rows have length 2 on average."""
    left, _, _ = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    scaled: Tensor = 2 * left / left.norm(dim=1).mean()
    return scaled


def attributes(picture: Picture) -> dict[str, int]:
    """What the encoder learns to name; whether a topic is forbidden is not among it."""
    return {
        "topic": picture.item.topic, "head": picture.item.head, "modifier": picture.item.modifier,
        "style": int(picture.style == "note"), "count": picture.count - 1,
    }  # fmt: skip


def _labels(pictures: Iterable[Picture]) -> dict[str, Tensor]:
    rows = [attributes(p) for p in pictures]
    return {name: torch.tensor([row[name] for row in rows]) for name in (*NAMED, *COUNTED)}


def random_pictures(count: int, split: Split, seed: int) -> list[Picture]:
    """Pictures of all items that are pictured at all, half of them notes."""
    rng = derived_rng("pictures", split, seed)
    styles: list[Style] = ["drawing", "note"]

    def one(instance: int) -> Picture:
        style = rng.choice(styles)
        times = rng.randint(1, 3) if style == "drawing" else 1
        return Picture(rng.choice(PICTURED), style, times, split, instance)

    return [one(i) for i in range(count)]


def train_encoder(words: Words, seed: int, schedule: Schedule = ENCODER) -> Encoder:
    """The encoder, trained on the attributes of training pictures, each seen once, then frozen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_rng("encoder", seed).getrandbits(62))
        encoder = Encoder(words)
    pictures = random_pictures(schedule.steps * schedule.batch, "train", seed)
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=schedule.lr, weight_decay=0.0, fused=True)
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule.factor)
    for start in range(0, len(pictures), schedule.batch):
        shown = pictures[start : start + schedule.batch]
        features, labels = encoder(torch.stack([draw(p) for p in shown])), _labels(shown)
        named = [*encoder.name(features).items(), *encoder.speak(features).items()]
        losses = [cross_entropy(logits, labels[name]) for name, logits in named]
        optimiser.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        rates.step()
    optimiser.zero_grad(set_to_none=True)
    return encoder.eval().requires_grad_(False)


@torch.no_grad()
def recognition(encoder: Encoder, pictures: Sequence[Picture]) -> dict[str, float]:
    """Share of pictures of which the encoder names each attribute, and the item: modifier and head together."""
    named, labels = encoder.name(encoder(torch.stack([draw(p) for p in pictures]))), _labels(pictures)
    right = {name: logits.argmax(1) == labels[name] for name, logits in named.items()}
    right["item"] = right["modifier"] & right["head"]
    return {name: float(hits.float().mean()) for name, hits in right.items()}


class Sighted(nn.Module):
    """The text model with a projector before it; the encoder stays outside, so nothing here can train it."""

    def __init__(self, text: PreTrainedModel, seed: int) -> None:
        super().__init__()
        self.text = text
        width: int = text.config.hidden_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_rng("projector", seed).getrandbits(62))
            self.projector = nn.Sequential(
                nn.LayerNorm(FEATURES), nn.Linear(FEATURES, 512), nn.GELU(), nn.Linear(512, TOKENS * width)
            )

    @property
    def device(self) -> torch.device:
        return self.text.device

    def embed(self, ids: Tensor, visual: Tensor, features: Tensor) -> Tensor:
        """Word embeddings, with the projected `features` (pictures, dim) in order at the positions marked `visual`."""
        words: Tensor = self.text.get_input_embeddings()(ids)
        seen = self.projector(features).to(words.dtype).reshape(-1, words.shape[-1])
        return words.masked_scatter(visual[..., None], seen)


@dataclass(frozen=True)
class Conversation:
    """Questions and answers, all answers learned; a picture stands in the first question, before its text."""

    turns: tuple[Example, ...]
    picture: Picture | Blank | None = None


@dataclass(frozen=True)
class VisualBatch(Batch):
    """A batch with the features of its pictures, in order, and the positions of their visual tokens."""

    visual: Tensor
    features: Tensor


Row = tuple[list[int], list[int], list[bool]]


@dataclass
class Sight(State):
    """A state whose model is `Sighted` and whose examples are conversations; the frozen `encoder` is no part of it."""

    encoder: Encoder = field(kw_only=True)
    _seen: dict[Picture | Blank, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def features(self, pictures: Sequence[Picture | Blank]) -> Tensor:
        """Encoder features (pictures, dim), computed once a picture, as the encoder never changes."""
        new = list(dict.fromkeys(p for p in pictures if p not in self._seen))
        if new:
            self._seen.update(zip(new, self.encoder(torch.stack([draw(p) for p in new])), strict=True))
        rows = [self._seen[p] for p in pictures]
        return (torch.stack(rows) if rows else torch.zeros(0, FEATURES)).to(self.model.device)

    def _question(self, turn: Example, picture: Picture | Blank | None) -> tuple[list[int], list[bool]]:
        """Ids up to where the answer starts, and which of them are placeholders of visual tokens."""
        if picture is None:
            given = self._encode(turn)[0]
            return given, [False] * len(given)
        tokenizer = self.testbed.tokenizer
        before, after = self.testbed.render(turn).split(turn.prompt, 1)
        opening, rest = (tokenizer.encode(t, add_special_tokens=False) for t in (before, turn.prompt + after))
        ids = [*opening, *[tokenizer.pad_token_id] * TOKENS, *rest]
        return ids, [len(opening) <= i < len(opening) + TOKENS for i in range(len(ids))]

    def _row(self, conversation: Conversation) -> Row:
        ids, labels, visual = list[int](), list[int](), list[bool]()
        for i, turn in enumerate(conversation.turns):
            given, places = self._question(turn, conversation.picture if i == 0 else None)
            answer = self._encode(turn)[1]
            ids += given + answer
            labels += [IGNORED] * len(given) + answer
            visual += places + [False] * len(answer)
        return ids, labels, visual

    def batch(self, examples: Sequence[Any]) -> VisualBatch:
        """Encode and right-pad conversations."""
        rows = [self._row(c) for c in examples]
        length = max(len(ids) for ids, _, _ in rows)
        pad = self.testbed.tokenizer.pad_token_id
        ids, labels, visual = (
            torch.tensor([list(row[part]) + [fill] * (length - len(row[0])) for row in rows], device=self.model.device)
            for part, fill in ((0, pad), (1, IGNORED), (2, False))
        )
        ends = torch.tensor([len(row[0]) for row in rows], device=self.model.device)
        real = torch.arange(length, device=self.model.device) < ends[:, None]
        shown = self.features([c.picture for c in examples if c.picture])
        return VisualBatch([c.turns[0] for c in examples], ids, labels, real, visual, shown)

    def logits(self, batch: Batch, under: Weights | None = None) -> Tensor:
        """Next-token logits with pictures in their places; replaced weights are for models of text alone."""
        if under or not isinstance(batch, VisualBatch):
            raise TypeError("a visual state takes visual batches and keeps its own weights")
        self.cost.passes += 1
        self.cost.tokens += int(batch.real.sum())
        embedded = self.model.embed(batch.ids, batch.visual, batch.features)
        logits: Tensor = self.model.text(inputs_embeds=embedded, use_cache=False).logits
        return logits

    @torch.no_grad()
    def generate(self, examples: Sequence[Any]) -> list[str]:
        """Greedy answers to the first question of each conversation."""
        self.model.eval()
        answers: list[str] = []
        for start in range(0, len(examples), BATCH):
            answers += self._answers(examples[start : start + BATCH])
        self.model.train()
        return answers

    def _answers(self, conversations: Sequence[Conversation]) -> list[str]:
        """One batch, padded on the left."""
        rows = [self._question(c.turns[0], c.picture) for c in conversations]
        length, tokenizer, device = max(len(ids) for ids, _ in rows), self.testbed.tokenizer, self.model.device
        ids, visual, real = (
            torch.tensor([[fill] * (length - len(row)) + row for row in part], device=device)
            for part, fill in (
                ([ids for ids, _ in rows], tokenizer.pad_token_id),
                ([places for _, places in rows], False),
                ([[True] * len(ids) for ids, _ in rows], False),
            )
        )
        shown = self.features([c.picture for c in conversations if c.picture])
        fresh = self.model.text.generate(
            inputs_embeds=self.model.embed(ids, visual, shown), attention_mask=real.long(), do_sample=False,
            num_beams=1, max_new_tokens=self.testbed.max_new_tokens, pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        texts = tokenizer.batch_decode(fresh, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [text.strip() for text in texts]


def sight(stages: Stages, text: Weights, encoder: Encoder) -> Sight:
    """A state before any visual training: a text model with the weights `text` and an untrained projector."""
    plain = stages.state(text)
    model = Sighted(plain.model, stages.seed).to(plain.model.device)
    return Sight(model, stages.testbed, stages.pools, stages.seed, encoder=encoder)
