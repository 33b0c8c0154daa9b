"""Launches of the kernels for packed weights that the compile gate wants, format by format."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from gguf import GGMLQuantizationType as Type

from kernels.packed import PackedMatrix
from kernels.packed_grouped_linear import packed_grouped_linear
from kernels.packed_linear import packed_linear
from kernels.packed_rows import packed_rows, unpack_rows
from kernels.planes.format import FORMATS, empty_planes
from kernels.planes.hqq import FORMATS as HQQ_FORMATS, empty_hqq_planes
from kernels.planes.tiles import MAX_FEW
from tests.kernels.packed_blocks import name_of

# In nearly every GGUF file; the others are compiled by night.
COMMON = (Type.Q8_0, Type.Q4_K, Type.Q6_K, Type.Q4_0)
_ROWS, _COLUMNS, _EXPERTS = 4096, 512, 8


def packed_launches(
    dtype: torch.dtype, *, has_all: bool
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """By number of inputs, each tile that the tables have."""
    for kind in FORMATS if has_all else COMMON:
        planes = empty_planes(kind, _ROWS, _COLUMNS, torch.device("cpu"))
        nothing = torch.empty(0, dtype=torch.uint8)
        matrix = PackedMatrix(int(kind), _ROWS, _COLUMNS, nothing, planes=planes)
        yield from _products(name_of(kind), matrix, dtype)
        yield from _grouped(name_of(kind), matrix, dtype)
    for kind in HQQ_FORMATS if has_all else ():
        planes = empty_hqq_planes(kind, _ROWS, _COLUMNS, torch.device("cpu"))
        nothing = torch.empty(0, dtype=torch.uint8)
        matrix = PackedMatrix(kind, _ROWS, _COLUMNS, nothing, planes=planes)
        yield from _products(name_of(kind), matrix, dtype)


def _products(
    name: str, matrix: PackedMatrix, dtype: torch.dtype
) -> Iterator[tuple[str, Callable[[], Any]]]:
    for num_inputs in (1, 8, MAX_FEW, 64):
        x = torch.empty(num_inputs, _COLUMNS, dtype=dtype)
        yield f"{name} {num_inputs}", partial(packed_linear, x, [matrix])
    yield f"{name}", partial(packed_rows, matrix, torch.zeros(8, dtype=torch.int64))
    unpacked = torch.empty(64, _COLUMNS, dtype=dtype)
    yield f"{name} to {dtype}", partial(unpack_rows, matrix, 0, unpacked)


def _grouped(
    name: str, matrix: PackedMatrix, dtype: torch.dtype
) -> Iterator[tuple[str, Callable[[], Any]]]:
    starts = torch.zeros(_EXPERTS + 1, dtype=torch.int32)
    for num_inputs in (_EXPERTS, 64 * _EXPERTS):
        x = torch.empty(num_inputs, _COLUMNS, dtype=dtype)
        label = f"{name} {_EXPERTS} experts of {num_inputs}"
        yield label, partial(packed_grouped_linear, x, matrix, starts)
