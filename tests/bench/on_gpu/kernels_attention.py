"""Probes of attention: decoding, prefills, both, and sequences without a cache."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.decode_attention import decode_attention
from kernels.paged_attention import paged_attention
from kernels.varlen_attention import varlen_attention
from tests.bench.on_gpu.probe import ROUNDED_TWICE, Probe, judged, num_bytes
from tests.bench.on_gpu.row import Row
from tests.bench.on_gpu.setting import Case, Setting

BLOCK = 16
_CHECKED_ROWS = 12


class Batch(NamedTuple):
    """Sequences as (rows of queries, tokens of context). Only decodes if all have one row."""

    sequences: Sequence[tuple[int, int]]
    window: int = 0
    is_e4m3: bool = False


BATCHES = {
    "decode, 1 of 1024": Batch([(1, 1024)]),
    "decode, 1 of 8192": Batch([(1, 8192)]),
    "decode, 8 of 1024": Batch([(1, 1024)] * 8),
    "decode, 32 of 1024": Batch([(1, 1024)] * 32),
    "decode, 32 of 1024, e4m3": Batch([(1, 1024)] * 32, is_e4m3=True),
    "decode, 128 of 1024": Batch([(1, 1024)] * 128),
    "decode, 32 of 8192, window 1024": Batch([(1, 8192)] * 32, window=1024),
    "prefill, 1 of 2048": Batch([(2048, 2048)]),
    "prefill, 4 of 512": Batch([(512, 512)] * 4),
    "chunk, 2048 of 16384": Batch([(2048, 16384)]),
    "chunk, 2048 of 16384, e4m3": Batch([(2048, 16384)], is_e4m3=True),
    "63 decodes of 1024 and 1024 rows": Batch([(1024, 1024), *[(1, 1024)] * 63]),
}
TINY = {
    "decode, 2 of 40": Batch([(1, 40)] * 2),
    "prefill, 20 of 40 and a decode": Batch([(20, 40), (1, 33)]),
    "decode, 1 of 40, e4m3": Batch([(1, 40)], is_e4m3=True),
}


def cases(setting: Setting) -> list[Case]:
    """Paged batches, then whole sequences."""
    batches = setting.of_scale(BATCHES, TINY)
    found = [Case(name, partial(_paged, setting, name, b)) for name, b in batches.items()]
    for num, length in setting.of_scale(((32, 512), (1, 4096)), ((2, 20),)):
        name = f"both ways, {num} of {length}"
        found.append(Case(name, partial(_whole, setting, name, num, length)))
    return found


class _Paged(NamedTuple):
    """A batch's tensors."""

    query: Tensor
    caches: tuple[Tensor, Tensor]
    tables: Tensor
    lengths: Tensor


