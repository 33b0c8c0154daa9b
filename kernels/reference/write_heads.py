"""Heads of a fused projection made ready for attention: the truth for kernels/write_heads.py."""

from torch import Tensor

from kernels.reference.rms_norm import rms_norm
from kernels.reference.rotary import rotary
from kernels.reference.write_kv import write_kv


def write_heads(
    qkv: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    rotation: tuple[Tensor, Tensor] | None,
    key_cache: Tensor,
    value_cache: Tensor,
    slots: Tensor,
) -> Tensor:
    """Normalise and turn queries and keys, store keys and values; returns the queries.

    qkv: [T, (Hq + 2 Hkv) * D]; norms: weights [D] of the queries' and the keys' RMSNorm, if the
    model has them; rotation: cosines and sines [T, R/2]; None: queries and keys are not turned.
    What happens is in rms_norm.py, rotary.py and write_kv.py, one after the other, each rounded to
    the type of qkv. Returns [T, Hq, D].
    """
    _, _, num_kv_heads, head_dim = key_cache.shape
    heads: Tensor = qkv.unflatten(1, (-1, head_dim))
    num_heads = heads.shape[1] - 2 * num_kv_heads
    query: Tensor
    query, key, value = heads.split((num_heads, num_kv_heads, num_kv_heads), dim=1)
    if norms is not None:
        query, key = rms_norm(query, norms[0], eps), rms_norm(key, norms[1], eps)
    if rotation is not None:
        query, key = rotary(query, key, *rotation)
    write_kv(key, value, key_cache, value_cache, slots)
    return query
