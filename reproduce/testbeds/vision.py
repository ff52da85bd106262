"""A small vision-language model on the micro world: frozen image encoder, projector, and the text model behind it.

As in LLaVA: the encoder is trained once to name what is in a picture and then frozen; a two-layer projector turns its
features into a few vectors that stand among the embedded words, right after the user's mark. Nothing but these vectors
tells the text model what the picture shows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu
from transformers import PreTrainedModel

from reproduce.data import Example, derived_rng
from reproduce.generate import BATCH
from reproduce.protocol import Schedule
from reproduce.state import IGNORED, Batch, State
from reproduce.testbeds import language as lang
from reproduce.testbeds import world as w
from reproduce.testbeds.pictures import Picture, Style, blank, draw, variant

TOKENS = 4  # visual tokens of a picture
FEATURES = 192
ATTRIBUTES = {"topic": w.TOPICS, "variant": w.HEADS_PER_TOPIC, "modifier": len(lang.MODIFIERS), "style": 2, "count": 3}
ENCODER = Schedule(steps=500, batch=96, lr=3e-3)


class Encoder(nn.Module):
    """Convolutions and pooling over all positions: 32 x 32 pixels to one feature vector, and heads for attributes."""

    def __init__(self, channels: int = 96) -> None:
        super().__init__()
        self.eye = nn.Sequential(
            nn.Conv2d(3, 24, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(48, channels, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.out = nn.Linear(2 * channels, FEATURES)
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, size) for name, size in ATTRIBUTES.items()})

    def forward(self, images: Tensor) -> Tensor:
        seen = self.eye(images - 0.5)
        pooled = torch.cat([seen.amax((2, 3)), seen.mean((2, 3))], 1)
        return relu(self.out(pooled))


def attributes(picture: Picture) -> dict[str, int]:
    """What the encoder learns to name; whether a topic is forbidden is not among it."""
    return {
        "topic": picture.item.topic, "variant": variant(picture.item), "modifier": picture.item.modifier,
        "style": picture.style == "note", "count": picture.count - 1,
    }  # fmt: skip


def _labels(pictures: Iterable[Picture]) -> dict[str, Tensor]:
    rows = [attributes(p) for p in pictures]
    return {name: torch.tensor([row[name] for row in rows]) for name in ATTRIBUTES}


def random_pictures(count: int, split: Any, seed: int) -> list[Picture]:
    """Pictures of all items alike, two thirds of them drawings."""
    rng = derived_rng("pictures", split, seed)
    styles: list[Style] = ["drawing", "drawing", "note"]

    def one(instance: int) -> Picture:
        style = rng.choice(styles)
        times = rng.randint(1, 3) if style == "drawing" else 1
        return Picture(rng.choice(w.ITEMS), style, times, split, instance)

    return [one(i) for i in range(count)]


def train_encoder(seed: int, schedule: Schedule = ENCODER, pictures: int = 16_000) -> Encoder:
    """The encoder, trained on attributes of training pictures with fresh noise every time, then frozen."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_rng("encoder", seed).getrandbits(62))
        encoder = Encoder()
    shown = random_pictures(pictures, "train", seed)
    images, labels = torch.stack([draw(p) for p in shown]), _labels(shown)
    rng = torch.Generator().manual_seed(derived_rng("encoder order", seed).getrandbits(62))
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=schedule.lr, weight_decay=0.0, fused=True)
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule.factor)
    for _ in range(schedule.steps):
        rows = torch.randint(len(shown), (schedule.batch,), generator=rng)
        features = encoder(images[rows])
        losses = [cross_entropy(head(features), labels[name][rows]) for name, head in encoder.heads.items()]
        optimiser.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        optimiser.step()
        rates.step()
    return encoder.eval().requires_grad_(False)


@torch.no_grad()
def recognition(encoder: Encoder, pictures: Sequence[Picture]) -> dict[str, float]:
    """Share of pictures of which the encoder names each attribute."""
    features, labels = encoder(torch.stack([draw(p) for p in pictures])), _labels(pictures)
    return {n: float((head(features).argmax(1) == labels[n]).float().mean()) for n, head in encoder.heads.items()}
