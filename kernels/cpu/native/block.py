"""The library's blocks of a decoder layer: their projections as C++ has them. Knows no layer."""

import ctypes

import torch
from torch import Tensor

from kernels.cpu.native.attention import AttentionCall
from kernels.cpu.native.bindings import Library, weights_of
from kernels.packed import Projection


class PreparedProjection(ctypes.Structure):
    """`TrProjection` of block.cpp."""

    _fields_ = (
        ("weights", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        *((name, ctypes.c_long) for name in ("num_weights", "columns", "rows")),
        ("exact", ctypes.c_int),
    )


def can_take(x: Tensor, first: Projection, second: Projection) -> bool:
    """Whether the library can take these: tiles are its own layout, so it is there then."""
    return x.dtype == torch.float32 and first.is_tiled and second.is_tiled


def prepared(projection: Projection) -> PreparedProjection:
    """The C++ form, made once: what it points to lives as long as the projection."""
    known = projection.prepared
    if not isinstance(known, PreparedProjection):
        known = projection.prepared = _prepare(projection)
    return known


def _prepare(projection: Projection) -> PreparedProjection:
    matrices, bias = projection.matrices, projection.bias
    weights = weights_of(matrices)
    result = PreparedProjection(
        ctypes.addressof(weights),
        None if bias is None else bias.data_ptr(),
        len(matrices),
        matrices[0].num_columns,
        sum(matrix.num_rows for matrix in matrices),
        projection.is_exact,
    )
    result.keep = weights  # its memory
    return result


def mlp(
    library: Library, x: Tensor, gate_up: Projection, down: Projection, is_gelu: bool
) -> Tensor:
    """`down(act(gate(x)) * up(x))` of x [T, I] float32."""
    x, first, second = x.contiguous(), prepared(gate_up), prepared(down)
    output = torch.empty(x.shape[0], second.rows)
    library.mlp(first, second, is_gelu, x.data_ptr(), x.shape[0], output.data_ptr())
    return output


def attention_block(
    library: Library, x: Tensor, qkv: Projection, output: Projection, call: AttentionCall
) -> Tensor:
    """The whole of a layer's attention of x [T, I] float32; `call` lacks query and output."""
    x, first, second = x.contiguous(), prepared(qkv), prepared(output)
    result = torch.empty(x.shape[0], second.rows)
    library.attention_block(first, second, call, x.data_ptr(), x.shape[0], result.data_ptr())
    return result
