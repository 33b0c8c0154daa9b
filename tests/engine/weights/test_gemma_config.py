"""What published Gemma files say, in both spellings, and what they must not."""

import json

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import save_file

from engine.errors import LoadError
from engine.weights.files import ModelRef, resolve
from engine.weights.model_config import read_model_config

COMMON = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "head_dim": 256,
    "initializer_range": 0.02,
    "max_position_embeddings": 8192,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 256000,
}
GEMMA_2B = {
    **COMMON,
    "architectures": ["GemmaForCausalLM"],
    "model_type": "gemma",
    "hidden_act": "gelu",
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "num_attention_heads": 8,
    "num_hidden_layers": 18,
    "num_key_value_heads": 1,
    "rope_scaling": None,
    "rope_theta": 10000.0,
}
GEMMA_2_9B = {
    **COMMON,
    "architectures": ["Gemma2ForCausalLM"],
    "model_type": "gemma2",
    "attn_logit_softcapping": 50.0,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": 30.0,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 3584,
    "intermediate_size": 14336,
    "num_attention_heads": 16,
    "num_hidden_layers": 42,
    "num_key_value_heads": 8,
    "query_pre_attn_scalar": 256,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "sliding_window_size": 4096,
}
GEMMA_2_27B = {
    **GEMMA_2_9B,
    "head_dim": 128,
    "hidden_size": 4608,
    "intermediate_size": 36864,
    "num_attention_heads": 32,
    "num_hidden_layers": 46,
    "num_key_value_heads": 16,
    "query_pre_attn_scalar": 144,
}
GEMMA_3_1B = {
    **COMMON,
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "attn_logit_softcapping": None,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 106],
    "final_logit_softcapping": None,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "vocab_size": 262144,
}
# The whole of what google/gemma-3-4b-it says of its language model.
GEMMA_3_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 256,
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16",
    "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27},
}
LINEAR = {"rope_type": "linear", "factor": 8.0}


def of_five(config, local, full):
    """As transformers 5 has it: parameters of both kinds of layers in one object."""
    left_out = ("rope_scaling", "rope_theta", "rope_local_base_freq", "sliding_window_pattern")
    config = {key: value for key, value in config.items() if key not in left_out}
    types = ["sliding_attention"] * 5 + ["full_attention"]
    rope = {"sliding_attention": local, "full_attention": full}
    return {**config, "layer_types": (types * 5)[:26], "rope_parameters": rope}


def default(theta):
    return {"rope_type": "default", "rope_theta": theta}


GEMMA_3_1B_OF_FIVE = of_five(GEMMA_3_1B, default(10000), default(1000000))


