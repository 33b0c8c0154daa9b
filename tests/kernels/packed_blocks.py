"""Random packed matrices of every type that the CPU kernels know, and damaged ones."""

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES

from kernels.cpu.native.bindings import Library
from kernels.packed import PackedMatrix

# Where the float16 scales lie in a block whose other bytes may be anything.
SCALE_OFFSETS = {
    Type.Q4_0: (0,),
    Type.Q4_1: (0, 2),
    Type.Q5_0: (0,),
    Type.Q5_1: (0, 2),
    Type.Q8_0: (0,),
    Type.Q2_K: (80, 82),
    Type.Q3_K: (108,),
    Type.Q4_K: (0, 2),
    Type.Q5_K: (0, 2),
    Type.Q6_K: (208,),
}
TYPES = tuple(SCALE_OFFSETS)


def random_matrix(kind: Type, num_rows: int, num_columns: int, seed: int = 0) -> PackedMatrix:
    """In rows of blocks, as a file has them."""
    block, block_bytes = GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    num_blocks = num_rows * num_columns // block
    blocks = rng.integers(0, 256, (num_blocks, block_bytes), dtype=np.uint8)
    for offset in SCALE_OFFSETS[kind]:
        scales = rng.uniform(1e-3, 1e-2, num_blocks).astype(np.float16)
        blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(-1, 2)
    return PackedMatrix(
        int(kind), num_rows, num_columns, torch.from_numpy(blocks.reshape(num_rows, -1))
    )


def with_scale(matrix: PackedMatrix, row: int, scale: float) -> PackedMatrix:
    """The first scale of a row's first block replaced."""
    blocks = matrix.data.clone()
    offset = SCALE_OFFSETS[Type(matrix.kind)][0]
    value = np.array([scale], dtype=np.float16).view(np.uint8)
    blocks[row, offset : offset + 2] = torch.from_numpy(value)
    return matrix._replace(data=blocks)


def tiled(library: Library, matrix: PackedMatrix) -> PackedMatrix:
    """The same in tiles."""
    tiles = library.empty(matrix.kind, matrix.num_rows, matrix.num_columns)
    library.repack(tiles, 0, matrix.data)
    return tiles
