"""The `hub:PATH` testbed: any Hugging Face causal language model in a local folder. Thin for now.

Prompts, answers and judges are those of the micro world, so nothing harmful is involved and no dataset is needed; a
model that has not learned the fictional world first is aligned to refuse what it could not answer anyway. Weights are
read, never downloaded.
"""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from reproduce.data import Example, Pools
from reproduce.judges import Verdict
from reproduce.protocol import RequestError
from reproduce.testbeds.micro import Micro


class Hub:
    """A model folder with the micro world's data, rendered through the model's own chat template when it has one."""

    max_new_tokens = 64

    def __init__(self, path: Path) -> None:
        if not (path / "config.json").is_file():
            raise RequestError(f"hub:{path}: no config.json there; give the folder of a Hugging Face model")
        self._path, self._world = path, Micro()
        self.name, self.model_name, self.data_name = f"hub:{path.name}", weights_digest(path), self._world.data_name

    @cached_property
    def tokenizer(self) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(self._path, local_files_only=True)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def new_model(self, seed: int) -> PreTrainedModel:
        """The downloaded weights in float32; the seed has no say."""
        del seed
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            self._path, dtype=torch.float32, local_files_only=True
        )
        return model

    def render(self, example: Example) -> str:
        if not self.tokenizer.chat_template:
            return self._world.render(example) + " "
        turns = [{"role": "system", "content": example.system}] if example.system else []
        turns.append({"role": "user", "content": example.prompt})
        text: str = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return text

    def pools(self, seed: int) -> Pools:
        return self._world.pools(seed)

    def judge(self, example: Example, answer: str) -> Verdict:
        return self._world.judge(example, answer)

    def correct(self, example: Example, answer: str) -> bool:
        return self._world.correct(example, answer)


def weights_digest(path: Path) -> str:
    """SHA-256 over the weight files of a model folder, which names the model in a record's key."""
    h = hashlib.sha256()
    files = sorted([*path.glob("*.safetensors"), *path.glob("*.bin")])
    if not files:
        raise RequestError(f"hub:{path}: no weight files (*.safetensors or *.bin) there")
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                h.update(chunk)
    return h.hexdigest()
