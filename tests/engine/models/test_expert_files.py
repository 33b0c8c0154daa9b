"""The ways that safetensors files store experts, and files that lack one or have one too many."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import LoadError
from tests.engine.models import tiny


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe"])
def test_stacked_and_separate_tensors_make_the_same_model(name, tmp_path, checkpoints, load_model):
    stacked = tiny.save_checkpoint(name, tmp_path, save_original_format=False)
    names = load_file(stacked / "model.safetensors").keys()
    assert "model.layers.0.mlp.experts.gate_up_proj" in names
    one, other = (load_model(path).state_dict() for path in (stacked, checkpoints(name)))
    assert one.keys() == other.keys()
    assert all(one[key].equal(other[key]) for key in one)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("mixtral", "model.layers.1.block_sparse_moe.experts.2.w3.weight"),
        ("qwen3-moe", "model.layers.1.mlp.experts.2.up_proj.weight"),
    ],
)
def test_a_missing_expert_is_named(name, missing, tmp_path, load_model):
    path = tiny.save_checkpoint(name, tmp_path) / "model.safetensors"
    tensors = load_file(path)
    del tensors[missing]
    save_file(tensors, path)
    with pytest.raises(LoadError, match=f"has no tensor {missing}"):
        load_model(tmp_path)


def test_an_expert_too_many_is_refused(tmp_path, load_model):
    path = tiny.save_checkpoint("mixtral", tmp_path) / "model.safetensors"
    tensors = load_file(path)
    extra = "model.layers.0.block_sparse_moe.experts.4.w1.weight"
    save_file({**tensors, extra: torch.zeros(96, 64)}, path)
    with pytest.raises(LoadError, match=r"1 tensors that MixtralForCausalLM does not use"):
        load_model(tmp_path)
