"""Decoding, one path for every model: greedy or sampled."""

from collections.abc import Sequence
from typing import Any

import torch

BATCH = 320


def generate(model: Any, tokenizer: Any, prompts: Sequence[list[int]], max_new_tokens: int) -> list[str]:
    """Greedy continuations of prompts (token ids, as in training), decoded without special tokens, in order."""
    return _continued(model, tokenizer, prompts, max_new_tokens, do_sample=False, num_beams=1)


def sample(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], max_new_tokens: int, temperature: float, seed: int
) -> list[str]:
    """The same sampled from the whole distribution; only `seed` has a say, and the global generator stays as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        how = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
        return _continued(model, tokenizer, prompts, max_new_tokens, **how)


@torch.no_grad()
def _continued(model: Any, tokenizer: Any, prompts: Sequence[list[int]], max_new_tokens: int, **how: Any) -> list[str]:
    was_training = model.training
    model.eval()
    answers: list[str] = []
    for start in range(0, len(prompts), BATCH):
        rows = {"input_ids": list(prompts[start : start + BATCH])}
        batch = tokenizer.pad(rows, padding_side="left", return_tensors="pt").to(model.device)
        tokens = model.generate(
            **batch, max_new_tokens=max_new_tokens, pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id, **how,
        )  # fmt: skip
        fresh = tokens[:, batch["input_ids"].shape[1] :]
        answers += tokenizer.batch_decode(fresh, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    model.train(was_training)
    return [a.strip() for a in answers]
