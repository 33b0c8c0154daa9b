"""Batches over a paged cache, and their attention in float64, for the tests of its kernels.

Caches are filled with NaN wherever no token lives, and table entries that nobody may read point
nowhere.
"""

from typing import Any, NamedTuple

import torch

NOWHERE = 1 << 30


class Case(NamedTuple):
    """A batch: its sequences as (query rows, context length), and the model's shape."""

    sequences: list[tuple[int, int]]
    heads: tuple[int, int, int]  # query heads, KV heads, head dimension
    block_size: int = 16
    window: int = 0
    softcap: float = 0.0


class Inputs(NamedTuple):
    """The arguments of paged_attention, and the plain keys and values [L, Hkv, D] behind them."""

    arguments: tuple[Any, ...]
    query: torch.Tensor
    keys: list[torch.Tensor]
    values: list[torch.Tensor]


def build(case, dtype, generator, scale=None, cache_dtype=None):
    """A batch of queries of `dtype`; the cache is of another type if that is given."""
    num_heads, num_kv_heads, dim = case.heads
    size = case.block_size
    rows, lengths = zip(*case.sequences, strict=True)
    num_blocks = [-(-length // size) for length in lengths]
    order = torch.randperm(sum(num_blocks) + 2, generator=generator).int()
    tables = torch.full((len(lengths), max(num_blocks) + 2), NOWHERE, dtype=torch.int32)
    caches = torch.full((2, len(order), size, num_kv_heads, dim), torch.nan).to(
        cache_dtype or dtype
    )
    states = [
        torch.randn(2, length, num_kv_heads, dim, generator=generator).to(cache_dtype or dtype)
        for length in lengths
    ]
    for sequence, (state, count) in enumerate(zip(states, num_blocks, strict=True)):
        blocks, order = order[:count], order[count:]
        tables[sequence, :count] = blocks
        for token in range(state.shape[1]):
            caches[:, blocks[token // size], token % size] = state[:, token]
    # A view of a fused projection, as the engine has it.
    query = torch.randn(sum(rows), num_heads + 3, dim, generator=generator).to(dtype)
    query = query[:, :num_heads]
    starts = torch.tensor([0, *rows]).cumsum(0).int()
    arguments = (
        *(query, caches[0], caches[1], tables, starts, torch.tensor(lengths).int()),
        *(scale or dim**-0.5, case.window, case.softcap),
    )
    return Inputs(arguments, query, [s[0] for s in states], [s[1] for s in states])


def plain_attention(case, inputs):
    """Attention in float64 on unpaged keys, a token at a time; no code shared with the kernels."""
    scale, window, softcap = inputs.arguments[6:]
    groups = case.heads[0] // case.heads[1]
    row, results = 0, [torch.empty(0, *inputs.query.shape[1:], dtype=torch.float64)]
    for (rows, length), key, value in zip(case.sequences, inputs.keys, inputs.values, strict=True):
        for position in range(length - rows, length):
            seen = slice(max(0, position + 1 - window) if window else 0, position + 1)
            query = inputs.query[row].double()
            keys, values = (
                part[seen].double().repeat_interleave(groups, dim=1) for part in (key, value)
            )
            scores = (keys * query).sum(-1) * scale  # [L, Hq]
            if softcap:
                scores = softcap * (scores / softcap).tanh()
            results.append((scores.softmax(0)[..., None] * values).sum(0)[None])
            row += 1
    return torch.cat(results)


def assert_near(result, expected, dtype):
    """Relative to the whole: half precision also rounds the weights of the second product."""
    bound = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    assert result.dtype == dtype
    error = (result.double() - expected.double()).norm() / expected.double().norm()
    assert error <= bound, f"relative error {error:.1e}"
