"""Writes safetensors files tensor by tensor, in shards where they would be large. Knows no model.

Format: the safetensors library's README. A tensor is in memory no longer than it is written.
"""

import json
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from engine.weights.progress import Progress
from engine.weights.selection import INDEX_FILE

MAX_SHARD_BYTES = 5_000_000_000
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8  # of the first tensor


class OutTensor(NamedTuple):
    """A tensor to write; `pieces`, its rows from the top, is called when it is its turn."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: Callable[[], Iterable[Tensor]]

    @property
    def num_bytes(self) -> int:
        """What it takes in the file."""
        return prod(self.shape) * self.dtype.itemsize


def write_safetensors(
    directory: Path,
    tensors: Sequence[OutTensor],
    progress: Progress | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write `tensors` to model.safetensors, or to shards with their index, in `directory`.

    `progress` counts the bytes written. Raises OSError.
    """
    shards = _shards(tensors, max_shard_bytes)
    names = ["model.safetensors"]
    if len(shards) > 1:
        count = len(shards)
        names = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
        _write_index(directory, names, shards)
    written = _Counter(sum(tensor.num_bytes for tensor in tensors), progress)
    for name, shard in zip(names, shards, strict=True):
        with closing((directory / name).open("wb")) as file:
            _write_file(file, shard, written)


def _shards(tensors: Iterable[OutTensor], max_bytes: int) -> list[list[OutTensor]]:
    shards: list[list[OutTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.num_bytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.num_bytes
    return shards


def _write_index(directory: Path, names: list[str], shards: list[list[OutTensor]]) -> None:
    every = [(tensor, name) for name, shard in zip(names, shards, strict=True) for tensor in shard]
    index = {
        "metadata": {"total_size": sum(tensor.num_bytes for tensor, _ in every)},
        "weight_map": {tensor.name: name for tensor, name in every},
    }
    (directory / INDEX_FILE).write_text(json.dumps(index, indent=2))


class _Counter:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._done, self._progress = total, 0, progress

    def add(self, num_bytes: int) -> None:
        self._done += num_bytes
        if self._progress is not None:
            self._progress(self._done, self._total)


def _write_file(file: BinaryIO, shard: list[OutTensor], written: _Counter) -> None:
    # The widest numbers first, so that all lie at multiples of their size.
    ordered = sorted(shard, key=lambda tensor: -tensor.dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in ordered:
        start, end = end, end + tensor.num_bytes
        header[tensor.name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    file.write(struct.pack("<Q", len(text)) + text)
    for tensor in ordered:
        num_bytes = 0
        for piece in tensor.pieces():
            data = piece.contiguous().view(-1).view(torch.uint8).numpy().data
            file.write(data)
            num_bytes += len(data)
            written.add(len(data))
        assert num_bytes == tensor.num_bytes, "the pieces are the whole tensor"
