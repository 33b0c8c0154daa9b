"""Weights packed into every GGML type, for tiny files. Knows neither models nor files.

gguf-py packs some types. For the others there are blocks of random bits whose scales make weights
of a usual size; ggml-common.h says where a scale lies.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Floats = np.ndarray[Any, np.dtype[np.float32]]
SetScales = Callable[[Bytes, Floats], None]


def pack(weights: Floats, kind: Type, seed: int) -> tuple[Bytes, Floats]:
    """Rows of `weights` as bytes, and the weights that these stand for.

    Of a type in `RANDOM` the blocks depend on the shape and the seed only.
    """
    packed = quantize(weights, kind) if kind not in RANDOM else _blocks(weights.shape, kind, seed)
    return packed, unpack(packed, kind).reshape(weights.shape)


def unpack(packed: Bytes, kind: Type) -> Floats:
    """By gguf-py, or by the layout for types that it cannot unpack."""
    if kind is Type.Q1_0:
        blocks = packed.reshape(-1, 18)
        bits = np.unpackbits(blocks[:, 2:], axis=-1, bitorder="little").astype(np.float32)
        return (2 * bits - 1) * blocks[:, :2].copy().view("<f2").astype(np.float32)
    if kind in _BYTE_LAYOUTS:
        fields = packed.reshape(-1).view(_BYTE_LAYOUTS[kind])
        return fields["d"].astype(np.float32)[:, None] * fields["q"].astype(np.float32)
    return np.asarray(dequantize(packed, kind), dtype=np.float32)


def _blocks(shape: tuple[int, ...], kind: Type, seed: int) -> Bytes:
    num_weights, num_bytes = GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (math.prod(shape) // num_weights, num_bytes), dtype=np.uint8)
    set_scales, size = RANDOM[kind]
    wanted = shape[-1] ** -0.5 / size
    set_scales(blocks, (wanted * rng.uniform(0.5, 1.5, len(blocks))).astype(np.float32))
    return blocks.reshape(*shape[:-1], -1)


def _set(
    blocks: Bytes, scales: Floats, dtype: str = "<f2", offsets: tuple[int, ...] = (0,)
) -> None:
    data = scales.astype(dtype).view(np.uint8).reshape(len(blocks), -1)
    for offset in offsets:
        blocks[:, offset : offset + data.shape[1]] = data


def _set_iq1_m(blocks: Bytes, scales: Floats) -> None:
    """A nibble of the float16 on top of each of the four words at the end."""
    words = blocks[:, 48:].copy().view("<u2")
    bits = scales.astype("<f2").view("<u2")
    for i in range(4):
        words[:, i] = (words[:, i] & 0x0FFF) | ((bits >> 4 * i & 0xF) << 12)
    blocks[:, 48:] = words.view(np.uint8)


def _set_nvfp4(blocks: Bytes, scales: Floats) -> None:
    """A byte for 16 weights each; below 16 it counts in 512ths."""
    blocks[:, :4] = np.clip(scales * 512, 1, 15).astype(np.uint8)[:, None]


_BYTE_LAYOUTS = {
    Type.Q8_1: np.dtype([("d", "<f2"), ("sum", "<f2"), ("q", "i1", 32)]),
    Type.Q8_K: np.dtype([("d", "<f4"), ("q", "i1", 256), ("sums", "<i2", 16)]),
}
# How a block gets its scale, and how large its weights are, by and large, where that is one.
RANDOM: Mapping[Type, tuple[SetScales, float]] = {
    Type.Q1_0: (_set, 1),
    Type.Q8_1: (_set, 74),
    Type.Q8_K: (partial(_set, dtype="<f4"), 74),
    Type.Q2_K: (partial(_set, offsets=(80, 82)), 13),
    Type.Q3_K: (partial(_set, offsets=(108,)), 45),
    Type.Q4_K: (partial(_set, offsets=(0, 2)), 300),
    Type.Q5_K: (partial(_set, offsets=(0, 2)), 600),
    Type.Q6_K: (partial(_set, offsets=(208,)), 1400),
    Type.IQ1_S: (_set, 7),
    Type.IQ1_M: (_set_iq1_m, 7),
    Type.IQ2_XXS: (_set, 52),
    Type.IQ2_XS: (_set, 56),
    Type.IQ2_S: (_set, 58),
    Type.IQ3_XXS: (_set, 140),
    Type.IQ3_S: (_set, 140),
    Type.IQ4_NL: (_set, 68),
    Type.IQ4_XS: (_set, 1200),
    Type.NVFP4: (_set_nvfp4, 3),
}
