"""GGML's types without kernels of their own, rewritten into kinds that have them, without loss.

A weight of the IQ and TQ types is a float16 scale times a small integer scale times one of at most
16 numbers, which is what CODED_16 and CODED_32 hold; the others are bytes or signs under a scale.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize
from numpy.typing import NDArray

from kernels.packed import AFFINE4_128, AFFINE8_128, CODED_16, CODED_32

Bytes = NDArray[np.uint8]

_PART = 512  # blocks at a time: what a core's cache holds


class Recoding(NamedTuple):
    """To rows of `kind`; `blocks` takes uint8 [N, num_bytes] and gives the same columns in it."""

    kind: int
    num_bytes: int
    blocks: Callable[[Bytes], Bytes]

    def rows(self, packed: Bytes, num_threads: int = 1) -> Bytes:
        """Whole rows: uint8 [R, bytes of a row] to [R, bytes of a row of `kind`]."""
        blocks = packed.reshape(-1, self.num_bytes)
        parts = [blocks[start : start + _PART] for start in range(0, len(blocks), _PART)]
        with ThreadPoolExecutor(num_threads) as threads:
            return np.concatenate(list(threads.map(self.blocks, parts))).reshape(len(packed), -1)


def recoding(kind: int) -> Recoding | None:
    """How to rewrite a type, None if that is not needed or not known."""
    return _RECODINGS.get(kind)


class _Coded(NamedTuple):
    """A type of blocks of 256. A weight is d / divisor * scale * one of `numbers`.

    `scales` finds the integers [N, 16] or [N, 8] of blocks. `d` finds the blocks' float16 scales
    and writes ones in their place.
    """

    type: Type
    kind: int
    numbers: tuple[int, ...]
    divisor: int
    scales: Callable[[Bytes], Bytes]
    take_d: Callable[[Bytes], NDArray[np.float16]]

    def recode(self, blocks: Bytes) -> Bytes:
        blocks = blocks.copy()
        scales = self.scales(blocks)
        with np.errstate(invalid="ignore"):  # a damaged one stays what it is
            d = self.take_d(blocks).astype(np.float32) / np.float32(self.divisor)
        weights = dequantize(blocks.reshape(1, -1), self.type).reshape(*scales.shape, -1)
        # Exact: the weights are whole multiples of scale / divisor.
        numbers = weights * np.float32(self.divisor) / scales[..., None]
        codes = self._codes()[numbers.astype(np.int8).view(np.uint8)].reshape(len(blocks), 8, 2, 16)
        table = np.zeros(16, np.int8)
        table[: len(self.numbers)] = self.numbers
        parts = [
            np.broadcast_to(table.view(np.uint8), (len(blocks), 16)),
            d.view(np.uint8).reshape(-1, 4),
            scales,
            (codes[:, :, 0] | codes[:, :, 1] << 4).reshape(len(blocks), -1),
        ]
        return np.concatenate(parts, axis=1)

    def _codes(self) -> Bytes:
        """By a number's byte."""
        codes = np.zeros(256, np.uint8)
        codes[np.array(self.numbers, np.int8).view(np.uint8)] = np.arange(len(self.numbers))
        return codes


def _d_at(offset: int, blocks: Bytes) -> NDArray[np.float16]:
    d = blocks[:, offset : offset + 2].copy().view(np.float16)
    blocks[:, offset : offset + 2] = np.array([1], np.float16).view(np.uint8)
    return d


def _d_in_quarters(blocks: Bytes) -> NDArray[np.float16]:
    """IQ1_M has a float16's four bits apiece on top of four numbers, the lowest first."""
    places = blocks[:, 49::2]
    quarters = (places >> 4).astype(np.uint16) << np.arange(0, 16, 4, dtype=np.uint16)
    places &= 15
    places[:, 2] |= 0xC0
    places[:, 3] |= 0x30
    d: NDArray[np.uint16] = np.bitwise_or.reduce(quarters, axis=1)
    return d.view(np.float16)[:, None]


def _odd(numbers: NDArray[Any]) -> Bytes:
    return (2 * numbers + 1).astype(np.uint8)


