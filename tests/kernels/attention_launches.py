"""Launches of attention, of what comes before it and of sampling, for the compile gate.

They reach each tile of kernels/attention_tiles.py at the shapes of the models that are served.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.add_rms_norm import add_rms_norm
from kernels.decode_attention import decode_attention
from kernels.paged_attention import paged_attention
from kernels.sample import sample
from kernels.write_heads import write_heads
from kernels.write_kv import write_kv

Launch = tuple[str, Callable[[], Any]]
E4M3 = torch.float8_e4m3fn
HEADS = ((32, 8, 128), (9, 3, 64), (32, 32, 80), (8, 4, 256))


def attention_launches(dtype: torch.dtype) -> Iterator[Launch]:
    """Of heads in float32 or in a half-precision type, then also over a cache in e4m3."""
    for heads in HEADS:
        for cache_type in (dtype,) if dtype == torch.float32 else (dtype, E4M3):
            label = f"{heads[0]}/{heads[1]}x{heads[2]} in {str(cache_type).removeprefix('torch.')}"
            cache = torch.empty(32, 16, *heads[1:]).to(cache_type)
            yield from _writes(label, heads, dtype, cache)
            yield from _attentions(label, heads, dtype, cache)
    if dtype != torch.float32:
        yield from _rows(dtype)


def _writes(
    label: str, heads: tuple[int, int, int], dtype: torch.dtype, cache: Tensor
) -> Iterator[Launch]:
    num_heads, num_kv_heads, size = heads
    qkv = torch.empty(64, (num_heads + 2 * num_kv_heads) * size, dtype=dtype)
    key = torch.empty(64, num_kv_heads, size, dtype=dtype)
    norm, angles = torch.empty(size, dtype=dtype), torch.empty(64, size // 2)
    slots = torch.empty(64, dtype=torch.int64)
    turned = ((angles, angles), cache, cache, slots)
    yield label, lambda: write_kv(key, key, cache, cache, slots)
    yield label, lambda: write_heads(qkv, None, 0.0, *turned)
    yield f"{label} normed", lambda: write_heads(qkv, (norm, norm), 1e-6, *turned)


def _attentions(
    label: str, heads: tuple[int, int, int], dtype: torch.dtype, cache: Tensor
) -> Iterator[Launch]:
    num_heads, _, size = heads
    for num_sequences in (64, 1):  # short tiles and long ones; many parts of a lone context
        tables = torch.empty(num_sequences, 99, dtype=torch.int32)
        lengths = torch.empty(num_sequences, dtype=torch.int32)
        starts = torch.zeros(num_sequences + 1, dtype=torch.int32)
        rows, query = (
            torch.empty(count, num_heads, size, dtype=dtype) for count in (num_sequences, 128)
        )
        query = query if num_sequences == 1 else rows
        for window, softcap in ((0, 0.0), (1024, 50.0)):
            options = (size**-0.5, window, softcap)
            name = f"{label} of {num_sequences}{' window cap' if window else ''}"
            caches = (cache, cache, tables)
            mixed = (query, *caches, starts, lengths, *options)
            decoding = (rows, *caches, lengths, *options)
            yield name, partial(paged_attention, *mixed)
            yield name, partial(decode_attention, *decoding)
    yield from _mixed(label, heads, dtype, cache)


def _mixed(
    label: str, heads: tuple[int, int, int], dtype: torch.dtype, cache: Tensor
) -> Iterator[Launch]:
    """Chunks, short and long, beside a decode that is split."""
    num_heads, _, size = heads
    tables, lengths = torch.empty(2, 99, dtype=torch.int32), torch.empty(2, dtype=torch.int32)
    starts = torch.zeros(3, dtype=torch.int32)
    for num_rows in (3, 129):
        query = torch.empty(num_rows, num_heads, size, dtype=dtype)
        for window, softcap in ((0, 0.0), (1024, 50.0)):
            name = f"{label} mixed {num_rows}{' window cap' if window else ''}"
            options = (size**-0.5, window, softcap)
            way = (query, cache, cache, tables, starts, lengths, *options)
            yield name, partial(paged_attention, *way)


def _rows(dtype: torch.dtype) -> Iterator[Launch]:
    residual, parts = torch.empty(64, 4096, dtype=dtype), torch.empty(4, 64, 4096)
    yield "4096 in 4 parts", lambda: add_rms_norm(parts, residual, residual[0], 1e-6)
    logits, number = torch.empty(64, 128256), torch.empty(64)
    index = torch.empty(64, dtype=torch.int64)
    filters = (number, index, number, number)
    yield "128256", lambda: sample(logits, *filters, index, index, index)
