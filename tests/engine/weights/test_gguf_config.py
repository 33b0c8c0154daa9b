"""What GGUF metadata says of a model, and what it must not."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES

from engine.errors import LoadError
from engine.weights.files import ModelRef, resolve
from engine.weights.model_config import read_model_config

LLAMA = {
    "general.architecture": "llama",
    "llama.context_length": 512,
    "llama.embedding_length": 64,
    "llama.block_count": 2,
    "llama.feed_forward_length": 96,
    "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}
REQUIRED = [key for key in LLAMA if "head_count_kv" not in key and "architecture" not in key]


def _adder(writer, value):
    if isinstance(value, list):
        return writer.add_array
    if isinstance(value, str):
        return writer.add_string
    return writer.add_float32 if isinstance(value, float) else writer.add_uint32


@pytest.fixture
def write(tmp_path):
    """Write a file with this metadata, an embedding of 100 rows, and tensors by name and type."""

    def write(metadata, kind=Type.F32, **tensors):
        path = tmp_path / "model.gguf"
        writer = GGUFWriter(path, metadata["general.architecture"])
        for key, value in metadata.items():
            if key == "general.architecture":
                continue
            _adder(writer, value)(key, value)
        blocks = 256 // GGML_QUANT_SIZES[kind][0]
        data = np.zeros((100, blocks * GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
        writer.add_tensor("token_embd.weight", data, raw_dtype=kind)
        for name, values in tensors.items():
            writer.add_tensor(name, np.array(values, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return resolve(ModelRef(model=str(path)))

    return write


@pytest.fixture
def read(write):
    return lambda *args, **kwargs: read_model_config(write(*args, **kwargs))


def test_the_shape_is_read(read):
    config = read(LLAMA)
    assert config.architecture == "LlamaForCausalLM"
    assert (config.vocab_size, config.hidden_size, config.intermediate_size) == (100, 64, 96)
    assert (config.num_layers, config.num_heads, config.num_kv_heads) == (2, 8, 2)
    assert (config.head_dim, config.context_length) == (8, 512)
    assert (config.rope_theta, config.rope_scaling) == (10000.0, None)
    assert config.tie_word_embeddings
    assert config.eos_token_ids == ()


def test_a_llama_file_with_a_window_is_mistral(read):
    config = read({**LLAMA, "llama.attention.sliding_window": 128})
    assert (config.architecture, config.windows) == ("MistralForCausalLM", (128, 128))


def test_flags_follow_the_tensors_that_are_there(read):
    names = {
        "output.weight": [1.0],
        "blk.0.attn_q.bias": [1.0],
        "blk.0.attn_output.bias": [1.0],
        "blk.0.ffn_up.bias": [1.0],
        "blk.0.attn_q_norm.weight": [1.0],
    }
    config = read(LLAMA, **names)
    assert not config.tie_word_embeddings
    assert config.attention_bias
    assert config.attention_output_bias
    assert config.mlp_bias
    assert config.qk_norm == "head"


def test_every_end_of_sequence_counts(read):
    tokens = {"eos_token_id": 2, "eot_token_id": 7, "eom_token_id": 2, "bos_token_id": 1}
    config = read({**LLAMA, **{f"tokenizer.ggml.{key}": id for key, id in tokens.items()}})
    assert config.eos_token_ids == (2, 7)
    assert config.bos_token_id == 1


def test_rope_freqs_become_factors(read):
    config = read(LLAMA, **{"rope_freqs.weight": [1.0, 2.0, 4.0, 8.0]})
    assert config.rope_scaling == {"rope_type": "factors", "factors": (1.0, 2.0, 4.0, 8.0)}


def test_rope_freqs_and_linear_scaling_multiply(read):
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    config = read({**LLAMA, **linear}, **{"rope_freqs.weight": [1.0, 2.0, 4.0, 8.0]})
    assert config.rope_scaling["factors"] == (2.0, 4.0, 8.0, 16.0)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (Type.F32, "float32"),
        (Type.F16, "float16"),
        (Type.BF16, "bfloat16"),
        (Type.Q4_K, "bfloat16"),
    ],
)
def test_the_dtype_is_that_of_most_weights(read, kind, dtype):
    assert read(LLAMA, kind).dtype == dtype


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named(read, key):
    with pytest.raises(LoadError, match=f"the metadata key {key} is missing"):
        read({name: value for name, value in LLAMA.items() if name != key})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"general.architecture": "gpt2"}, "the GGUF architecture gpt2 is not supported"),
        ({"llama.expert_count": 8}, "llama.expert_used_count is missing"),
        (
            {"llama.expert_count": 8, "llama.expert_used_count": 9},
            "sends a token to 9 of its 8 experts",
        ),
        ({"llama.block_count": 0}, "llama.block_count cannot be used: Expected `int` >= 1"),
        ({"llama.embedding_length": "64"}, "llama.embedding_length cannot be used"),
        ({"llama.feed_forward_length": [96, 96]}, "llama.feed_forward_length cannot be used"),
        ({"llama.attention.head_count_kv": 3}, "8 attention heads, which is no multiple of its 3"),
        ({"llama.rope.dimension_count": 4}, "llama.rope.dimension_count is 4 and the heads have 8"),
        ({"llama.attention.value_length": 16}, "value_length is 16 and the heads have 8"),
        ({"llama.rope.scaling.type": "dynamic"}, "rope scaling 'dynamic'"),
        ({"llama.rope.scaling.type": "longrope"}, "missing required field `short_factor`"),
        ({"tokenizer.ggml.eos_token_id": "two"}, "tokenizer.ggml.eos_token_id cannot be used"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_key_that_makes_no_sense_is_named(read, changes, says):
    changed = {**LLAMA, **changes}
    if changed["general.architecture"] != "llama":
        arch = changed["general.architecture"]
        changed = {key.replace("llama.", f"{arch}."): value for key, value in changed.items()}
    with pytest.raises(LoadError, match=says):
        read(changed)


def test_a_factor_without_a_type_is_linear_as_in_llama_cpp(read):
    """Files of 2023 say `rope.scale_linear` and nothing else."""
    config = read({**LLAMA, "llama.rope.scale_linear": 4.0})
    assert config.rope_scaling == {"rope_type": "linear", "factor": 4.0}
    off = {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}
    assert read({**LLAMA, **off}).rope_scaling is None


def test_rope_freqs_beside_another_scaling_are_refused(read):
    yarn = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0}
    with pytest.raises(LoadError, match=r"rope_freqs.weight beside rope scaling 'yarn'"):
        read({**LLAMA, **yarn}, **{"rope_freqs.weight": [1.0, 2.0, 4.0, 8.0]})


def test_rope_freqs_of_another_length_are_refused(read):
    with pytest.raises(LoadError, match=r"rope_freqs.weight is not a float32 row of 4"):
        read(LLAMA, **{"rope_freqs.weight": [1.0, 2.0]})
