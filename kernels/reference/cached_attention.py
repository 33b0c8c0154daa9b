"""From projections to attended heads: the truth for kernels/cpu/cached_attention.py."""

from torch import Tensor

from kernels.reference.paged_attention import paged_attention
from kernels.reference.write_heads import write_heads


def cached_attention(
    qkv: Tensor,
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
    """Normalise and turn queries and keys, store keys and values, attend.

    qkv: [T, (Hq + 2 Hkv) * D], which may be overwritten; norms: weights [D] of the queries' and
    the keys' RMSNorm, if the model has them; rotation: cosines and sines [T, R/2]; None: queries
    and keys are not turned. The rest, and what happens inside, as in write_heads.py
    and paged_attention.py; where T is S, each sequence has one row. Returns [T, Hq * D].
    """
    query = write_heads(qkv, norms, eps, rotation, key_cache, value_cache, slots)
    sequences = (block_tables, query_starts, context_lengths)
    attended = paged_attention(query, key_cache, value_cache, *sequences, scale, window, softcap)
    return attended.flatten(1)
