"""Greedy decoding and sampling, one path for every model."""

from collections.abc import Sequence
from typing import Any

import torch

BATCH = 320


def generate(model: Any, tokenizer: Any, prompts: Sequence[list[int]], max_new_tokens: int) -> list[str]:
    """Greedy continuations of prompts (token ids, as in training), decoded without special tokens, in order."""
    return decode(tokenizer, _continuations(model, tokenizer, prompts, max_new_tokens, do_sample=False))


def sample(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], max_new_tokens: int, seed: int, temperature: float = 1.0
) -> list[list[int]]:
    """Continuations drawn from the whole vocabulary, up to the end mark if there is one (its id last).

    The draws depend on `seed` only, and leave the global generator as it was.
    """
    whole = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rows = _continuations(model, tokenizer, prompts, max_new_tokens, **whole)
    end = tokenizer.eos_token_id
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


def decode(tokenizer: Any, rows: Sequence[list[int]]) -> list[str]:
    """Token ids as text, without special tokens."""
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [text.strip() for text in texts]


@torch.no_grad()
def _continuations(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], max_new_tokens: int, **how: Any
) -> list[list[int]]:
    was_training = model.training
    model.eval()
    found: list[list[int]] = []
    for start in range(0, len(prompts), BATCH):
        rows = {"input_ids": list(prompts[start : start + BATCH])}
        batch = tokenizer.pad(rows, padding_side="left", return_tensors="pt").to(model.device)
        tokens = model.generate(
            **batch, max_new_tokens=max_new_tokens, num_beams=1, pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id, **how,
        )  # fmt: skip
        found += tokens[:, batch["input_ids"].shape[1] :].tolist()
    model.train(was_training)
    return found
