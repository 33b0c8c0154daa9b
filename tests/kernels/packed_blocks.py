"""Random packed matrices of every kind that the CPU kernels know, and damaged ones."""

from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

from kernels import packed
from kernels.cpu.native.bindings import Library
from kernels.own_kinds import row_kind
from kernels.packed import PackedMatrix

# Where the scales lie in a block whose other bytes may be anything, and of what type they are.
SCALES: dict[int, tuple[Any, ...]] = {
    Type.Q4_0: (np.float16, 0),
    Type.Q4_1: (np.float16, 0, 2),
    Type.Q5_0: (np.float16, 0),
    Type.Q5_1: (np.float16, 0, 2),
    Type.Q8_0: (np.float16, 0),
    Type.Q2_K: (np.float16, 80, 82),
    Type.Q3_K: (np.float16, 108),
    Type.Q4_K: (np.float16, 0, 2),
    Type.Q5_K: (np.float16, 0, 2),
    Type.Q6_K: (np.float16, 208),
    Type.IQ4_NL: (np.float16, 0),
    Type.IQ4_XS: (np.float16, 0),
    Type.MXFP4: (np.uint8, 0),
    **dict.fromkeys((1032, 1064, 1128, 2032, 2064, 2128), (np.float32, 0, 4)),
    **dict.fromkeys((3032, 3064, 3128), (np.float32, 0)),
    **dict.fromkeys((5016, 5032), (np.float32, 16)),
}
KINDS = tuple(SCALES)
E4M3 = (3032, 3064, 3128)


def name_of(kind: int) -> str:
    """GGML's or, of ours, the constant's."""
    if isinstance(kind, Type):
        return kind.name
    return next(name for name, value in vars(packed).items() if value == kind)


def sizes_of(kind: int) -> tuple[int, int]:
    """Columns and bytes of a block."""
    if (own := row_kind(kind)) is not None:
        return own.num_weights, own.num_bytes
    return GGML_QUANT_SIZES[Type(kind)]


def random_matrix(kind: int, num_rows: int, num_columns: int, seed: int = 0) -> PackedMatrix:
    """In rows of blocks, as a file has them."""
    block, block_bytes = sizes_of(kind)
    rng = np.random.default_rng(seed)
    num_blocks = num_rows * num_columns // block
    blocks = rng.integers(0, 256, (num_blocks, block_bytes), dtype=np.uint8)
    dtype, *offsets = SCALES[kind]
    for place, offset in enumerate(offsets):
        scales: Any = rng.uniform(1e-3, 1e-2, num_blocks)
        if place and kind >= 1000:  # a zero, among the codes
            scales = rng.uniform(4, 12, num_blocks) * (16 if kind >= 2000 else 1)
        if dtype == np.uint8:
            scales = rng.integers(118, 124, num_blocks)
        put(blocks, offset, scales.astype(dtype))
    if kind in E4M3:
        blocks[:, 4:][blocks[:, 4:] & 127 == 127] = 0  # not a number
    if kind in (5016, 5032):
        blocks[:, :16] = np.linspace(-127, 120, 16).astype(np.int8).view(np.uint8)
    return PackedMatrix(
        int(kind), num_rows, num_columns, torch.from_numpy(blocks.reshape(num_rows, -1))
    )


def put(blocks, offset, numbers):
    """Numbers, one a block, into the bytes there."""
    size = numbers.dtype.itemsize
    blocks[..., offset : offset + size] = numbers.view(np.uint8).reshape(*blocks.shape[:-1], size)


def with_scale(matrix: PackedMatrix, row: int, scale: float) -> PackedMatrix:
    """The first scale of a row's first block replaced."""
    blocks = matrix.data.clone()
    dtype, offset, *_ = SCALES[matrix.kind]
    put(blocks[row].numpy(), offset, np.array(scale, dtype=dtype).reshape(1))
    return matrix._replace(data=blocks)


def unpacked(matrix: PackedMatrix) -> torch.Tensor:
    """What the weights are: by gguf-py for its types."""
    if (own := row_kind(matrix.kind)) is not None:
        return own.rows(matrix.data)
    with np.errstate(all="ignore"):
        return torch.from_numpy(dequantize(matrix.data.numpy(), Type(matrix.kind)))


def tiled(library: Library, matrix: PackedMatrix) -> PackedMatrix:
    """The same in tiles."""
    tiles = library.empty(matrix.kind, matrix.num_rows, matrix.num_columns)
    library.repack(tiles, 0, matrix.data)
    return tiles
