"""Attention over a paged KV cache on a CPU: in C++ where there is a library and all is float32.

Otherwise decode rows go in batches, prefill chunks one by one.

A sequence's result is a function of its own tokens, bit for bit: how it is padded and cut follows
from its own lengths, never from its neighbours'. Indices are numpy's, whose small operations cost
a fraction of torch's.
"""

from collections.abc import Iterator
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kernels.cpu.native.attention import attention_call, can_attend
from kernels.cpu.native.bindings import loaded_library

Ints = npt.NDArray[np.integer[Any]]

# Keys of one batch: what a core's cache holds, and below malloc's threshold for fresh pages.
_BATCH_BYTES = 2 << 20
# Query rows of a chunk that share one pass; it bounds the mask and skips what no row sees.
_CHUNK_ROWS = 256


class _Cache(NamedTuple):
    """Keys and values by slot, who owns which, and how a query meets them."""

    keys: Tensor  # [N * B, Hkv * D]
    values: Tensor  # [N * B, Hkv * D]
    block_tables: Ints  # [S, M]
    block_size: int
    num_heads: int
    scale: float
    window: int
    softcap: float

    def gather(self, sequences: Ints, positions: Ints) -> tuple[Tensor, Tensor]:
        """Keys and values [s, Hkv, L, D] in float32, by position.

        sequences: [s, 1], rows of the block tables; positions: [s, L], tokens of each.
        """
        blocks = positions // self.block_size
        offsets = positions - blocks * self.block_size
        slots = self.block_tables[sequences, blocks].astype(np.int64) * self.block_size
        index = torch.from_numpy((slots + offsets).ravel())
        return self._pick(self.keys, index, positions), self._pick(self.values, index, positions)

    def _pick(self, rows: Tensor, index: Tensor, positions: Ints) -> Tensor:
        picked = rows.index_select(0, index).view(*positions.shape, self.num_heads, -1)
        return picked.transpose(1, 2).float()

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """query [s, Hkv, R, D] over [s, Hkv, L, D]; mask: 0 or -inf, broadcasts to [s, 1, R, L]."""
        if self.softcap <= 0:
            return scaled_dot_product_attention(query, key, value, mask, scale=self.scale)
        scores = query @ key.transpose(2, 3) * self.scale
        scores = self.softcap * torch.tanh(scores / self.softcap)
        return (scores if mask is None else scores + mask).softmax(-1) @ value


class _Decode(NamedTuple):
    """A sequence with one query row, `row`, that sees its tokens `first` to `last`."""

    width: int  # the keys it is padded to
    sequence: int
    row: int
    first: int
    last: int


def paged_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lengths: Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    """As kernels/reference/paged_attention.py, within float32 rounding.

    Each cache must be contiguous (RuntimeError if not): a view by slot is all it is read through.
    """
    sequences = (block_tables, query_starts, context_lengths)
    caches = (key_cache, value_cache)
    library = loaded_library()
    if library is not None and can_attend(query, caches, query.shape[1]):
        query = query.contiguous()
        output = torch.empty_like(query)
        tables = block_tables.contiguous()
        sequences = (tables, query_starts.contiguous(), context_lengths.contiguous())
        call = attention_call(
            (query, output), query.shape[1], caches, sequences, scale, window, softcap
        )
        library.attention(call)
        return output
    return _in_torch(query, caches, sequences, scale, window, softcap)


