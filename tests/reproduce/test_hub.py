"""The same harness on Hugging Face models from a folder: `--testbed hub:PATH`, devices and dtypes."""

from pathlib import Path

import pytest
import torch

from reproduce.engine import Request, plan, setting
from reproduce.testbeds.hub import Hub


def test_the_folder_must_hold_a_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        Hub(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no weight files"):
        Hub(tmp_path)


def test_other_weights_make_another_key(tiny_llama: Path, tiny_qwen: Path) -> None:
    keys = {
        plan(Request(modules=("sft",), testbed=f"hub:{p}", seeds=(0,), ratios=(0.1,)))[0].path
        for p in (tiny_llama, tiny_qwen)
    }
    assert len(keys) == 2


def test_cuda_without_a_gpu_is_refused_in_words(tiny_llama: Path) -> None:
    if torch.cuda.is_available():
        assert setting(Request(modules=("sft",), testbed=f"hub:{tiny_llama}", device="cuda")).device == "cuda"
        return
    with pytest.raises(ValueError, match="no usable GPU; leave --device out"):
        setting(Request(modules=("sft",), testbed=f"hub:{tiny_llama}", device="cuda"))


def test_bfloat16_is_honoured_and_part_of_the_key(tiny_llama: Path, tmp_path: Path) -> None:
    request = Request(
        modules=("sft",), testbed=f"hub:{tiny_llama}", seeds=(0,), ratios=(0.1,), dtype="bfloat16", cache=tmp_path
    )
    (job,) = plan(request)
    assert job.spec["dtype"] == "bfloat16"
    state = setting(request).stages(0).state()
    assert {p.dtype for p in state.model.parameters()} == {torch.bfloat16}


def test_unknown_testbed_and_dtype_are_refused() -> None:
    with pytest.raises(ValueError, match="there are micro and hub:PATH"):
        plan(Request(modules=("sft",), testbed="huge"))
    with pytest.raises(ValueError, match="choose float32 or bfloat16"):
        plan(Request(modules=("sft",), dtype="int8"))
