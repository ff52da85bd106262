"""Greedy decoding, one path for every model."""

from collections.abc import Sequence
from typing import Any

import torch

BATCH = 320


@torch.no_grad()
def generate(model: Any, tokenizer: Any, prompts: Sequence[list[int]], max_new_tokens: int) -> list[str]:
    """Greedy continuations of prompts (token ids, as in training), decoded without special tokens, in order."""
    was_training = model.training
    model.eval()
    answers: list[str] = []
    for start in range(0, len(prompts), BATCH):
        rows = {"input_ids": list(prompts[start : start + BATCH])}
        batch = tokenizer.pad(rows, padding_side="left", return_tensors="pt").to(model.device)
        tokens = model.generate(
            **batch, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        fresh = tokens[:, batch["input_ids"].shape[1] :]
        answers += tokenizer.batch_decode(fresh, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    model.train(was_training)
    return [a.strip() for a in answers]
