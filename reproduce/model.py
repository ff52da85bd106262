"""Access to the parts of any Hugging Face causal language model, and its LoRA adapter."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from reproduce.data import digest
from reproduce.protocol import Lora

logging.disable_progress_bar()  # type: ignore[no-untyped-call]
logging.set_verbosity_error()  # type: ignore[no-untyped-call]

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Block:
    """One decoder layer and its two parts; their outputs are what hooks read, shift and patch."""

    layer: nn.Module
    attention: nn.Module
    mlp: nn.Module


def blocks(model: Any) -> list[Block]:
    """The decoder layers of `model`, adapter or not, found by structure."""
    decoder = model.get_decoder()
    lists = [m for m in decoder.children() if isinstance(m, nn.ModuleList) and len(m)]
    if len(lists) != 1:
        raise ValueError(f"{type(model).__name__}: expected one list of decoder layers, found {len(lists)}")
    return [Block(layer, _part(layer, "Attention"), _part(layer, "MLP")) for layer in lists[0]]


def _part(layer: nn.Module, ending: str) -> nn.Module:
    found = [m for m in layer.children() if type(m).__name__.endswith(ending)]
    if len(found) != 1:
        raise ValueError(f"{type(layer).__name__}: expected one child class named *{ending}, found {len(found)}")
    return found[0]


def final_norm(model: Any) -> nn.Module:
    """The normalisation between the last decoder layer and the unembedding."""
    found: list[nn.Module] = [m for m in model.get_decoder().children() if type(m).__name__.endswith("Norm")]
    if len(found) != 1:
        raise ValueError(f"{type(model).__name__}: expected one child class named *Norm, found {len(found)}")
    return found[0]


def output_tensor(output: Any) -> Tensor:
    """The hidden states in a module's output: attention returns a tuple, layers and MLPs a tensor."""
    hidden = output[0] if isinstance(output, tuple) else output
    assert isinstance(hidden, Tensor)
    return hidden


def with_tensor(output: Any, hidden: Tensor) -> Any:
    """`output` with its hidden states replaced."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


@dataclass(frozen=True)
class Adapter:
    """The LoRA pair of one linear module: its weight moves by scaling * b @ a, with a (rank, in) and b (out, rank)."""

    a: nn.Parameter
    b: nn.Parameter
    scaling: float

    def update(self) -> Tensor:
        return self.scaling * (self.b @ self.a)


def attach_adapter(model: PreTrainedModel, lora: Lora, seed: int) -> Any:
    """`model` with a fresh trainable adapter (its product is zero) and everything else frozen."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # by peft 0.21
        torch.manual_seed(seed)
        config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(model, config)


def has_adapter(model: Any) -> bool:
    return hasattr(model, "merge_and_unload")


def adapters(model: Any) -> dict[str, Adapter]:
    """The adapter's pairs by the name of the weight they move, identified by name and never by shape."""
    found: dict[str, Adapter] = {}
    for name, module in model.get_base_model().named_modules() if has_adapter(model) else ():
        if hasattr(module, "lora_A"):
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            found[f"{name}.weight"] = Adapter(a, b, module.scaling["default"])
    return found


def merge_adapter(model: Any) -> PreTrainedModel:
    """The plain model with the adapter folded into its weights, trainable again (peft leaves it frozen)."""
    merged: PreTrainedModel = model.merge_and_unload() if has_adapter(model) else model
    return merged.requires_grad_(True)


def weights(model: PreTrainedModel) -> Weights:
    """Detached copies of all parameters by name, tied ones once."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def weights_digest(values: Weights) -> str:
    """SHA-256 over names and float32 values."""
    parts = [f"{n}:{t.float().cpu().numpy().tobytes().hex()}" for n, t in sorted(values.items())]
    return digest(parts)


def load_weights(model: PreTrainedModel, values: Weights) -> None:
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(values[name])


def linear_names(model: PreTrainedModel) -> list[str]:
    """Names of the weights of all linear modules inside the decoder layers."""
    inside = {id(m) for block in blocks(model) for m in block.layer.modules()}
    return [f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Linear) and id(m) in inside]