@pytest.fixture
def read(tmp_path):
    def write_and_read(config):
        save_file({"w": torch.zeros(4, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(config))
        return read_model_config(resolve(ModelRef(model=str(tmp_path))))

    return write_and_read


@pytest.mark.parametrize(
    "config",
    [GEMMA_2B, GEMMA_2_9B, GEMMA_2_27B, GEMMA_3_1B, GEMMA_3_1B_OF_FIVE, GEMMA_3_4B],
    ids=["2b", "2-9b", "2-27b", "3-1b", "3-1b-of-5", "3-4b"],
)
def test_what_all_gemmas_have(read, config):
    shape = read(config)
    assert shape.architecture == config["architectures"][0]
    assert shape.activation == "gelu_tanh"
    assert (shape.norm, shape.norm_offset, shape.is_norm_wide) == ("rms", 1.0, True)
    assert shape.norm_eps == 1e-6
    assert shape.embedding_scale == shape.hidden_size**0.5
    assert shape.tie_word_embeddings
    assert (shape.attention_bias, shape.mlp_bias) == (False, False)
    assert shape.bos_token_id == 2
    assert shape.dtype == "bfloat16"


def test_gemma_2b(read):
    shape = read(GEMMA_2B)
    assert (shape.num_layers, shape.num_heads, shape.num_kv_heads) == (18, 8, 1)
    assert (shape.head_dim, shape.context_length, shape.vocab_size) == (256, 8192, 256000)
    assert (shape.rope_theta, shape.local_rope_theta) == (10000.0, 0.0)
    assert (shape.attention_softcap, shape.logit_softcap, shape.qk_norm) == (0.0, 0.0, "")
    assert shape.windows == ()
    assert shape.eos_token_ids == (1,)


@pytest.mark.parametrize(
    ("config", "scale"), [(GEMMA_2_9B, 1 / 16), (GEMMA_2_27B, 1 / 12)], ids=["9b", "27b"]
)
def test_gemma_2(read, config, scale):
    shape = read(config)
    assert shape.attention_scale == pytest.approx(scale)
    assert (shape.attention_softcap, shape.logit_softcap, shape.qk_norm) == (50.0, 30.0, "")
    assert shape.windows == (4096, 0) * (shape.num_layers // 2)
    assert (shape.rope_theta, shape.local_rope_theta) == (10000.0, 0.0)


@pytest.mark.parametrize("config", [GEMMA_3_1B, GEMMA_3_1B_OF_FIVE], ids=["4", "5"])
def test_gemma_3_1b_in_both_spellings(read, config):
    shape = read(config)
    assert (shape.attention_scale, shape.qk_norm) == (1 / 16, "head")
    assert (shape.attention_softcap, shape.logit_softcap) == (0.0, 0.0)
    assert shape.windows == ((512,) * 5 + (0,)) * 4 + (512,) * 2
    assert (shape.rope_theta, shape.local_rope_theta) == (1000000.0, 10000.0)
    assert (shape.rope_scaling, shape.context_length) == (None, 32768)
    assert shape.eos_token_ids == (1, 106)


def test_gemma_3_4b_says_little_and_means_the_defaults(read):
    shape = read(GEMMA_3_4B)
    assert (shape.num_layers, shape.num_heads, shape.num_kv_heads) == (34, 8, 4)
    assert (shape.hidden_size, shape.head_dim, shape.vocab_size) == (2560, 256, 262208)
    assert shape.windows == ((1024,) * 5 + (0,)) * 5 + (1024,) * 4
    assert (shape.rope_theta, shape.rope_scaling) == (1000000.0, LINEAR)
    assert (shape.local_rope_theta, shape.context_length) == (10000.0, 131072)
    assert shape.eos_token_ids == (1, 106)


def test_only_layers_without_a_window_are_stretched(read):
    full = {**default(1000000), **LINEAR}
    shape = read(of_five(GEMMA_3_1B, default(20000), full))
    assert (shape.rope_scaling, shape.local_rope_theta) == (LINEAR, 20000.0)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({**GEMMA_2B, "hidden_activation": "relu6"}, "the activation 'relu6' is not supported"),
        ({**GEMMA_2B, "hidden_act": "relu6"}, "the activation 'relu6' is not supported"),
        ({**GEMMA_2_9B, "sliding_window": None}, r"\$.sliding_window"),
        ({**GEMMA_2_9B, "layer_types": ["full_attention"]}, "layer_types must be 42 of"),
        ({**GEMMA_2_9B, "query_pre_attn_scalar": 0}, r"\$.query_pre_attn_scalar"),
        (of_five(GEMMA_3_1B, LINEAR, default(1)), "that stretch layers with a window"),
        (of_five(GEMMA_3_1B, default("x"), default(1)), "rope_theta must be a positive number"),
        (of_five(GEMMA_3_1B, default(1), default(0)), "rope_theta must be a positive number"),
        ({**GEMMA_3_1B, "rope_parameters": default(1)}, "rope_parameters must have an object"),
        ({**GEMMA_3_4B, "text_config": None}, "has no object `text_config`"),
        ({**GEMMA_3_4B, "text_config": {"hidden_size": "x"}}, r"\$.hidden_size`, of text_config"),
    ],
)
def test_a_key_that_makes_no_sense_is_named(read, config, says):
    with pytest.raises(LoadError, match=rf"config.json.*{says}"):
        read(config)


@pytest.fixture
def read_gguf(tmp_path):
    """The shape that a file of this architecture and these keys has."""

    def write_and_read(arch, layers, hidden, heads, **keys):
        writer = GGUFWriter(path := tmp_path / "model.gguf", arch)
        writer.add_context_length(8192)
        writer.add_embedding_length(hidden)
        writer.add_block_count(layers)
        writer.add_feed_forward_length(96)
        writer.add_head_count(heads)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_key_length(128)
        writer.add_value_length(128)
        for key, value in keys.items():
            getattr(writer, f"add_{key}")(value)
        writer.add_tensor("token_embd.weight", np.zeros((4, hidden), dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return read_model_config(resolve(ModelRef(model=str(path))))

    return write_and_read


def test_a_gguf_file_has_the_one_in_its_norms_already(read_gguf):
    shape = read_gguf("gemma", layers=2, hidden=64, heads=8)
    assert (shape.norm_offset, shape.is_norm_wide) == (0.0, True)
    assert (shape.embedding_scale, shape.activation) == (8.0, "gelu_tanh")
    assert shape.tie_word_embeddings


def test_gemma_2_files_mean_llama_cpps_defaults(read_gguf):
    shape = read_gguf("gemma2", layers=4, hidden=64, heads=8)
    assert (shape.attention_softcap, shape.logit_softcap) == (50.0, 30.0)
    assert shape.windows == (4096, 0, 4096, 0)


@pytest.mark.parametrize(
    ("arch", "layers", "hidden", "scalar"),
    [("gemma2", 46, 4608, 144), ("gemma3", 62, 5376, 168)],
    ids=["2", "3"],
)
def test_27b_files_have_another_scale(read_gguf, arch, layers, hidden, scalar):
    assert read_gguf(arch, layers, hidden, 32).attention_scale == pytest.approx(scalar**-0.5)
    assert read_gguf(arch, layers - 1, hidden, 32).attention_scale == 0.0


@pytest.mark.parametrize(
    ("keys", "windows"),
    [
        ({}, ()),
        ({"sliding_window": 8}, (8, 8, 8, 8, 8, 0, 8)),
        ({"sliding_window": 8, "sliding_window_pattern": 2}, (8, 0, 8, 0, 8, 0, 8)),
        (
            {"sliding_window": 8, "sliding_window_pattern": [True, False, False] + [True] * 4},
            (8, 0, 0, 8, 8, 8, 8),
        ),
    ],
    ids=["none", "default", "period", "array"],
)
def test_the_windows_of_gemma_3_files(read_gguf, keys, windows):
    shape = read_gguf("gemma3", 7, 64, 8, rope_freq_base=1e6, **keys)
    assert shape.windows == windows
    assert (shape.rope_theta, shape.local_rope_theta) == (1000000.0, 10000.0)
    assert shape.qk_norm == ""  # no norms are in this file


def test_embedding_gemmas_window_is_that_of_both_sides_together(read):
    config = read({**GEMMA_3_1B, "use_bidirectional_attention": True})
    causal = read(GEMMA_3_1B)
    assert (causal.is_causal, config.is_causal) == (True, False)
    assert config.windows == tuple(window // 2 for window in causal.windows)
