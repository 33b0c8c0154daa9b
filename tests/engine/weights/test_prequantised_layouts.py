"""Matrices that other tools packed: their weights and their blocks, beside a packer in numpy."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from engine.weights.checkpoint import open_checkpoint
from tests.engine.weights import prequantised_files as files

NAME = "model.layers.0.mlp.up_proj.weight"
STEM = NAME.removesuffix("weight")
OUT, IN = 72, 192
ORDER = np.random.default_rng(5).permutation(IN)
FP8 = {"quant_method": "fp8"}


def gptq(bits=4, size=32, **values):
    return {"quant_method": "gptq", "bits": bits, "group_size": size, **values}


def compressed(bits, *, form="pack-quantized", kind="int", **weights):
    weights = {"num_bits": bits, "type": kind, **weights}
    group = {"targets": ["Linear"], "weights": weights}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
    }


AWQ = {"quant_method": "awq", "bits": 4, "zero_point": True, "version": "gemm"}
V2 = {"checkpoint_format": "gptq_v2"}

# name: how to pack, the quantization_config, and the kind of blocks that hold it
CASES = {
    "gptq": (lambda w: files.gptq(w), gptq(), 1032),
    "gptq-symmetric-64": (lambda w: files.gptq(w, 4, 64, is_symmetric=True), gptq(size=64), 1064),
    "gptq-v2": (lambda w: files.gptq(w, layout="gptq_v2"), gptq(**V2), 1032),
    "gptq-8-rows": (lambda w: files.gptq(w, 8, -1), gptq(8, -1), 2064),
    "gptq-2": (lambda w: files.gptq(w, 2, 96), gptq(2, 96), 1032),
    "gptq-3": (lambda w: files.gptq(w, 3, 64), gptq(3, 64), 1064),
    "gptq-no-g_idx": (lambda w: files.gptq(w, has_g_idx=False), gptq(), 1032),
    "gptq-ragged": (lambda w: files.gptq(w, 4, 128), gptq(size=128), 1064),
    "gptq-24": (lambda w: files.gptq(w, 4, 24), gptq(size=24), None),
    "gptq-by-activation": (lambda w: files.gptq(w, order=ORDER), gptq(desc_act=True), None),
    "gptq-by-activation-rows": (
        lambda w: files.gptq(w, 4, -1, order=ORDER),
        gptq(size=-1, desc_act=True),
        1064,
    ),
    "gptq-dynamic": (
        lambda w: files.gptq(w, 8, 64),
        gptq(dynamic={"+:.*up_proj": {"bits": 8, "group_size": 64}}),
        2064,
    ),
    "awq": (lambda w: files.awq(w, 64), {**AWQ, "group_size": 64}, 1064),
    "awq-rows": (lambda w: files.awq(w, -1), {**AWQ, "group_size": -1}, 1064),
    "fp8-blocks": (
        lambda w: files.fp8(w, (32, 64)),
        {**FP8, "weight_block_size": [32, 64]},
        3064,
    ),
    "fp8-blocks-ragged": (
        lambda w: files.fp8(w, (128, 128)),
        {**FP8, "weight_block_size": [128, 128]},
        3064,
    ),
    "fp8-whole": (lambda w: files.fp8(w, None, "weight_scale", 0), FP8, 3064),
    "fp8-rows": (lambda w: files.fp8(w, (1, IN), "weight_scale", 1), FP8, 3064),
    "fbgemm": (
        lambda w: files.fp8(w, (1, IN), "weight_scale"),
        {"quant_method": "fbgemm_fp8"},
        3064,
    ),
    "packed-4": (lambda w: files.compressed_ints(w, 4, 64), compressed(4, group_size=64), 1064),
    "packed-4-asymmetric": (
        lambda w: files.compressed_ints(w, 4, 32, is_symmetric=False),
        compressed(4, group_size=32, symmetric=False),
        1032,
    ),
    "packed-3": (lambda w: files.compressed_ints(w, 3, 64), compressed(3, group_size=64), 1064),
    "packed-8-rows": (lambda w: files.compressed_ints(w, 8, -1), compressed(8), 2064),
    "packed-by-activation": (
        lambda w: files.compressed_ints(w, 4, 32, order=ORDER),
        compressed(4, actorder="group"),
        None,
    ),
    "ints": (
        lambda w: files.compressed_ints(w, 8, -1, is_packed=False),
        compressed(8, form="int-quantized"),
        2064,
    ),
    "ints-asymmetric": (
        lambda w: files.compressed_ints(w, 8, 64, is_symmetric=False, is_packed=False),
        compressed(8, form="int-quantized", symmetric=False),
        2064,
    ),
    "ints-4": (
        lambda w: files.compressed_ints(w, 4, 64, is_packed=False),
        compressed(4, form="naive-quantized"),
        1064,
    ),
    "floats-rows": (
        lambda w: files.fp8(w, (1, IN), "weight_scale"),
        compressed(8, form="float-quantized", kind="float"),
        3064,
    ),
    "floats-blocks": (
        lambda w: files.fp8(w, (16, 32), "weight_scale"),
        compressed(8, form="naive-quantized", kind="float", block_structure=[16, 32]),
        3032,
    ),
}


def weights(rows=OUT, columns=IN):
    return np.random.default_rng(3).standard_normal((rows, columns)).astype(np.float32)


def open_packed(tmp_path, parts, quantization):
    tensors = {STEM + word: part for word, part in parts.items()}
    return open_checkpoint(files.write_llama(tmp_path, tensors, quantization))


def from_blocks(kind, blocks):
    """Blocks as kernels/packed.py describes them, in numpy: [R, bytes] to [R, C]."""
    width = kind % 1000
    num_bytes = {1: 8 + width // 2, 2: 8 + width, 3: 4 + width}[kind // 1000]
    blocks = blocks.reshape(len(blocks), -1, num_bytes)
    scales = blocks[..., :4].copy().view(np.float32)
    if kind // 1000 == 3:
        return (files.e4m3_values()[blocks[..., 4:]] * scales).reshape(len(blocks), -1)
    zeros = blocks[..., 4:8].copy().view(np.float32)
    codes = blocks[..., 8:]
    if kind // 1000 == 1:
        codes = np.concatenate([codes & 15, codes >> 4], axis=-1)
    return ((codes.astype(np.float32) - zeros) * scales).reshape(len(blocks), -1)


@pytest.mark.parametrize("case", CASES)
def test_the_weights_are_those_of_the_formula_to_the_bit(case, tmp_path):
    pack, quantization, _ = CASES[case]
    parts, expected = pack(weights())
    checkpoint = open_packed(tmp_path, parts, quantization)
    assert checkpoint.names() == {NAME, "model.norm.weight"}
    assert checkpoint.shape(NAME) == (OUT, IN)
    assert np.array_equal(checkpoint.tensor(NAME).numpy(), expected)


@pytest.mark.parametrize("case", CASES)
def test_blocks_hold_the_same_weights(case, tmp_path):
    pack, quantization, kind = CASES[case]
    parts, expected = pack(weights())
    packed = open_packed(tmp_path, parts, quantization).packed(NAME)
    if kind is None:
        assert packed is None
        return
    assert packed.kind == kind
    assert packed.shape == (OUT, IN)
    blocks = torch.cat([piece.clone() for piece in packed.pieces]).numpy()
    assert np.array_equal(from_blocks(kind, blocks), expected)


def test_fp8_blocks_are_those_of_transformers(tmp_path):
    weight = torch.randn(OUT, IN).to(torch.float8_e4m3fn)
    scales = torch.rand(OUT // 8, IN // 64)
    parts = {"weight": weight, "weight_scale_inv": scales}
    checkpoint = open_packed(tmp_path, parts, {**FP8, "weight_block_size": [8, 64]})
    expected = Fp8Dequantize(None)._dequantize_one(weight, scales, torch.float32)
    assert torch.equal(checkpoint.tensor(NAME), expected)


@pytest.mark.parametrize("case", ["gptq", "awq", "fp8-blocks-ragged", "packed-4-asymmetric"])
def test_a_large_matrix_comes_in_pieces(case, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.weights.prequantised.grouped._PIECE_WEIGHTS", 32 * IN)
    pack, quantization, kind = CASES[case]
    if case == "awq":
        quantization = {**quantization, "group_size": 64}
    parts, expected = pack(weights())
    checkpoint = open_packed(tmp_path, parts, quantization)
    pieces = list(checkpoint.pieces(NAME))
    assert [len(piece) for piece in pieces] == [32, 32, 8]
    assert np.array_equal(torch.cat(pieces).numpy(), expected)
    blocks = [piece.clone() for piece in checkpoint.packed(NAME).pieces]
    assert np.array_equal(from_blocks(kind, torch.cat(blocks).numpy()), expected)


def test_a_group_far_larger_than_a_row_is_the_row(tmp_path):
    parts, expected = files.awq(weights(), -1)
    checkpoint = open_packed(tmp_path, parts, {**AWQ, "group_size": 1 << 40})
    assert np.array_equal(checkpoint.tensor(NAME).numpy(), expected)


def test_rows_that_no_block_fits_are_unpacked_with_a_line_in_the_log(tmp_path, caplog):
    caplog.set_level("INFO")
    parts, expected = files.gptq(weights(8, 40), 4, -1)
    checkpoint = open_packed(tmp_path, parts, gptq(size=-1))
    assert checkpoint.packed(NAME) is None
    assert f"{NAME} and others are unpacked as they are loaded: no packed format" in caplog.text
    assert np.array_equal(checkpoint.tensor(NAME).numpy(), expected)


def test_scales_of_activations_are_left_out_with_a_line_in_the_log(tmp_path, caplog):
    caplog.set_level("INFO")
    parts, _ = files.fp8(weights(), None, "weight_scale", 0)
    parts |= {"input_scale": torch.tensor(0.5)}
    checkpoint = open_packed(tmp_path, parts, {**FP8, "activation_scheme": "static"})
    assert checkpoint.names() == {NAME, "model.norm.weight"}
    assert "1 scales of activations have no use" in caplog.text


def test_modules_that_were_left_out_are_plain(tmp_path):
    parts, expected = files.gptq(weights())
    plain = torch.randn(8, 32).to(torch.bfloat16)
    tensors = {STEM + word: part for word, part in parts.items()}
    tensors["lm_head.weight"] = plain
    quantization = gptq(modules_to_not_convert=["lm_head"])
    checkpoint = open_checkpoint(files.write_llama(tmp_path, tensors, quantization))
    assert torch.equal(checkpoint.tensor("lm_head.weight"), plain)
    assert torch.equal(torch.cat(list(checkpoint.pieces("lm_head.weight"))), plain)
    stored = checkpoint.packed("lm_head.weight")
    assert stored is not None
    assert stored.kind == Type.BF16
    assert torch.equal(torch.cat(list(stored.pieces)), plain.view(torch.uint8))
    assert checkpoint.shape("lm_head.weight") == (8, 32)
    assert np.array_equal(checkpoint.tensor(NAME).numpy(), expected)
