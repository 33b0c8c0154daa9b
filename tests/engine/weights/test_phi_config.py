"""The published config.json files of Phi: what they say, in transformers 4's keys and in 5's."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import Phi3Config

from engine.errors import LoadError
from engine.weights.files import ModelRef, resolve
from engine.weights.model_config import read_model_config

PHI_2 = {
    "architectures": ["PhiForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 50256,
    "embd_pdrop": 0.0,
    "eos_token_id": 50256,
    "hidden_act": "gelu_new",
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "model_type": "phi",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "partial_rotary_factor": 0.4,
    "qk_layernorm": False,
    "resid_pdrop": 0.1,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "vocab_size": 51200,
}
PHI_3_MINI_4K = {
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 32000,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "model_type": "phi3",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32064,
}
# The lengths of the lists are the published ones, the numbers are not.
LONG_FACTORS = {
    "type": "longrope",
    "short_factor": [1.0 + 0.02 * i for i in range(48)],
    "long_factor": [1.0 + 1.3 * i for i in range(48)],
}
PHI_35_MINI = {
    **PHI_3_MINI_4K,
    "max_position_embeddings": 131072,
    "rope_scaling": LONG_FACTORS,
    "sliding_window": 262144,
}
PHI_4 = {
    **PHI_3_MINI_4K,
    "bos_token_id": 100257,
    "eos_token_id": 100265,
    "hidden_size": 5120,
    "intermediate_size": 17920,
    "max_position_embeddings": 16384,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "num_key_value_heads": 10,
    "original_max_position_embeddings": 16384,
    "rope_theta": 250000,
    "sliding_window": None,
    "vocab_size": 100352,
}
PHI_4_MINI = {
    **PHI_35_MINI,
    "bos_token_id": 199999,
    "eos_token_id": 199999,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "partial_rotary_factor": 0.75,
    "tie_word_embeddings": True,
    "vocab_size": 200064,
}


@pytest.fixture
def read(tmp_path):
    def write_and_read(config):
        save_file({"w": torch.zeros(4, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(config))
        return read_model_config(resolve(ModelRef(model=str(tmp_path))))

    return write_and_read


def test_phi_2(read):
    config = read(PHI_2)
    assert (config.norm, config.norm_eps, config.activation) == ("layer", 1e-5, "gelu_tanh")
    assert (config.head_dim, config.rotary_dim, config.context_length) == (80, 32, 2048)
    assert (config.num_heads, config.num_kv_heads, config.num_layers) == (32, 32, 32)
    biases = (config.attention_bias, config.attention_output_bias, config.mlp_bias)
    assert (biases, config.lm_head_bias, config.qk_norm) == ((True,) * 3, True, "")
    assert (config.windows, config.rope_scaling, config.eos_token_ids) == ((), None, (50256,))
    assert read({**PHI_2, "qk_layernorm": True}).qk_norm == "head"


def test_phi_3_mini_4k(read):
    config = read(PHI_3_MINI_4K)
    assert (config.norm, config.activation, config.head_dim) == ("rms", "silu", 96)
    assert (config.rotary_dim, config.windows) == (96, (2047,) * 32)
    assert (config.rope_scaling, config.context_length) == (None, 4096)
    assert (config.attention_bias, config.attention_output_bias, config.mlp_bias) == (False,) * 3


def test_phi_35_mini(read):
    config = read(PHI_35_MINI)
    assert (config.context_length, config.windows) == (131072, (262144,) * 32)
    assert config.rope_scaling["rope_type"] == "longrope"
    assert config.rope_scaling["original_max_position_embeddings"] == 4096
    assert list(config.rope_scaling["short_factor"]) == LONG_FACTORS["short_factor"]
    assert list(config.rope_scaling["long_factor"]) == LONG_FACTORS["long_factor"]


def test_phi_4(read):
    config = read(PHI_4)
    assert (config.head_dim, config.num_kv_heads, config.vocab_size) == (128, 10, 100352)
    assert (config.windows, config.rope_scaling, config.rope_theta) == ((), None, 250000.0)
    assert config.context_length == 16384


def test_phi_4_mini_turns_three_quarters_of_a_head(read):
    config = read(PHI_4_MINI)
    assert (config.head_dim, config.rotary_dim) == (128, 96)
    assert config.tie_word_embeddings


@pytest.mark.parametrize("config", [PHI_35_MINI, PHI_4_MINI], ids=["phi-3.5-mini", "phi-4-mini"])
def test_what_transformers_5_writes_of_it_says_the_same(read, config, tmp_path):
    theirs = Phi3Config(**{**config, "rope_scaling": dict(config["rope_scaling"])})
    newer = json.loads(theirs.to_json_string(use_diff=False))
    assert "rope_scaling" not in newer
    assert read({**newer, "architectures": ["Phi3ForCausalLM"]}) == read(config)


@pytest.mark.parametrize("kind", ["su", "yarn"])
def test_the_first_names_of_longrope_mean_the_same(read, kind):
    older = {**PHI_35_MINI, "rope_scaling": {**LONG_FACTORS, "type": kind}}
    assert read(older) == read(PHI_35_MINI)


def test_the_original_length_is_4096_where_nothing_says_it_as_in_transformers(read):
    config = dict(PHI_35_MINI)
    del config["original_max_position_embeddings"]
    assert read(config) == read(PHI_35_MINI)


def test_factors_for_another_number_of_frequencies_are_refused(read):
    with pytest.raises(LoadError, match=r"has 48 short rope factors, but .* takes 64"):
        read({**PHI_4_MINI, "partial_rotary_factor": 1.0})
