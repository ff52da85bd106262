"""The bases that come with the package: what they are, that they are used, that records stand on them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from reproduce import record
from reproduce.model import weights_digest
from reproduce.protocol import MICRO
from reproduce.stages import SHIPPED, Stages
from reproduce.testbeds.micro import Micro

SEEDS = range(5)


def stages(seed: int, cache: Path) -> Stages:
    return Stages(Micro(), MICRO, seed, cache)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*")), ids=lambda path: path.name)
def test_a_file_is_named_by_what_it_was_made_of(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        spec = json.loads(file.metadata()["spec"])
    assert path.name == f"{spec['stage']}-{record.key(spec)}.safetensors"
    assert (spec["protocol"], spec["testbed"]) == (MICRO.name, "micro")


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_trained_to_get_base_ground_and_rate(seed: int, tmp_path: Path) -> None:
    s = stages(seed, tmp_path)
    base, ground, rate = s.base(), s.ground(), s.learning_rate()
    assert list(tmp_path.iterdir()) == []
    assert weights_digest(base.tensors) == s.base_digest()
    assert any(not torch.equal(base.tensors[name], ground.tensors[name]) for name in base.tensors)
    assert all(gate["ok"] for gate in ground.info["rounds"][-1].values())
    assert rate.info["lr"] in MICRO.lr_grid


def test_another_seed_has_no_base_yet(tmp_path: Path) -> None:
    assert stages(7, tmp_path).base_digest() is None


@pytest.mark.parametrize("seed", SEEDS)
def test_plain_fine_tuning_was_measured_on_them(seed: int, tmp_path: Path) -> None:
    own = [r for r in record.read() if r["spec"]["paper"] == "sft" and r["spec"]["seed"] == seed]
    ratios = {r["spec"]["ratio"] for r in own if r["digests"]["base"] == stages(seed, tmp_path).base_digest()}
    assert ratios >= {0.0, 0.05, 0.1, 0.2}