def _nibbles(start: int, blocks: Bytes) -> Bytes:
    packed = blocks[:, start:]
    return _odd(np.stack([packed & 15, packed >> 4], axis=2).reshape(len(blocks), -1))


def _top_of_words(start: int, step: int, blocks: Bytes) -> Bytes:
    words = np.ascontiguousarray(blocks[:, start:]).view(np.uint32)
    return _odd(words[:, step - 1 :: step] >> np.uint32(28))


def _iq1_s_scales(blocks: Bytes) -> Bytes:
    return _odd(np.ascontiguousarray(blocks[:, 34:]).view(np.uint16) >> 12 & 7)


def _iq1_m_scales(blocks: Bytes) -> Bytes:
    words = np.ascontiguousarray(blocks[:, 48:]).view(np.uint16)[..., None]
    return _odd(words >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(len(blocks), -1)


def _ones(blocks: Bytes) -> Bytes:
    return np.ones((len(blocks), 8), np.uint8)


def _signed(*sizes: int) -> tuple[int, ...]:
    return (*sizes, *(-size for size in sizes))


_IQ1 = (-9, -7, -1, 1, 7, 9)  # eight times -1, 0 or 1, and an eighth more or less
_IQ2 = _signed(8, 25, 43)
_IQ3_XXS = _signed(4, 12, 20, 28, 36, 44, 52, 62)
_IQ3_S = _signed(*range(1, 16, 2))
_TQ = (-1, 0, 1, 2)

_CODED = (
    _Coded(Type.IQ1_S, CODED_32, _IQ1, 8, _iq1_s_scales, partial(_d_at, 0)),
    _Coded(Type.IQ1_M, CODED_16, _IQ1, 8, _iq1_m_scales, _d_in_quarters),
    _Coded(Type.IQ2_XXS, CODED_32, _IQ2, 8, partial(_top_of_words, 2, 2), partial(_d_at, 0)),
    _Coded(Type.IQ2_XS, CODED_16, _IQ2, 8, partial(_nibbles, 66), partial(_d_at, 0)),
    _Coded(Type.IQ2_S, CODED_16, _IQ2, 8, partial(_nibbles, 74), partial(_d_at, 0)),
    _Coded(Type.IQ3_XXS, CODED_32, _IQ3_XXS, 4, partial(_top_of_words, 66, 1), partial(_d_at, 0)),
    _Coded(Type.IQ3_S, CODED_32, _IQ3_S, 1, partial(_nibbles, 106), partial(_d_at, 0)),
    _Coded(Type.TQ1_0, CODED_32, _TQ, 1, _ones, partial(_d_at, 52)),
    _Coded(Type.TQ2_0, CODED_32, _TQ, 1, _ones, partial(_d_at, 64)),
)


def _q8_1(blocks: Bytes) -> Bytes:
    """To Q8_0: the sum of the codes goes."""
    return np.concatenate([blocks[:, :2], blocks[:, 4:]], axis=1)


def _q8_k(blocks: Bytes) -> Bytes:
    """The sums go, and the zero is in the middle of the bytes."""
    codes = (blocks[:, 4:260] ^ 128).reshape(-1, 128)
    zeros = _number(128, len(codes))
    return np.concatenate([blocks[:, :4].repeat(2, axis=0), zeros, codes], axis=1)


def _q1_0(blocks: Bytes) -> Bytes:
    """Codes 2 and 0 about a zero of 1."""
    codes = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little") << 1
    scales = blocks[:, :2].copy().view(np.float16).astype(np.float32).view(np.uint8)
    nibbles = codes[:, :64] | codes[:, 64:] << 4
    return np.concatenate([scales, _number(1, len(blocks)), nibbles], axis=1)


def _number(value: float, times: int) -> Bytes:
    return np.broadcast_to(np.array([value], np.float32).view(np.uint8), (times, 4))


_RECODINGS: dict[int, Recoding] = {
    **{
        coded.type: Recoding(coded.kind, GGML_QUANT_SIZES[coded.type][1], coded.recode)
        for coded in _CODED
    },
    Type.Q8_1: Recoding(Type.Q8_0, 36, _q8_1),
    Type.Q8_K: Recoding(AFFINE8_128, 292, _q8_k),
    Type.Q1_0: Recoding(AFFINE4_128, 18, _q1_0),
}