def _in_torch(
    query: Tensor,
    caches: tuple[Tensor, Tensor],
    sequences: tuple[Tensor, Tensor, Tensor],
    scale: float,
    window: int,
    softcap: float,
) -> Tensor:
    key_cache, value_cache = caches
    block_tables, query_starts, context_lengths = sequences
    num_blocks, block_size, num_heads, _ = key_cache.shape
    keys = key_cache.view(num_blocks * block_size, -1)
    values = value_cache.view(num_blocks * block_size, -1)
    cache = _Cache(
        keys, values, block_tables.numpy(), block_size, num_heads, scale, window, softcap
    )
    output = torch.empty_like(query)
    starts, lengths = query_starts.tolist(), context_lengths.tolist()
    decodes = []
    for sequence, (start, end) in enumerate(pairwise(starts)):
        if end - start == 1:
            decodes.append(_decode_row(sequence, start, lengths[sequence], window))
        elif end > start:
            rows = slice(start, end)
            output[rows] = _prefill(query[rows], cache, sequence, lengths[sequence])
    for batch in _batches(sorted(decodes), _BATCH_BYTES // (4 * keys.shape[1])):
        index = torch.tensor([decode.row for decode in batch])
        output.index_copy_(0, index, _decode(query.index_select(0, index), cache, batch))
    return output


def _decode_row(sequence: int, row: int, length: int, window: int) -> _Decode:
    first = max(0, length - window) if window > 0 else 0
    return _Decode(_padded(length - first), sequence, row, first, length - 1)


def _padded(length: int) -> int:
    """The next of four steps an octave, at least 16 apart: past 64, a fifth is padding at most."""
    step = max(16, 1 << max(0, length.bit_length() - 3))
    return -(-length // step) * step


def _batches(decodes: list[_Decode], max_keys: int) -> Iterator[list[_Decode]]:
    """Runs of one width, of at most `max_keys` keys, though at least one sequence."""
    for width, run in groupby(decodes, key=attrgetter("width")):
        same = list(run)
        size = max(1, max_keys // width)
        yield from (same[start : start + size] for start in range(0, len(same), size))


def _decode(query: Tensor, cache: _Cache, batch: list[_Decode]) -> Tensor:
    """Attention of one query row a sequence; query: [s, Hq, D], the rows of `batch`."""
    widths, sequences, _, first, last = np.array(batch).T[:, :, None]
    positions = first + np.arange(widths[0, 0])
    # Padding repeats the last token: a slot that was never written may hold NaN, mask or no mask.
    key, value = cache.gather(sequences, np.minimum(positions, last))
    mask = _mask(positions <= last)[:, None, None]
    grouped = query.float().reshape(len(query), cache.num_heads, -1, query.shape[-1])
    return cache.attend(grouped, key, value, mask).reshape(query.shape).to(query.dtype)


def _prefill(query: Tensor, cache: _Cache, sequence: int, length: int) -> Tensor:
    """Attention of the last rows of one sequence; query: [R, Hq, D]."""
    output = torch.empty_like(query)
    for start in range(0, len(query), _CHUNK_ROWS):
        rows = slice(start, min(start + _CHUNK_ROWS, len(query)))
        position = np.arange(rows.start, rows.stop) + length - len(query)
        first = max(0, position[0] - cache.window + 1) if cache.window > 0 else 0
        token = np.arange(first, position[-1] + 1)
        visible = token <= position[:, None]
        if cache.window > 0:
            visible &= token > position[:, None] - cache.window
        key, value = cache.gather(np.array([[sequence]]), token[None])
        output[rows] = _chunk(query[rows], cache, key, value, _mask(visible))
    return output


def _chunk(query: Tensor, cache: _Cache, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """The query heads of a KV head become its rows: [R, Hq, D] to [1, Hkv, G * R, D] and back."""
    num_rows, num_heads, head_dim = query.shape
    groups = num_heads // cache.num_heads
    grouped = query.float().reshape(num_rows, -1, groups, head_dim).permute(1, 2, 0, 3)
    grouped = grouped.reshape(1, cache.num_heads, groups * num_rows, head_dim)
    result = cache.attend(grouped, key, value, mask.repeat(groups, 1))
    result = result.view(-1, groups, num_rows, head_dim).permute(2, 0, 1, 3)
    return result.reshape(query.shape).to(query.dtype)


def _mask(visible: npt.NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(np.where(visible, np.float32(0), np.float32(-np.inf)))
