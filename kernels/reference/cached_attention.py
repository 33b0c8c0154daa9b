"""From projections to attended heads: the truth for kernels/cpu/cached_attention.py."""

from torch import Tensor

from kernels.reference.paged_attention import paged_attention
from kernels.reference.rms_norm import rms_norm
from kernels.reference.rotary import rotary
from kernels.reference.write_kv import write_kv


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
    and keys are not turned. The rest, and what happens inside, as in rms_norm.py, rotary.py,
    write_kv.py and paged_attention.py. Returns [T, Hq * D].
    """
    _, _, num_kv_heads, head_dim = key_cache.shape
    heads = qkv.unflatten(1, (-1, head_dim))
    num_heads = heads.shape[1] - 2 * num_kv_heads
    query, key, value = heads.split((num_heads, num_kv_heads, num_kv_heads), dim=1)
    if norms is not None:
        query, key = rms_norm(query, norms[0], eps), rms_norm(key, norms[1], eps)
    if rotation is not None:
        query, key = rotary(query, key, *rotation)
    write_kv(key, value, key_cache, value_cache, slots)
    sequences = (block_tables, query_starts, context_lengths)
    attended = paged_attention(query, key_cache, value_cache, *sequences, scale, window, softcap)
    return attended.flatten(1)
