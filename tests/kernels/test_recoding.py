"""Types rewritten into kinds with kernels: their weights are what gguf-py or a formula unpacks."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

from engine.quant.block_format import block_format
from kernels import ops
from kernels.cpu.native.bindings import load_library
from kernels.packed import PackedMatrix
from kernels.packing import can_pack, pack
from kernels.recoding import recoding
from tests.kernels.packed_blocks import unpacked

IN_GGUF_PY = (
    *(Type.IQ1_S, Type.IQ1_M, Type.IQ2_XXS, Type.IQ2_XS, Type.IQ2_S),
    *(Type.IQ3_XXS, Type.IQ3_S, Type.TQ1_0, Type.TQ2_0),
)
OTHERS = (Type.Q8_1, Type.Q8_K, Type.Q1_0)
HOSTILE = (0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00)
D_AT = {Type.TQ1_0: 52, Type.TQ2_0: 64}


def random_blocks(kind, num):
    num_bytes = block_format(kind).num_bytes
    return np.random.default_rng(int(kind)).integers(0, 256, (num, num_bytes), np.uint8)


def with_scales(kind, blocks, bits):
    """The float16 scale of each block replaced."""
    bits = np.array(bits, np.uint16)
    if kind == Type.IQ1_M:
        for place in range(4):
            top = (bits >> (4 * place) & 15) << 4
            blocks[:, 49 + 2 * place] = blocks[:, 49 + 2 * place] & 15 | top
    else:
        start = D_AT.get(kind, 0)
        blocks[:, start : start + 2] = bits.view(np.uint8).reshape(-1, 2)
    return blocks


def recoded_weights(kind, rows):
    found = recoding(kind)
    assert found is not None
    packed = torch.from_numpy(found.rows(rows))
    return unpacked(PackedMatrix(found.kind, len(rows), 0, packed)).numpy()


def assert_same_bits(ours, theirs):
    """But for which NaN it is."""
    is_nan = np.isnan(theirs)
    assert np.array_equal(np.isnan(ours), is_nan)
    one, other = (np.where(is_nan, np.float32(0), a).view(np.uint32) for a in (ours, theirs))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("kind", [*IN_GGUF_PY, *OTHERS], ids=lambda kind: kind.name)
@pytest.mark.parametrize(
    "num", [500, pytest.param(10_000, marks=pytest.mark.nightly)], ids=["some", "many"]
)
def test_random_blocks_keep_their_weights_to_the_bit(kind, num):
    blocks = random_blocks(kind, num)
    with np.errstate(all="ignore"):
        expected = block_format(kind).unpack(blocks)
    assert_same_bits(recoded_weights(kind, blocks), expected)


@pytest.mark.parametrize("kind", [*IN_GGUF_PY, Type.Q8_1, Type.Q1_0], ids=lambda kind: kind.name)
def test_hostile_scales_keep_their_weights_to_the_bit(kind):
    blocks = with_scales(kind, random_blocks(kind, len(HOSTILE)), HOSTILE)
    with np.errstate(all="ignore"):
        expected = block_format(kind).unpack(blocks)
    assert_same_bits(recoded_weights(kind, blocks), expected)


@pytest.mark.skipif(load_library() is None, reason="no compiler")
@pytest.mark.parametrize("kind", [*IN_GGUF_PY, *OTHERS], ids=lambda kind: kind.name)
def test_pieces_of_a_file_become_tiles_that_have_its_weights(kind):
    form = block_format(kind)
    blocks = with_scales(kind, random_blocks(kind, 2 * 37), [0x2000] * 2 * 37)
    rows = torch.from_numpy(blocks.reshape(37, -1))
    assert can_pack(kind, 2 * form.num_weights)
    tiles = pack(kind, 37, 2 * form.num_weights, [rows[:32], rows[32:]])
    with np.errstate(all="ignore"):
        expected = form.unpack(blocks).reshape(37, -1)
    assert np.array_equal(
        ops.packed_rows(tiles, torch.arange(37)).numpy(), expected, equal_nan=True
    )
    untiled = PackedMatrix(kind, 37, 2 * form.num_weights, rows)
    assert np.array_equal(
        ops.packed_rows(untiled, torch.arange(37)).numpy(), expected, equal_nan=True
    )


def test_rows_keep_their_order():
    kind, (_, num_bytes) = Type.IQ3_S, GGML_QUANT_SIZES[Type.IQ3_S]
    rows = random_blocks(kind, 12).reshape(4, 3 * num_bytes)
    with np.errstate(all="ignore"):
        assert_same_bits(recoded_weights(kind, rows), dequantize(rows, kind))


def test_the_rows_given_are_left_as_they_were():
    rows = random_blocks(Type.IQ1_M, 3)
    before = rows.copy()
    recoded_weights(Type.IQ1_M, rows)
    assert np.array_equal(rows, before)


@pytest.mark.parametrize("kind", [Type.Q4_K, Type.IQ4_XS, Type.NVFP4, 1032])
def test_types_with_kernels_and_unknown_ones_are_not_rewritten(kind):
    assert recoding(kind) is None
