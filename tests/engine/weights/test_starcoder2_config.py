"""The published config.json files of StarCoder2, and what they say."""

import json

import pytest
import torch
from safetensors.torch import save_file

from engine.weights.files import ModelRef, resolve
from engine.weights.model_config import read_model_config

STARCODER2_3B = {
    "activation_function": "gelu",
    "architectures": ["Starcoder2ForCausalLM"],
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 3072,
    "intermediate_size": 12288,
    "max_position_embeddings": 16384,
    "mlp_type": "default",
    "model_type": "starcoder2",
    "norm_epsilon": 1e-05,
    "norm_type": "layer_norm",
    "num_attention_heads": 24,
    "num_hidden_layers": 30,
    "num_key_value_heads": 2,
    "rope_theta": 999999.4420358813,
    "sliding_window": 4096,
    "use_bias": True,
    "vocab_size": 49152,
}


@pytest.fixture
def read(tmp_path):
    def write_and_read(config):
        save_file({"w": torch.zeros(4, dtype=torch.float32)}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(config))
        return read_model_config(resolve(ModelRef(model=str(tmp_path))))

    return write_and_read


def test_starcoder2_3b(read):
    config = read(STARCODER2_3B)
    assert (config.norm, config.norm_eps, config.activation) == ("layer", 1e-5, "gelu_tanh")
    assert (config.head_dim, config.num_kv_heads, config.num_turned) == (128, 2, 128)
    assert (config.windows, config.context_length) == ((4096,) * 30, 16384)
    biases = (config.attention_bias, config.attention_output_bias, config.mlp_bias)
    assert (biases, config.lm_head_bias) == ((True,) * 3, False)
    assert config.tie_word_embeddings


def test_without_biases_and_without_a_window(read):
    config = read({**STARCODER2_3B, "use_bias": False, "sliding_window": None})
    assert (config.attention_bias, config.attention_output_bias, config.mlp_bias) == (False,) * 3
    assert config.windows == ()
