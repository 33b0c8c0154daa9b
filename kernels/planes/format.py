"""How a matrix stays packed on a GPU, kind by kind: planes of codes, and scales beside them.

A block is 256 columns of a row, eight planes of 32. Codes below 8 bits are fields of uint16 words:
word j of a set of planes has element j of each, so that 32 neighbouring words are read at once and
a field of all of them is 32 neighbouring columns. Fifth and sixth bits are two bits of another such
word; a fifth (or third) alone is a bit of half a word, its other half for element j + 16. Rows are
padded to whole blocks. No Triton here: plain data.

Scales lie as [blocks, rows, groups of a block], so that those of a block of a row are neighbours.
A weight is `scale * (value - bias) - shift`, or `scale * (value - zero)` of the AFFINE kinds.
"""

from typing import NamedTuple

import torch
from gguf.constants import GGMLQuantizationType as Type
from torch import Tensor

from kernels.own_kinds import AFFINE4, AFFINE8, FP8, GROUPS
from kernels.packed import CODED_16, CODED_32, Planes

BLOCK = 256
# Bits of a code in `low` and in `high`.
LOW_BITS = {"bits2": 2, "bits3": 2, "bits4": 4, "bits5": 4, "bits6": 4, "table": 4}
HIGH_BITS = {"bits3": 1, "bits5": 1, "bits6": 2}
# What a shift is made of, besides what the scale is made of.
WITH_SHIFT = ("half_pairs", "byte_pairs", "nibble_pairs", "float_pairs")


class Format(NamedTuple):
    """One kind's planes.

    `codes`: "bits2" to "bits6", unsigned; "int8"; "e4m3"; "table", four bits that choose one of 16
    numbers. `group` is the columns that share a scale. `scales` says how it is
    stored, `supers` being a factor of all groups of a block:

    - "halves": float16; "half_pairs": float16 scale and, above it in a word, minus the shift
    - "exponents": a byte, the scale is 2 ** (byte - 128)
    - "bytes": int8, times `supers`
    - "byte_pairs": unsigned bytes, the upper one for the shift, times the two halves of `supers`
    - "nibble_pairs": the same of four bits each
    - "floats": float32; "float_pairs": float32, and a float32 zero in `supers`
    """

    codes: str
    group: int
    scales: str
    bias: int = 0

    @property
    def has_shift(self) -> bool:
        """Whether a weight is more than a scale times a number."""
        return self.scales in WITH_SHIFT


FORMATS: dict[int, Format] = {
    Type.Q4_0: Format("bits4", 32, "halves", bias=8),
    Type.Q4_1: Format("bits4", 32, "half_pairs"),
    Type.Q5_0: Format("bits5", 32, "halves", bias=16),
    Type.Q5_1: Format("bits5", 32, "half_pairs"),
    Type.Q8_0: Format("int8", 32, "halves"),
    Type.Q2_K: Format("bits2", 16, "nibble_pairs"),
    Type.Q3_K: Format("bits3", 16, "bytes", bias=4),
    Type.Q4_K: Format("bits4", 32, "byte_pairs"),
    Type.Q5_K: Format("bits5", 32, "byte_pairs"),
    Type.Q6_K: Format("bits6", 16, "bytes", bias=32),
    Type.IQ4_NL: Format("table", 32, "halves"),
    Type.IQ4_XS: Format("table", 32, "bytes"),
    Type.MXFP4: Format("table", 32, "exponents"),
    CODED_16: Format("table", 16, "bytes"),
    CODED_32: Format("table", 32, "bytes"),
    **{AFFINE4 + group: Format("bits4", group, "float_pairs") for group in GROUPS},
    **{AFFINE8 + group: Format("int8", group, "float_pairs", bias=-128) for group in GROUPS},
    **{FP8 + group: Format("e4m3", group, "floats") for group in GROUPS},
}
SCALE_TYPES = {
    "halves": torch.float16,
    "half_pairs": torch.int32,
    "exponents": torch.uint8,
    "bytes": torch.int8,
    "byte_pairs": torch.int16,
    "nibble_pairs": torch.uint8,
    "floats": torch.float32,
    "float_pairs": torch.float32,
}


def format_of(kind: int) -> Format | None:
    """The planes of a kind of kernels/packed.py, None if a GPU has no kernels for it."""
    return FORMATS.get(kind)


def num_blocks(num_columns: int) -> int:
    """Blocks of a row."""
    return -(-num_columns // BLOCK)


def empty_planes(kind: int, num_rows: int, num_columns: int, device: torch.device) -> Planes:
    """Room for a matrix, all of it zero."""
    format, blocks = FORMATS[kind], num_blocks(num_columns)

    def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
        if dtype == torch.uint16:  # torch makes and copies few unsigned types on every device
            return torch.zeros(shape, dtype=torch.int16, device=device).view(dtype)
        return torch.zeros(shape, dtype=dtype, device=device)

    nothing = zeros(0, dtype=torch.uint8)
    if (bits := LOW_BITS.get(format.codes)) is not None:
        low = zeros(num_rows, blocks * BLOCK * bits // 16, dtype=torch.uint16)
    else:
        is_signed = format.codes == "int8"
        low = zeros(num_rows, blocks * BLOCK, dtype=torch.int8 if is_signed else torch.uint8)
    high = nothing
    if (bits := HIGH_BITS.get(format.codes)) is not None:
        high = zeros(num_rows, blocks * bits * 16, dtype=torch.uint16)
    groups = (blocks, num_rows, BLOCK // format.group)
    supers = nothing
    if format.scales in ("bytes", "byte_pairs", "nibble_pairs", "float_pairs"):
        types = {
            "byte_pairs": torch.int32,
            "nibble_pairs": torch.int32,
            "float_pairs": torch.float32,
        }
        is_coded = kind in (CODED_16, CODED_32)
        dtype = types.get(format.scales, torch.float32 if is_coded else torch.float16)
        supers = zeros(*(groups if format.scales == "float_pairs" else groups[:2]), dtype=dtype)
    table = zeros(16, dtype=torch.int8) if format.codes == "table" else nothing
    scales = zeros(*groups, dtype=SCALE_TYPES[format.scales])
    return Planes(low, high, scales, supers, table)


def planes_bytes(planes: Planes) -> int:
    """What they take in memory."""
    return sum(part.nbytes for part in planes)
