"""Rows out of tiles: every weight of thousands of random and hostile blocks, against gguf-py."""

import numpy as np
import pytest
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize

from kernels import ops
from kernels.cpu.native.bindings import Library, load_library
from kernels.packed import PackedMatrix
from tests.kernels.packed_blocks import KINDS, SCALES, tiled

pytestmark = pytest.mark.timeout(600)  # the first test to need it compiles the library

NUM_BLOCKS, ROW_BLOCKS = 10_000, 8
TYPES = [kind for kind in KINDS if isinstance(kind, Type)]  # those of GGUF files
HOSTILE = np.array(
    [np.inf, -np.inf, np.nan, 0.0, -0.0, 6e-8, -6e-8, 6e-5, 65504.0, -65504.0], np.float16
)


@pytest.fixture(scope="module")
def library() -> Library:
    found = load_library()
    if found is None:
        pytest.skip("no compiler")
    return found


def random_blocks(kind, num_blocks):
    """All bytes random: of the scales one in sixteen is subnormal, infinite or not a number."""
    num_bytes = GGML_QUANT_SIZES[kind][1]
    return np.random.default_rng(int(kind)).integers(0, 256, (num_blocks, num_bytes), np.uint8)


def hostile_blocks(kind):
    """Random codes under every pair of hostile scales."""
    pairs = [axis.ravel() for axis in np.meshgrid(HOSTILE, HOSTILE)]
    blocks = random_blocks(kind, len(pairs[0]) // ROW_BLOCKS * ROW_BLOCKS)
    dtype, *places = SCALES[kind]
    if dtype is not np.float16:  # any byte is an exponent, and all of them are among random ones
        return blocks
    for place, scales in zip(places, pairs, strict=False):
        bits = scales[: len(blocks)].view(np.uint8).reshape(-1, 2)
        blocks[:, place : place + 2] = bits
    return blocks


def assert_same_bits(ours, theirs):
    """Equal to the last bit and the sign of zeros; one NaN is as good as another."""
    is_nan = np.isnan(theirs)
    assert np.array_equal(np.isnan(ours), is_nan)
    one, other = (np.where(is_nan, np.float32(0), a).view(np.uint32) for a in (ours, theirs))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("is_tiled", [True, False], ids=["tiles", "rows"])
@pytest.mark.parametrize(
    "make", [lambda kind: random_blocks(kind, NUM_BLOCKS), hostile_blocks], ids=["many", "hostile"]
)
@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_every_block_comes_back_bit_for_bit_as_in_gguf_py(kind, make, is_tiled, library):
    rows = make(kind).reshape(-1, ROW_BLOCKS * GGML_QUANT_SIZES[kind][1])
    num_columns = ROW_BLOCKS * GGML_QUANT_SIZES[kind][0]
    matrix = PackedMatrix(int(kind), len(rows), num_columns, torch.from_numpy(rows))
    matrix = tiled(library, matrix) if is_tiled else matrix
    ours = ops.packed_rows(matrix, torch.arange(len(rows))).numpy()
    with np.errstate(all="ignore"):
        theirs = dequantize(rows, kind)
    assert_same_bits(ours, theirs)
    assert np.isfinite(theirs).any()
