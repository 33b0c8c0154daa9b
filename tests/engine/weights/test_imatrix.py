"""Importance matrices: both formats, damaged files, and whose weights an entry is about."""

from contextlib import suppress

import numpy as np
import pytest
from gguf import GGUFWriter
from hypothesis import given, strategies as st

from engine.config import ModelConfig
from engine.errors import LoadError
from engine.weights.imatrix import read_imatrix
from engine.weights.imatrix_names import importance_of_weights
from tests.engine.weights.imatrix_files import write_gguf, write_legacy

RNG = np.random.default_rng(0)
MEANS = {
    "blk.0.attn_q.weight": RNG.uniform(0, 1, 64).astype(np.float32),
    "blk.0.ffn_down.weight": RNG.uniform(0, 1, 96).astype(np.float32),
    "output.weight": RNG.uniform(0, 1, 64).astype(np.float32),
}


@pytest.mark.parametrize("write", [write_legacy, write_gguf])
def test_both_formats_hold_the_mean_squares(write, tmp_path):
    entries = read_imatrix(str(write(tmp_path / "imatrix", MEANS)))
    assert entries.keys() == MEANS.keys()
    for name, values in MEANS.items():
        np.testing.assert_allclose(entries[name], values, rtol=1e-6)


def test_an_expert_that_saw_no_token_has_ones(tmp_path):
    means = {"blk.0.ffn_up_exps.weight": RNG.uniform(1, 2, (3, 8)).astype(np.float32)}
    counts = {"blk.0.ffn_up_exps.weight": [5, 0, 2]}
    (values,) = read_imatrix(str(write_gguf(tmp_path / "i.gguf", means, counts))).values()
    expected = means["blk.0.ffn_up_exps.weight"].copy()
    expected[1] = 1
    np.testing.assert_allclose(values.reshape(3, 8), expected, rtol=1e-6)


@given(length=st.integers(0, 400), flip=st.integers(0, 399), bit=st.integers(0, 7))
def test_a_damaged_file_is_refused_or_read_but_never_an_error_of_ours(
    length, flip, bit, tmp_path_factory
):
    directory = tmp_path_factory.mktemp("imatrix")
    data = bytearray(write_legacy(directory / "whole.dat", MEANS).read_bytes()[:length])
    if flip < len(data):
        data[flip] ^= 1 << bit
    (directory / "damaged.dat").write_bytes(data)
    with suppress(LoadError):
        entries = read_imatrix(str(directory / "damaged.dat"))
        assert all(np.isfinite(values).all() for values in entries.values())


def legacy(data):
    return lambda path: path.write_bytes(data)


BAD_FILES = {
    "nothing": (legacy(b""), "is no imatrix of llama.cpp, or a damaged one"),
    "no entries": (legacy(bytes(4)), "it has no entries"),
    "a long name": (legacy(b"\x01\0\0\0\xff\xff\xff\x7f"), "a name of 2147483647 bytes"),
    "text": (legacy(b"hello, world, I am no matrix"), "is no imatrix of llama.cpp"),
    "a cut GGUF file": (legacy(b"GGUF\x03\0\0\0"), "is damaged or cut short"),
    "no number": (
        lambda path: write_legacy(path, {"a": np.array([1, np.nan], np.float32)}),
        "has no finite mean squares for a",
    ),
    "below zero": (
        lambda path: write_legacy(path, {"a": np.array([1, -1], np.float32)}),
        "has no finite mean squares for a",
    ),
    "a model": (lambda path: gguf_without_sums(path), "is a GGUF file but no imatrix"),
    "sums without counts": (
        lambda path: gguf_without_sums(path, "a.in_sum2"),
        "has no tensor a.counts; it is no whole imatrix",
    ),
    "other counts": (
        lambda path: gguf_without_sums(path, "a.in_sum2", "a.counts"),
        "has 7 counts for 5 sums of a",
    ),
}


