"""Quantised checkpoints that cannot be: one sentence each that says what is wrong."""

import numpy as np
import pytest
import torch

from engine.errors import LoadError
from engine.weights.prequantised.config import read_method
from tests.engine.weights import prequantised_files as files
from tests.engine.weights.test_prequantised_layouts import (
    AWQ,
    CASES,
    FP8,
    IN,
    NAME,
    OUT,
    compressed,
    gptq,
    open_packed,
    weights,
)


def ints(*shape):
    return torch.zeros(shape, dtype=torch.int32)


@pytest.mark.parametrize(
    ("quantization", "sentence"),
    [
        ({"quant_method": "bitsandbytes"}, "quantised with bitsandbytes are not supported, only"),
        ({"bits": 4}, "quantised with unknown are not supported, only awq, compressed-tensors"),
        ({"quant_method": 7}, "quantised with 7 are not supported"),
        (gptq(5), r"\(bits is 5, not 2 or 3 or 4 or 8\)"),
        (gptq(size=0), "group_size is 0, neither -1 nor above 0"),
        (gptq(checkpoint_format="marlin"), "checkpoint_format is marlin, not gptq or gptq_v2"),
        (gptq(bits="four"), "Expected `int`, got `str` - at `\\$.bits`"),
        ({**AWQ, "version": "gemv"}, "version is gemv, not gemm"),
        ({**AWQ, "bits": 8}, "bits is 8, not 4"),
        ({**FP8, "weight_block_size": [0, 128]}, "a block of 0 x 128 weights holds none"),
        (compressed(4, form="nvfp4-pack-quantized"), "format is nvfp4-pack-quantized, not pack-"),
        (compressed(4, kind="float"), "num_bits is 4, not 8"),
        (compressed(16), "num_bits is 16, not 2 or 3"),
        (compressed(8, block_structure="128by128"), "block_structure"),
        (
            {**compressed(4), "sparsity_config": {"format": "sparse-24-bitmask"}},
            "sparsity_config is sparse-24-bitmask, not dense",
        ),
        ({**compressed(4), "transform_config": {"a": 1}}, "transform_config is True"),
        ({"quant_method": "tramontane", "type": "Q8_0", "version": 2}, "version is 2, not 1"),
    ],
)
def test_a_method_that_is_not_known_is_refused_by_its_name(quantization, sentence, tmp_path):
    files.write_llama(tmp_path, {}, quantization)
    with pytest.raises(LoadError, match=sentence) as caught:
        read_method(tmp_path)
    assert "use the model's unquantised weights or a GGUF file" in str(caught.value)


@pytest.mark.parametrize(
    ("case", "changes", "sentence"),
    [
        ("gptq", {"scales": None}, "up_proj.qweight but no model.layers.0.mlp.up_proj.scales"),
        ("gptq", {"qzeros": None}, "no model.layers.0.mlp.up_proj.qzeros; download it again"),
        ("gptq", {"qweight": ints(3, OUT)}, r"shape \[3, 72\], but .* it is \[24, 72\]"),
        ("gptq", {"qzeros": ints(6, 8)}, r"qzeros has the shape \[6, 8\], but .* \[6, 9\]"),
        ("gptq", {"qweight": torch.tensor(1, dtype=torch.int32)}, "has 0 dimensions, not 2"),
        ("gptq", {"scales": torch.ones(OUT)}, "scales has 1 dimensions, not 2"),
        ("gptq", {"scales": ints(6, OUT)}, "stored as int32, not float16 or bfloat16 or"),
        ("gptq", {"g_idx": ints(IN) + 6}, "g_idx names groups that are none of the 6"),
        ("gptq", {"g_idx": ints(0)}, "g_idx is empty"),
        ("gptq-no-g_idx", {"scales": torch.ones(7, OUT)}, "qzeros has the shape"),
        ("gptq-dynamic", {"qweight": ints(36, OUT)}, "has 6 bits a weight"),
        ("gptq", {"weight": torch.ones(OUT, IN)}, "has both .*qweight and .*weight"),
        ("awq", {"qzeros": None}, "no model.layers.0.mlp.up_proj.qzeros"),
        ("awq", {"qweight": ints(IN, 8)}, r"qweight has the shape \[192, 8\]"),
        ("awq", {"qweight": ints(IN + 64, 9)}, "is not for groups of 64 of 256 columns"),
        ("awq", {"scales": torch.ones(3, 70)}, "70 rows, no multiple of 8"),
        ("fp8-blocks", {"weight_scale_inv": None}, "has .*up_proj.weight but no .*_scale_inv"),
        ("fp8-blocks", {"weight_scale_inv": torch.ones(2, 3)}, "none for a matrix"),
        ("fp8-rows", {"weight_scale": torch.ones(5)}, "none for a matrix"),
        ("fp8-rows", {"weight": torch.ones(OUT, IN)}, "as float32, not float8_e4m3fn"),
        (
            "fp8-rows",
            {"weight": torch.full((OUT, IN), torch.nan).to(torch.float8_e4m3fn)},
            "weights that are no numbers",
        ),
        (
            "fp8-whole",
            {"weight": torch.empty(0, IN, dtype=torch.float8_e4m3fn)},
            r"has the shape \[0, 192\], no weights",
        ),
        ("packed-4", {"weight_scale": None}, "weight_packed but no .*weight_scale"),
        ("packed-4", {"weight_shape": None}, "weight_packed but no .*weight_shape"),
        ("packed-4", {"weight_shape": torch.tensor([OUT, 0])}, "no shape of a matrix"),
        ("packed-4", {"weight_packed": ints(OUT, 7)}, "which no bits of config.json make of"),
        ("packed-4", {"weight_scale": torch.ones(OUT, 5)}, "none for a matrix"),
        ("packed-4-asymmetric", {"weight_zero_point": ints(8, 6)}, r"is \[9, 6\]"),
        ("packed-4", {"weight_zero_point": ints(9, 5)}, r"zero_point has the shape \[72, 5\]"),
        ("packed-by-activation", {"weight_g_idx": ints(IN) - 2}, "g_idx names groups that are"),
        ("ints-4", {"weight": torch.full((OUT, IN), 9, dtype=torch.int8)}, "of more than 4 bits"),
        ("floats-rows", {"weight_zero_point": torch.ones(1, dtype=torch.int8)}, "is not 0"),
    ],
)
def test_parts_that_are_missing_or_do_not_fit_are_named(case, changes, sentence, tmp_path):
    pack, quantization, _ = CASES[case]
    parts = {**pack(weights())[0], **changes}
    with pytest.raises(LoadError, match=sentence) as caught:
        open_packed(
            tmp_path, {word: p for word, p in parts.items() if p is not None}, quantization
        ).tensor(NAME)
    assert str(caught.value).count(". ") == 0


def test_a_zero_point_of_one_byte_is_read_as_older_files_have_it(tmp_path):
    parts, expected = files.compressed_ints(weights(), 4, 32, is_symmetric=False)
    as_bytes, _ = files.compressed_ints(weights(), 4, 32, is_symmetric=False, is_packed=False)
    parts["weight_zero_point"] = as_bytes["weight_zero_point"]
    checkpoint = open_packed(tmp_path, parts, compressed(4, group_size=32, symmetric=False))
    assert np.array_equal(checkpoint.tensor(NAME).numpy(), expected)
