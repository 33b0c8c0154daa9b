"""Rotary frequencies against transformers' own functions."""

import pytest
import torch
from transformers import LlamaConfig, Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from engine.config import ModelConfig
from engine.layers.rotary import RotaryEmbedding, rope_frequencies
from engine.weights.rope_scaling import parse_rope_scaling

LLAMA_31 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def model_config(theta, rope_scaling, head_dim=128, rotary_dim=0):
    return ModelConfig(
        architecture="LlamaForCausalLM",
        vocab_size=8,
        hidden_size=4 * head_dim,
        intermediate_size=8,
        num_layers=1,
        num_heads=4,
        num_kv_heads=4,
        head_dim=head_dim,
        context_length=131072,
        rotary_dim=rotary_dim,
        rope_theta=theta,
        rope_scaling=rope_scaling,
    )


@pytest.mark.parametrize(
    ("theta", "values"),
    [
        (10000.0, {"rope_type": "linear", "factor": 4.0}),
        (500000.0, LLAMA_31),
        (1000000.0, YARN),
        (10000.0, {**YARN, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False}),
        (10000.0, {**YARN, "attention_factor": 0.7}),
        (10000.0, {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}),
    ],
    ids=["linear", "llama3.1", "yarn", "yarn-betas", "yarn-factor", "yarn-mscale"],
)
def test_scaled_frequencies_are_transformers(theta, values):
    theirs = LlamaConfig(
        hidden_size=512,
        num_attention_heads=4,
        max_position_embeddings=131072,
        rope_parameters={**values, "rope_theta": theta},
    )
    expected, expected_factor = ROPE_INIT_FUNCTIONS[values["rope_type"]](theirs)
    actual, factor = rope_frequencies(model_config(theta, parse_rope_scaling(values, "test")))
    assert torch.allclose(actual, expected, rtol=1e-6)
    assert factor == pytest.approx(expected_factor)


LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.01 * i for i in range(48)],
    "long_factor": [1.0 + 1.3 * i for i in range(48)],
    "original_max_position_embeddings": 4096,
}


@pytest.mark.parametrize(
    "values",
    [LONG, {**LONG, "factor": 4.0}, {**LONG, "factor": 0.5}, {**LONG, "attention_factor": 1.3}],
    ids=["by-lengths", "factor", "shrunk", "attention-factor"],
)
def test_both_sets_of_longrope_are_transformers(values):
    theirs = Phi3Config(
        hidden_size=512,
        num_attention_heads=4,
        max_position_embeddings=131072,
        original_max_position_embeddings=4096,
        rope_parameters={**values, "rope_theta": 10000.0, "partial_rotary_factor": 0.75},
        pad_token_id=None,
    )
    config = model_config(10000.0, parse_rope_scaling(values, "test"), rotary_dim=96)
    actual, factor = rope_frequencies(config)
    for ours, length in zip(actual, (4096, 4097), strict=True):
        expected, expected_factor = ROPE_INIT_FUNCTIONS["longrope"](theirs, seq_len=length)
        assert torch.allclose(ours, expected, rtol=1e-6)
        assert factor == pytest.approx(expected_factor)


def test_each_token_has_the_angles_of_its_own_set():
    frequencies = torch.tensor([[1.0, 0.5], [0.25, 0.125]])
    rotary = RotaryEmbedding(frequencies, 2.0, torch.device("cpu"))
    cos, sin = rotary(torch.tensor([3, 3]), torch.tensor([1, 0]))
    angles = torch.tensor([[0.75, 0.375], [3.0, 1.5]])
    assert torch.allclose(cos, 2 * angles.cos())
    assert torch.allclose(sin, 2 * angles.sin())
    assert torch.equal(rotary(torch.tensor([3]))[0], cos[1:])


def test_a_rotary_step_has_a_row_of_angles_per_token():
    rotary = RotaryEmbedding(
        *rope_frequencies(model_config(10000.0, None, head_dim=8)), torch.device("cpu")
    )
    cos, sin = rotary(torch.tensor([0, 3, 100000]))
    angles = torch.tensor([[0.0], [3.0], [100000.0]]) * torch.tensor([1.0, 0.1, 0.01, 0.001])
    assert torch.allclose(cos, angles.cos(), atol=5e-3)
    assert torch.allclose(sin, angles.sin(), atol=5e-3)


def test_factors_of_a_gguf_file_divide_the_frequencies():
    plain = {"rope_type": "factors", "factors": [1.0, 2.0, 4.0, 8.0]}
    actual, _ = rope_frequencies(model_config(10000.0, plain, head_dim=8))
    assert torch.allclose(actual, torch.tensor([1.0, 0.05, 0.0025, 0.000125]))
