"""A layer's attention with packed weights: the truth for kernels/cpu/packed_attention.py."""

from torch import Tensor

from kernels.packed import Projection
from kernels.reference.cached_attention import cached_attention
from kernels.reference.packed_linear import project


def packed_attention(
    x: Tensor,
    qkv: Projection,
    output: Projection,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    rotation: tuple[Tensor, Tensor] | None,
    key_cache: Tensor,
    value_cache: Tensor,
    slots: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lengths: Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    """`cached_attention` (which has the arguments) of qkv(x), through `output`.

    x: [T, I]; qkv gives [T, (Hq + 2 Hkv) * D], output takes [T, Hq * D]. Returns [T, O].
    """
    heads = (norms, eps, rotation, key_cache, value_cache, slots)
    sequences = (block_tables, query_starts, context_lengths)
    attended = cached_attention(project(x, qkv), *heads, *sequences, scale, window, softcap)
    return project(attended, output)