def _tensors(setting: Setting, batch: Batch) -> _Paged:
    sizes = setting.sizes
    counts = [-(-length // BLOCK) for _, length in batch.sequences]
    shape = (sum(counts) + 1, BLOCK, sizes.num_kv_heads, sizes.head_dim)
    dtype = torch.float8_e4m3fn if batch.is_e4m3 else torch.bfloat16
    keys, values = (setting.normal(*shape).to(dtype) for _ in range(2))
    blocks = torch.randperm(shape[0], device=setting.device, dtype=torch.int32)[1:]
    tables = torch.zeros(len(counts), max(counts), dtype=torch.int32, device=setting.device)
    for table, own in zip(tables, blocks.split(counts), strict=True):
        table[: len(own)] = own
    num_rows = sum(rows for rows, _ in batch.sequences)
    query = setting.normal(num_rows, sizes.num_heads, sizes.head_dim)
    lengths = setting.tensor([length for _, length in batch.sequences])
    return _Paged(query, (keys, values), tables, lengths)


def _paged(setting: Setting, name: str, batch: Batch) -> Iterator[Row]:
    tensors = _tensors(setting, batch)
    rows = [rows for rows, _ in batch.sequences]
    scale = setting.sizes.head_dim**-0.5
    start = [setting.tensor([0, *rows]).cumsum(0, dtype=torch.int32)]
    is_decode = max(rows) == 1
    launch = decode_attention if is_decode else paged_attention
    sequences = (tensors.tables, *(start * (not is_decode)), tensors.lengths)
    arguments = (tensors.query, *tensors.caches, *sequences, scale, batch.window)
    places = _places(batch)
    some = list(range(0, len(places), max(1, len(places) // _CHECKED_ROWS)))
    yield judged(
        setting,
        name,
        Probe(
            launch,
            arguments,
            lambda: torch.stack([_row(tensors, row, *places[row], scale, batch) for row in some]),
            num_bytes=2 * num_bytes(tensors.query) + _cache_bytes(tensors, batch),
            num_operations=_operations(setting, [position + 1 for _, position in places], batch),
            picked=lambda output: output[some],
            bound=ROUNDED_TWICE,
        ),
    )


def _places(batch: Batch) -> list[tuple[int, int]]:
    """Of each row its sequence and position."""
    return [
        (index, length - rows + row)
        for index, (rows, length) in enumerate(batch.sequences)
        for row in range(rows)
    ]


def _row(
    tensors: _Paged, row: int, sequence: int, position: int, scale: float, batch: Batch
) -> Tensor:
    """One row of attention in float64, by gathering what it sees."""
    first = max(0, position + 1 - batch.window) if batch.window else 0
    at = torch.arange(first, position + 1, device=tensors.query.device)
    block = tensors.tables[sequence].long()[at // BLOCK]
    keys, values = (_gathered(cache, block, at % BLOCK) for cache in tensors.caches)
    return _attended(tensors.query[row].double(), keys, values, scale)


def _gathered(cache: Tensor, block: Tensor, place: Tensor) -> Tensor:
    if cache.dtype == torch.float8_e4m3fn:  # torch gathers none of those
        return cache.view(torch.uint8)[block, place].view(cache.dtype).double()
    return cache[block, place].double()


def _attended(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """[Hq, D] over [L, Hkv, D], all in float64."""
    grouped = query.unflatten(0, (keys.shape[1], -1))
    weights = (torch.einsum("hgd,lhd->hgl", grouped, keys) * scale).softmax(-1)
    return torch.einsum("hgl,lhd->hgd", weights, values).flatten(0, 1)


def _cache_bytes(tensors: _Paged, batch: Batch) -> int:
    """Keys and values that some row sees."""
    of_token = 2 * num_bytes(tensors.caches[0][0, 0])
    seen = (
        min(length, batch.window + rows - 1) if batch.window else length
        for rows, length in batch.sequences
    )
    return of_token * sum(seen)


def _operations(setting: Setting, seen: Sequence[int], batch: Batch) -> int:
    """Of both products, each row over what it sees."""
    pairs = sum(min(number, batch.window) if batch.window else number for number in seen)
    return 4 * setting.sizes.num_heads * setting.sizes.head_dim * pairs


def _whole(setting: Setting, name: str, num: int, length: int) -> Iterator[Row]:
    """As an encoder has it: as many keys as queries, 64 wide, no order."""
    heads, dim = setting.of_scale((16, 64), (2, 32))
    query, key, value = (setting.normal(num * length, heads, dim) for _ in range(3))
    starts = setting.tensor([length * index for index in range(num + 1)])
    some = list(range(0, num * length, max(1, num * length // _CHECKED_ROWS)))

    def expected(row: int) -> Tensor:
        own = slice(row // length * length, (row // length + 1) * length)
        return _attended(query[row].double(), key[own].double(), value[own].double(), dim**-0.5)

    yield judged(
        setting,
        name,
        Probe(
            varlen_attention,
            (query, key, value, starts, dim**-0.5),
            lambda: torch.stack([expected(row) for row in some]),
            num_bytes=num_bytes(query, key, value, query),
            num_operations=4 * heads * dim * num * length**2,
            picked=lambda output: output[some],
            bound=ROUNDED_TWICE,
        ),
    )
