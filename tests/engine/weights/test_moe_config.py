"""What published config.json files of Mixtral, Qwen3-MoE, SmolLM3 and OLMo 2 say, and odd ones."""

import json

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import LoadError
from engine.weights.files import ModelRef, resolve
from engine.weights.model_config import read_model_config

MIXTRAL_8X7B = {
    "architectures": ["MixtralForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mixtral",
    "num_attention_heads": 32,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "output_router_logits": False,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.02,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}
QWEN3_30B_A3B = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 151643,
    "decoder_sparse_step": 1,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
SMOLLM3_3B = {
    "architectures": ["SmolLM3ForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": 128012,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "max_position_embeddings": 65536,
    "mlp_bias": False,
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0] * 9,
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
    "vocab_size": 128256,
}
OLMO2_7B = {
    "architectures": ["Olmo2ForCausalLM"],
    "attention_bias": False,
    "eos_token_id": 100257,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 500000,
    "tie_word_embeddings": False,
    "vocab_size": 100352,
}


def without(keys, *names):
    return {key: value for key, value in keys.items() if key not in names}


@pytest.fixture
def read(tmp_path):
    """The configuration that a config.json makes."""

    def write_and_read(keys):
        save_file({"w": torch.zeros(4, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(keys))
        return read_model_config(resolve(ModelRef(model=str(tmp_path))))

    return write_and_read


def test_mixtral_8x7b(read):
    config = read(MIXTRAL_8X7B)
    assert (config.num_experts, config.num_experts_per_token) == (8, 2)
    assert (config.expert_intermediate_size, config.is_topk_normalised) == (14336, True)
    assert (config.head_dim, config.num_kv_heads, config.rope_theta) == (128, 8, 1e6)
    assert not any(config.windows)
    assert (config.dense_layers, config.norm_eps) == ((), 1e-5)


def test_mixtrals_defaults_are_transformers_own(read):
    config = read(without(MIXTRAL_8X7B, "rope_theta", "num_key_value_heads", "sliding_window"))
    assert (config.rope_theta, config.num_kv_heads, any(config.windows)) == (1e6, 8, False)


def test_mixtrals_window_is_every_layers(read):
    assert read({**MIXTRAL_8X7B, "sliding_window": 4096}).windows == (4096,) * 32


def test_qwen3_30b_a3b(read):
    config = read(QWEN3_30B_A3B)
    assert (config.num_experts, config.num_experts_per_token) == (128, 8)
    assert (config.expert_intermediate_size, config.is_topk_normalised) == (768, True)
    assert (config.head_dim, config.qk_norm, config.rope_theta) == (128, "head", 1e6)
    assert (config.windows, config.dense_layers) == ((), ())


def test_qwen3_moe_as_transformers_5_writes_it(read):
    keys = without(QWEN3_30B_A3B, "num_experts", "rope_theta", "rope_scaling", "torch_dtype")
    rope = {"rope_type": "default", "rope_theta": 1e6}
    assert read({**keys, "num_local_experts": 128, "rope_parameters": rope}) == read(QWEN3_30B_A3B)


def test_weights_that_do_not_add_up_are_qwen3_moes_default(read):
    assert not read(without(QWEN3_30B_A3B, "norm_topk_prob")).is_topk_normalised


def test_layers_without_experts(read):
    keys = {**QWEN3_30B_A3B, "num_hidden_layers": 6}
    assert read({**keys, "mlp_only_layers": [0, 5]}).dense_layers == (0, 5)
    assert read({**keys, "decoder_sparse_step": 2}).dense_layers == (0, 2, 4)
    assert read({**keys, "decoder_sparse_step": 3, "mlp_only_layers": [2]}).dense_layers == (
        0,
        1,
        2,
        3,
        4,
    )
    assert read({**keys, "num_experts": 0}).dense_layers == (0, 1, 2, 3, 4, 5)


def test_qwen3_moes_window_is_every_layers(read):
    keys = {**QWEN3_30B_A3B, "sliding_window": 4096}
    assert read(keys).windows == ()
    assert read({**keys, "use_sliding_window": True}).windows == (4096,) * 48


@pytest.mark.parametrize("chosen", [5, 9])
def test_more_chosen_experts_than_there_are_are_refused(read, chosen):
    with pytest.raises(LoadError, match=rf"sends a token to {chosen} of its 4 experts"):
        read({**MIXTRAL_8X7B, "num_local_experts": 4, "num_experts_per_tok": chosen})


def test_smollm3_3b(read):
    config = read(SMOLLM3_3B)
    assert config.rope_free_layers == tuple(range(3, 36, 4))
    assert (config.rope_theta, config.head_dim, config.windows) == (5e6, 128, ())
    assert config.tie_word_embeddings


def test_smollm3_without_a_list_has_every_fourth_layer_without_rotary(read):
    assert read(without(SMOLLM3_3B, "no_rope_layers")) == read(SMOLLM3_3B)
    keys = without(SMOLLM3_3B, "no_rope_layers", "rope_theta")
    config = read({**keys, "no_rope_layer_interval": 6})
    assert config.rope_free_layers == (5, 11, 17, 23, 29, 35)
    assert config.rope_theta == 2e6


def test_smollm3s_windows_are_those_of_layers_without_rotary(read):
    keys = {**SMOLLM3_3B, "use_sliding_window": True, "sliding_window": 512}
    assert read(keys).windows == (0, 0, 0, 512) * 9
    types = ["sliding_attention"] * 36
    assert read({**keys, "layer_types": types}).windows == (512,) * 36


def test_a_short_list_of_rotary_layers_is_refused(read):
    with pytest.raises(LoadError, match=r"config.json: no_rope_layers must have 36 entries"):
        read({**SMOLLM3_3B, "no_rope_layers": [1, 0]})


def test_olmo2_7b(read):
    config = read(OLMO2_7B)
    assert (config.qk_norm, config.norm_eps, config.rope_theta) == ("row", 1e-6, 500000.0)
    assert (config.head_dim, config.num_kv_heads, config.eos_token_ids) == (128, 32, (100257,))
