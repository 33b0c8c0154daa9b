"""Attention of one token a sequence over a paged KV cache: the truth for its kernel."""

import torch
from torch import Tensor

from kernels.reference.paged_attention import paged_attention


def decode_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lengths: Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    """`paged_attention` (which has the arguments) of a batch that decodes: a row a sequence.

    query: [S, Hq, D]; row s is the last of the `context_lengths[s]` tokens of sequence s. A length
    of 0 is a row of padding, and gives zeros. Returns [S, Hq, D].
    """
    starts = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device)
    sequences = (block_tables, starts, context_lengths)
    return paged_attention(query, key_cache, value_cache, *sequences, scale, window, softcap)
