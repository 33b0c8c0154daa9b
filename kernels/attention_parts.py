"""What the attention kernels share: tiles of the cache, scores, and the running softmax."""

import triton
import triton.language as tl

from kernels.e4m3 import e4m3_to_float32

_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def load_tile(place, inside, dtype: tl.constexpr, IS_MASKED: tl.constexpr, IS_NATIVE: tl.constexpr):
    """Keys or values at pointers `place` in `dtype`; zeros outside if `IS_MASKED`."""
    tile = tl.load(place, mask=inside, other=0) if IS_MASKED else tl.load(place)
    if place.dtype.element_ty == tl.uint8:
        tile = e4m3_to_float32(tile, IS_NATIVE)
    return tile.to(dtype)


@triton.jit
def log2_scores(scores, scale, SOFTCAP: tl.constexpr):
    """Scaled and softly capped scores, times log2(e), which makes exp2 of exp."""
    if SOFTCAP > 0:
        # tanh through exp2; past 2^64 it is 1 in float32, so the bound only keeps exp2 finite.
        power = tl.exp2(tl.minimum(scores * (scale * (2 * _LOG2_E / SOFTCAP)), 64.0))
        return (SOFTCAP * _LOG2_E) * (1.0 - 2.0 / (power + 1.0))
    else:
        return scores * (scale * _LOG2_E)


@triton.jit
def fold(highest, total, sums, scores, values):
    """Take a tile's scores [R, K] and values [K, D] into the softmax so far."""
    new_highest = tl.maximum(highest, tl.max(scores, axis=1))
    # A row that has seen no key yet stays at -inf; 0 in its place keeps exp2 free of NaN.
    pivot = tl.where(new_highest == -float("inf"), 0.0, new_highest)
    weights = tl.exp2(scores - pivot[:, None])
    shrink = tl.exp2(highest - pivot)
    total = total * shrink + tl.sum(weights, axis=1)
    sums = sums * shrink[:, None]
    sums += tl.dot(weights.to(values.dtype), values, input_precision="ieee")
    return new_highest, total, sums