def gguf_without_sums(path, *names):
    writer = GGUFWriter(path, "none")
    for length, name in zip((5, 7), names, strict=False):
        writer.add_tensor(name, np.ones(length, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(("write", "sentence"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_is_none_is_one_sentence(write, sentence, tmp_path):
    write(tmp_path / "bad")
    with pytest.raises(LoadError, match=sentence) as caught:
        read_imatrix(str(tmp_path / "bad"))
    assert "\n" not in str(caught.value)


def test_mistral_rs_own_format_and_no_file_are_refused(tmp_path):
    with pytest.raises(LoadError, match=r"in mistral.rs' own format"):
        read_imatrix(str(tmp_path / "a.cimatrix"))
    with pytest.raises(LoadError, match="cannot be read: No such file"):
        read_imatrix(str(tmp_path / "a.dat"))


def config(architecture, num_experts=0):
    return ModelConfig(
        architecture=architecture,
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        context_length=8,
        num_experts=num_experts,
    )


def row(number, length=8):
    return np.full(length, number, np.float32)


LAYER = "model.layers.0"
MAPPINGS = {
    "q, k and v have one input": (
        config("LlamaForCausalLM"),
        {"blk.0.attn_k.weight": row(2), "blk.0.attn_q.weight": row(2)},
        {f"{LAYER}.self_attn.{p}_proj.weight": (8, 8) for p in "qkv"},
        dict.fromkeys((f"{LAYER}.self_attn.{p}_proj.weight" for p in "qkv"), 2),
    ),
    "fused in the file, apart in the model": (
        config("PhiForCausalLM"),
        {"blk.0.attn_qkv.weight": row(3), "blk.0.ffn_up.weight": row(4)},
        {f"{LAYER}.self_attn.v_proj.weight": (8, 8), f"{LAYER}.mlp.fc1.weight": (8, 8)},
        {f"{LAYER}.self_attn.v_proj.weight": 3, f"{LAYER}.mlp.fc1.weight": 4},
    ),
    "fused in both": (
        config("Phi3ForCausalLM"),
        {"blk.0.ffn_up.weight": row(5), "blk.0.attn_output.weight": row(6)},
        {f"{LAYER}.mlp.gate_up_proj.weight": (8, 8), f"{LAYER}.self_attn.o_proj.weight": (8, 8)},
        {f"{LAYER}.mlp.gate_up_proj.weight": 5, f"{LAYER}.self_attn.o_proj.weight": 6},
    ),
    "the output, and norms left alone": (
        config("LlamaForCausalLM"),
        {"output.weight": row(7)},
        {"lm_head.weight": (8, 8), "model.norm.weight": (8,)},
        {"lm_head.weight": 7},
    ),
    "experts by their old names": (
        config("MixtralForCausalLM", 2),
        {
            "blk.0.ffn_up_exps.weight": np.concatenate([row(1), row(2)]),
            "blk.0.ffn_down_exps.weight": np.concatenate([row(3), row(4)]),
        },
        {f"{LAYER}.block_sparse_moe.experts.1.{w}.weight": (8, 8) for w in ("w1", "w2", "w3")}
        | {f"{LAYER}.block_sparse_moe.experts.0.{w}.weight": (8, 8) for w in ("w1", "w2", "w3")},
        {
            f"{LAYER}.block_sparse_moe.experts.1.w1.weight": 2,
            f"{LAYER}.block_sparse_moe.experts.1.w2.weight": 4,
            f"{LAYER}.block_sparse_moe.experts.0.w3.weight": 1,
        },
    ),
    "an entry for each expert": (
        config("Qwen3MoeForCausalLM", 2),
        {"blk.0.ffn_down.0.weight": row(3), "blk.0.ffn_down.1.weight": row(4)},
        {f"{LAYER}.mlp.experts.{e}.down_proj.weight": (8, 8) for e in (0, 1)},
        {
            f"{LAYER}.mlp.experts.0.down_proj.weight": 3,
            f"{LAYER}.mlp.experts.1.down_proj.weight": 4,
        },
    ),
}


@pytest.mark.parametrize(
    ("model", "entries", "shapes", "expected"), MAPPINGS.values(), ids=MAPPINGS
)
def test_an_entry_is_about_every_weight_of_its_input(model, entries, shapes, expected):
    found = importance_of_weights(entries, "x", model, shapes)
    for name, value in expected.items():
        assert found[name].shape == (8,)
        assert set(found[name]) == {value}
    assert "model.norm.weight" not in found


def test_experts_of_a_stacked_tensor_have_a_row_each():
    entries = {"blk.0.ffn_gate_exps.weight": np.concatenate([row(1), row(2), row(3)])}
    shapes = {f"{LAYER}.mlp.experts.gate_up_proj": (3, 16, 8)}
    (values,) = importance_of_weights(
        entries, "x", config("Qwen3MoeForCausalLM", 3), shapes
    ).values()
    assert values.tolist() == [[1] * 8, [2] * 8, [3] * 8]


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"blk.7.attn_q.weight": row(1)}, r"has an entry for model.layers.7.self_attn.qkv_proj"),
        ({"blk.0.attn_q.weight": row(1, 16)}, "has 16 columns, and this one's has 8"),
        ({"blk.0.ssm_in.weight": row(1)}, r"has an entry for blk.0.ssm_in.weight"),
        ({"output.weight": row(1)}, "has no entry for a weight of this model"),
    ],
)
def test_a_file_for_another_model_is_refused(entries, sentence):
    shapes = {f"{LAYER}.self_attn.q_proj.weight": (8, 8)}
    with pytest.raises(LoadError, match=sentence):
        importance_of_weights(entries, "x", config("LlamaForCausalLM"), shapes)
