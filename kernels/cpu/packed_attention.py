"""A layer's attention with packed weights on a CPU: one call of the library."""

from torch import Tensor

from kernels.cpu.native.attention import add_preparation, attention_call, can_attend
from kernels.cpu.native.bindings import load_library
from kernels.cpu.native.block import attention_block, can_take
from kernels.packed import Projection


def is_native(
    x: Tensor, qkv: Projection, output: Projection, caches: tuple[Tensor, Tensor]
) -> bool:
    """Whether `packed_attention` can be asked."""
    num_heads = output.matrices[0].num_columns // caches[0].shape[3]
    return can_take(x, qkv, output) and can_attend(x, caches, num_heads)


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
    """As kernels/reference/packed_attention.py; a row's bits do not depend on its neighbours'."""
    library = load_library()
    assert library is not None
    num_heads = output.matrices[0].num_columns // key_cache.shape[3]
    sequences = (block_tables, query_starts, context_lengths)
    caches = (key_cache, value_cache)
    call = attention_call(None, num_heads, caches, sequences, scale, window, softcap)
    add_preparation(call, slots, norms, eps, rotation)
    return attention_block(library, x, qkv, output, call)
