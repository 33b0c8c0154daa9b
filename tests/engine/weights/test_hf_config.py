"""What config.json and its neighbours say, and what they must not."""

import json

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import LoadError
from engine.weights.files import ModelRef, resolve
from engine.weights.model_config import read_model_config

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
}
REQUIRED = [key for key in LLAMA if key != "num_key_value_heads"]
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def family(name, **keys):
    return {**LLAMA, "architectures": [f"{name}ForCausalLM"], **keys}


@pytest.fixture
def read(tmp_path):
    """Write files by name and read the configuration that they make."""

    def write_and_read(config, dtype=torch.bfloat16, **others):
        save_file({"w": torch.zeros(4, dtype=dtype)}, tmp_path / "model.safetensors")
        for name, content in {"config": config, **others}.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return read_model_config(resolve(ModelRef(model=str(tmp_path))))

    return write_and_read


def test_the_shape_is_read(read):
    config = read(LLAMA)
    assert config.architecture == "LlamaForCausalLM"
    assert (config.num_layers, config.num_heads, config.num_kv_heads) == (4, 8, 2)
    assert (config.head_dim, config.context_length) == (8, 512)
    assert (config.rope_theta, config.rope_scaling) == (10000.0, None)
    assert config.norm_eps == 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_dtype_is_that_of_the_weights_whatever_config_json_says(read, dtype):
    config = read({**LLAMA, "torch_dtype": "float64"}, dtype=dtype)
    assert f"torch.{config.dtype}" == str(dtype)


def test_weights_of_another_dtype_are_refused(read):
    with pytest.raises(LoadError, match="stores its weights as F8_E4M3; supported are F32"):
        read(LLAMA, dtype=torch.float8_e4m3fn)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE},
        {"rope_parameters": {**LLAMA3_ROPE, "rope_theta": 500000.0}},
    ],
    ids=["transformers-4", "transformers-5"],
)
def test_both_spellings_of_rope_parameters_are_read(read, rope):
    config = read({**LLAMA, **rope})
    assert config.rope_theta == 500000.0
    assert config.rope_scaling == LLAMA3_ROPE


def test_yarn_stretches_the_context_length(read):
    rope = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    assert read({**LLAMA, "rope_scaling": rope}).context_length == 2048


@pytest.mark.parametrize(
    ("config", "windows"),
    [
        (family("Llama", sliding_window=16), ()),
        (family("Mistral", sliding_window=16), (16,) * 4),
        (family("Mistral", sliding_window=None), (0,) * 4),
        (family("Mistral"), (4096,) * 4),
        (family("Qwen2", sliding_window=16), ()),
        (family("Qwen2", sliding_window=16, use_sliding_window=True), (0,) * 4),
        (
            family("Qwen2", sliding_window=16, use_sliding_window=True, max_window_layers=3),
            (0, 0, 0, 16),
        ),
        (
            family(
                "Qwen3",
                sliding_window=16,
                use_sliding_window=True,
                max_window_layers=4,
                layer_types=["full_attention", "sliding_attention"] * 2,
            ),
            (0, 16, 0, 16),
        ),
    ],
    ids=["llama", "mistral", "no-window", "v0.1-default", "switch-off", "on", "layers", "types"],
)
def test_the_windows_are_where_transformers_has_them(read, config, windows):
    assert read(config).windows == windows


@pytest.mark.parametrize(
    ("config", "flags"),
    [
        (family("Llama"), (False, False, False, "")),
        (family("Llama", attention_bias=True, mlp_bias=True), (True, True, True, "")),
        (family("Qwen2"), (True, False, False, "")),
        (family("Qwen3", head_dim=16), (False, False, False, "head")),
        (family("Qwen3", head_dim=16, attention_bias=True), (True, True, False, "head")),
    ],
    ids=["llama", "llama-bias", "qwen2", "qwen3", "qwen3-bias"],
)
def test_biases_and_norms_are_the_familys(read, config, flags):
    config = read(config)
    actual = (config.attention_bias, config.attention_output_bias, config.mlp_bias, config.qk_norm)
    assert actual == flags


def test_every_file_that_names_an_end_of_sequence_counts(read):
    config = read(
        {**LLAMA, "eos_token_id": 2},
        generation_config={"eos_token_id": [2, 7]},
        tokenizer_config={"eos_token": {"content": "<|im_end|>"}},
        tokenizer={"added_tokens": [{"id": 9, "content": "<|im_end|>", "special": True}]},
    )
    assert config.eos_token_ids == (2, 7, 9)


def test_the_tokenizers_own_end_of_sequence_is_found_in_its_decoder(read):
    tokenizer = {"eos_token": "</s>", "added_tokens_decoder": {"3": {"content": "</s>"}}}
    assert read(LLAMA, tokenizer_config=tokenizer).eos_token_ids == (3,)


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named(read, key):
    with pytest.raises(LoadError, match=f"config.json cannot be used: .*`{key}`"):
        read({name: value for name, value in LLAMA.items() if name != key})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel is not supported; supported are"),
        ({"architectures": []}, r"\$.architectures"),
        ({"hidden_size": 0}, r"Expected `int` >= 1 - at `\$.hidden_size"),
        ({"hidden_size": "64"}, r"got `str` - at `\$.hidden_size"),
        ({"rms_norm_eps": -1.0}, r"\$.rms_norm_eps"),
        ({"num_attention_heads": 7}, "hidden_size 64 is no multiple of num_attention_heads 7"),
        ({"num_key_value_heads": 3}, "8 attention heads, which is no multiple of its 3"),
        ({"head_dim": 7}, "turns 7 of the 7 dimensions of a head; rotary needs an even"),
        ({"hidden_act": "relu6"}, "the activation 'relu6' is not supported"),
        ({"rope_theta": 0}, r"\$.rope_theta"),
        ({"rope_parameters": {"rope_theta": "x"}}, "rope_theta must be a positive number"),
        ({"rope_parameters": {"full_attention": {}}}, "rope parameters that differ by layer"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope scaling 'dynamic'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor other than 1"),
        ({"quantization_config": {"quant_method": "aqlm"}}, "quantised with aqlm are not supp"),
        ({"eos_token_id": "two"}, r"\$.eos_token_id"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_key_that_makes_no_sense_is_named(read, changes, says):
    with pytest.raises(LoadError, match=says):
        read({**LLAMA, **changes})


@pytest.mark.parametrize("types", [["full_attention"] * 3, ["full_attention"] * 3 + ["linear"]])
def test_layer_types_that_do_not_fit_are_refused(read, types):
    with pytest.raises(LoadError, match="layer_types must be 4 of full_attention and sliding"):
        read(family("Qwen2", use_sliding_window=True, layer_types=types))


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"])
def test_a_damaged_config_is_named(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(LoadError, match=r"config.json cannot be used"):
        read_model_config(resolve(ModelRef(model=str(tmp_path))))


def test_an_unknown_family_is_named_whatever_keys_it_lacks(read):
    with pytest.raises(LoadError, match=r"LlavaForConditionalGeneration is not supported"):
        read({"architectures": ["LlavaForConditionalGeneration"], "text_config": {}})
