"""The library's layers of a decoder: what they compute with as C++ has it. Knows no model."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.cpu.native import block
from kernels.cpu.native.attention import attention_call, can_attend
from kernels.cpu.native.bindings import Library
from kernels.packed import PackedLayer, PackedStack, Projection

_Pair = tuple[Tensor, Tensor]


class _Layer(ctypes.Structure):
    """`TrLayer` of layers.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("qkv", "output", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("input_norm", "post_norm")),
        *((name, ctypes.c_void_p) for name in ("query_norm", "key_norm", "keys", "values")),
        *((name, ctypes.c_long) for name in ("rotation", "window")),
        *((name, ctypes.c_float) for name in ("eps", "scale", "softcap")),
        ("is_gelu", ctypes.c_int),
    )


class _Rotation(ctypes.Structure):
    """`TrRotation` of layers.cpp."""

    _fields_ = (("cos", ctypes.c_void_p), ("sin", ctypes.c_void_p), ("half", ctypes.c_long))


class _Prepared:
    """A stack with the caches that it writes to; without `layers` it is not for the library."""

    def __init__(self, stack: PackedStack, caches: Sequence[_Pair]) -> None:
        self.caches = caches  # kept: another sequence cannot come to lie where this one is
        self.num_heads = stack.layers[0].output.matrices[0].num_columns // caches[0][0].shape[3]
        pairs = list(zip(stack.layers, caches, strict=True))
        self.layers: ctypes.Array[_Layer] | None = None
        if all(_can_take(layer, cache, self.num_heads) for layer, cache in pairs):
            self.layers = (_Layer * len(pairs))(*(_prepare(*pair) for pair in pairs))


def can_take(x: Tensor, stack: PackedStack, caches: Sequence[_Pair]) -> bool:
    """Whether the library can take these: tiles are its own layout, so it is there then."""
    return x.dtype == torch.float32 and _prepared(stack, caches).layers is not None


def _prepared(stack: PackedStack, caches: Sequence[_Pair]) -> _Prepared:
    known = stack.prepared
    if not isinstance(known, _Prepared) or known.caches is not caches:
        known = stack.prepared = _Prepared(stack, caches)
    return known


def _can_take(layer: PackedLayer, cache: _Pair, num_heads: int) -> bool:
    norm, size = layer.input_norm, cache[0].shape[3]
    return (
        all(block.can_take(norm, *pair) for pair in _blocks(layer))
        and all(weight.dtype == torch.float32 for weight in (layer.post_norm, *_head_norms(layer)))
        and can_attend(norm, cache, num_heads)
        and layer.output.matrices[0].num_columns == num_heads * size
    )


def _blocks(layer: PackedLayer) -> tuple[tuple[Projection, Projection], ...]:
    return (layer.qkv, layer.output), (layer.gate_up, layer.down)


def _head_norms(layer: PackedLayer) -> tuple[Tensor, ...]:
    return layer.head_norms or ()


def _prepare(layer: PackedLayer, cache: _Pair) -> _Layer:
    parts = (layer.qkv, layer.output, layer.gate_up, layer.down)
    head_norms: list[int | None] = [None, None]
    if layer.head_norms is not None:
        head_norms = [weight.data_ptr() for weight in layer.head_norms]
    return _Layer(
        *(ctypes.addressof(block.prepared(part)) for part in parts),
        *(layer.input_norm.data_ptr(), layer.post_norm.data_ptr()),
        *head_norms,
        *(cache[0].data_ptr(), cache[1].data_ptr()),
        *(-1 if layer.rotation is None else layer.rotation, layer.window),
        *(layer.eps, layer.scale, layer.softcap),
        layer.is_gelu,
    )


def run_layers(
    library: Library,
    x: Tensor,
    stack: PackedStack,
    rotations: Sequence[_Pair],
    caches: Sequence[_Pair],
    slots: Tensor,
    sequences: tuple[Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """What the last layer adds to x [T, I] float32, and the sum before it.

    sequences: block tables, query starts and context lengths, as `attention_call` has them.
    """
    known = _prepared(stack, caches)
    assert known.layers is not None, "can_take said so"
    added, total = x.clone(memory_format=torch.contiguous_format), torch.empty(x.shape)
    call = attention_call(None, known.num_heads, caches[0], sequences, 0.0, 0, 0.0)
    call.slots = slots.data_ptr()
    turns = (_Rotation * len(rotations))(
        *(_Rotation(cos.data_ptr(), sin.data_ptr(), cos.shape[1]) for cos, sin in rotations)
    )
    library.layers(known.layers, turns, call, x.shape, (added.data_ptr(), total.data_ptr()))
    return added, total
