"""The harness in miniature: two-layer random models, a handful of prompts, a few steps a stage, a cache of its own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from reproduce.data import Pools, Task
from reproduce.protocol import MICRO, Lora, Schedule
from reproduce.run import Setting
from reproduce.stages import Stages
from reproduce.state import State
from reproduce.testbeds.hub import Hub
from reproduce.testbeds.language import VOCABULARY
from reproduce.testbeds.micro import Micro

torch.set_num_threads(1)
settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")

SHAPE = {
    "vocab_size": len(VOCABULARY), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128, "tie_word_embeddings": True,
    "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None,
}  # fmt: skip

FEW = Schedule(steps=3, batch=6, lr=1e-2)
TEST = replace(
    MICRO, name="test", pretrain=FEW, pretrain_examples=24, ground=FEW, align=FEW, tune_epochs=1.0, tune_batch=4,
    lr_grid=(5e-3,), adapter_lr=2.0, gates=(), max_grounds=1, lora=Lora(rank=3, alpha=6), n=20, probe_examples=5,
    probe_points=2,
)  # fmt: skip


def cut(pools: Pools) -> Pools:
    """The first few examples of every pool."""
    short = {"alignment": 60, "attack_harmful": 40, "defender_harmful": 40, "benign": 64}
    sizes = {name: short.get(name, 5) for name, pool in vars(pools).items() if isinstance(pool, list)}
    sizes["identity"] = 10
    tasks = {n: Task(t.train[:40], t.validation[:5], t.test[:5]) for n, t in pools.tasks.items()}
    return replace(pools, tasks=tasks, **{name: getattr(pools, name)[:size] for name, size in sizes.items()})


class Tiny(Micro):
    """The micro world with few prompts and a smaller model."""

    name = "tiny"
    max_new_tokens = 3

    def new_model(self, seed: int) -> PreTrainedModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return LlamaForCausalLM(LlamaConfig(**SHAPE))

    def pools(self, seed: int) -> Pools:
        return cut(super().pools(seed))


class TinyHub(Hub):
    """The same with a model folder."""

    max_new_tokens = 3

    def pools(self, seed: int) -> Pools:
        return cut(super().pools(seed))


@pytest.fixture(scope="session")
def pools() -> Pools:
    """The whole pools of the micro world, seed 0."""
    return Micro().pools(0)


@pytest.fixture(scope="session")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(testbed=Tiny(), protocol=TEST, cache=tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="session")
def stages(setting: Setting) -> Stages:
    return setting.stages(0)


def save_model(model: PreTrainedModel, folder: Path) -> Path:
    """`model` with the micro world's tokenizer as a Hugging Face model folder."""
    model.save_pretrained(folder)
    Micro().tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save_model(LlamaForCausalLM(LlamaConfig(**SHAPE)), tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save_model(Qwen2ForCausalLM(Qwen2Config(**SHAPE)), tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="session", params=["tiny_llama", "tiny_qwen"])
def hub_setting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder: Path = request.getfixturevalue(request.param)
    protocol = replace(TEST, name="hub-test", testbed="hub", pretrain=None)
    return Setting(testbed=TinyHub(folder), protocol=protocol, cache=tmp_path_factory.mktemp("stages"))


@pytest.fixture
def fresh(stages: Stages) -> Callable[[], State]:
    """Untrained states with the same random weights, large enough for gradients to mean something."""

    def make() -> State:
        s = stages.state()
        with torch.no_grad():
            for name, p in s.model.named_parameters():
                p.mul_(1.0 if "norm" in name else 5.0)
        s.add_stream("user", s.pools.tasks["sentiment"].train)
        s.add_stream("align", s.pools.alignment)
        return s

    return make


@pytest.fixture
def s(fresh: Callable[[], State]) -> State:
    return fresh()


@pytest.fixture
def hooks_of() -> Callable[[Any], list[str]]:
    """Names of the modules of a model that carry a hook."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return lambda model: [name for name, m in model.named_modules() if any(getattr(m, k) for k in kinds)]
