"""Unpacking of block formats against gguf-py, and of our own against formulas in plain Python."""

import struct

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

from engine.quant.block_format import block_format

OWN = (Type.Q1_0, Type.Q8_1, Type.Q8_K)
BY_GGUF_PY = [t for t, (block, _) in GGML_QUANT_SIZES.items() if block > 1 and t not in OWN]


def random_blocks(kind, count=10_000):
    """Bytes of every sort: among the scales are infinities, subnormals, and what is no number."""
    rng = np.random.default_rng(int(kind))
    return rng.integers(0, 256, (count, block_format(kind).num_bytes), dtype=np.uint8)


@pytest.mark.parametrize("kind", BY_GGUF_PY, ids=lambda t: t.name)
def test_weights_are_gguf_pys_bit_for_bit(kind):
    blocks = random_blocks(kind)
    form = block_format(kind)
    with np.errstate(all="ignore"):
        weights = form.unpack(blocks)
        expected = dequantize(blocks, kind)
    assert weights.shape == (10_000, form.num_weights)
    assert weights.dtype == np.float32
    assert np.array_equal(weights.view(np.uint32), expected.view(np.uint32))
    assert np.isfinite(weights).sum() > 100, "nothing that would show an error"


def by_formula(kind, block):
    """One block's weights, from ggml's description of the type."""
    if kind is Type.Q8_K:
        (scale,) = struct.unpack_from("<f", block)
        return [scale * q for q in struct.unpack_from("<256b", block, 4)]
    (scale,) = struct.unpack_from("<e", block)
    if kind is Type.Q8_1:
        return [scale * q for q in struct.unpack_from("<32b", block, 4)]
    return [scale if block[2 + i // 8] >> (i % 8) & 1 else -scale for i in range(128)]


@pytest.mark.parametrize("kind", OWN, ids=lambda t: t.name)
def test_our_own_formats_follow_ggmls_formulas(kind):
    blocks = random_blocks(kind, 1000)
    with np.errstate(all="ignore"):
        weights = block_format(kind).unpack(blocks)
        expected = np.array([by_formula(kind, block.tobytes()) for block in blocks], np.float32)
    assert weights.dtype == np.float32
    assert np.array_equal(weights, expected, equal_nan=True)
    assert np.isfinite(weights).sum() > 100


def test_every_packed_type_that_gguf_py_knows_has_a_format():
    for kind in (*BY_GGUF_PY, *OWN):
        form = block_format(kind)
        assert form.unpack(np.zeros((3, form.num_bytes), np.uint8)).shape == (3, form.num_weights)
    assert len(BY_GGUF_PY) > 20
