"""What the GGUF metadata of Phi and StarCoder2 says, and what is missing from it."""

import numpy as np
import pytest
from gguf import GGUFWriter

from engine.errors import LoadError
from engine.weights.files import ModelRef, resolve
from engine.weights.model_config import read_model_config

SHAPE = {
    "context_length": 131072,
    "embedding_length": 64,
    "block_count": 32,
    "feed_forward_length": 96,
    "attention.head_count": 8,
}
LONG = {"context_length": 131072, "rope.scaling.original_context_length": 4096}
FACTORS = {
    "rope_factors_short.weight": [1.0, 1.0, 1.5, 2.0],
    "rope_factors_long.weight": [1.0, 2.0, 4.0, 8.0],
}


def adder(writer, value):
    if isinstance(value, str):
        return writer.add_string
    return writer.add_float32 if isinstance(value, float) else writer.add_uint32


@pytest.fixture
def read(tmp_path):
    def write_and_read(arch, changes, tensors=()):
        writer = GGUFWriter(tmp_path / "model.gguf", arch)
        eps = "layer_norm_rms_epsilon" if arch == "phi3" else "layer_norm_epsilon"
        for key, value in {**SHAPE, f"attention.{eps}": 1e-5, **changes}.items():
            adder(writer, value)(f"{arch}.{key}", value)
        for name, values in {"token_embd.weight": np.zeros((10, 64)), **dict(tensors)}.items():
            writer.add_tensor(name, np.array(values, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return read_model_config(resolve(ModelRef(model=str(tmp_path / "model.gguf"))))

    return write_and_read


def test_phi_3s_factors_are_longrope_whether_or_not_the_file_names_it(read):
    config = read("phi3", {**LONG, "rope.scaling.attn_factor": 1.19}, FACTORS)
    assert config.rope_scaling == {
        "rope_type": "longrope",
        "short_factor": (1.0, 1.0, 1.5, 2.0),
        "long_factor": (1.0, 2.0, 4.0, 8.0),
        "original_max_position_embeddings": 4096.0,
        "attention_factor": pytest.approx(1.19),
    }
    named = {**LONG, "rope.scaling.attn_factor": 1.19, "rope.scaling.type": "longrope"}
    assert read("phi3", named, FACTORS) == config


def test_factors_without_their_length_are_refused(read):
    with pytest.raises(LoadError, match=r"original_context_length is missing"):
        read("phi3", {}, FACTORS)


def test_long_factors_without_short_ones_are_refused(read):
    long_only = {name: values for name, values in FACTORS.items() if "long" in name}
    with pytest.raises(LoadError, match=r"has no tensor rope_factors_short.weight"):
        read("phi3", LONG, long_only)


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({"context_length": 4096}, 2047),
        ({"context_length": 4096, "attention.sliding_window": 0}, 0),
        ({"context_length": 4096, "attention.sliding_window": 100}, 100),
        ({"context_length": 4096, "block_count": 31}, 0),
        ({"context_length": 16384}, 0),
    ],
    ids=["old-phi-3-4k", "none", "other", "another-model", "long"],
)
def test_the_window_of_phi_3_is_known_where_old_files_leave_it_out(read, changes, window):
    assert read("phi3", changes).window(0) == window


@pytest.mark.parametrize(("changes", "window"), [({}, 4096), ({"attention.sliding_window": 7}, 7)])
def test_the_window_of_starcoder2_is_known_where_llama_cpp_leaves_it_out(read, changes, window):
    config = read("starcoder2", changes)
    assert config.windows == (window,) * 32
    assert (config.norm, config.activation) == ("layer", "gelu_tanh")


def test_phi_2_turns_a_part_of_a_head(read):
    config = read("phi2", {"rope.dimension_count": 4})
    assert (config.head_dim, config.num_turned, config.norm) == (8, 4, "layer")
