"""Tensors out of weight files, whole or rows at a time. Knows forms of storage, no file format."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.quant.block_format import BlockFormat
from engine.weights.mapped_files import MappedFiles
from kernels.packing import PIECE_ROWS

_PIECE_WEIGHTS = 1 << 22
_FLOAT_KINDS = {torch.float16: 1, torch.bfloat16: 30}  # GGML's numbers of these types
_TASK_WEIGHTS = 1 << 17  # unpacked by one thread at a time: what fits its cache


class Place(NamedTuple):
    """Where a tensor lies and how: plain numbers of a dtype, or blocks.

    The plain numbers of a file may have their bytes swapped.
    """

    shape: tuple[int, ...]
    path: Path
    offset: int  # bytes from the start of the file
    form: torch.dtype | BlockFormat
    is_swapped: bool = False
    kind: int | None = None  # of blocks: the number of their GGML type, if it is one of today's

    def packed_kind(self) -> int | None:
        """The GGML type of a matrix whose rows `packed_rows` can give: blocks, F16 or BF16."""
        if len(self.shape) != 2:
            return None
        if isinstance(self.form, torch.dtype):
            return None if self.is_swapped else _FLOAT_KINDS.get(self.form)
        return self.kind


class TensorReader:
    """Reads places. Of the files, only what the latest call reads stays in this process's memory.

    Plain tensors keep their dtype and are not copied if that can be; packed ones are unpacked to
    float32, by as many threads as torch has.
    """

    def __init__(self) -> None:
        self._files = MappedFiles()
        self._threads = ThreadPoolExecutor(torch.get_num_threads(), "unpack")
        self._latest: Place | None = None

    def tensor(self, place: Place) -> Tensor:
        """The whole tensor. Its memory may go back to the file at the next call: do not write."""
        if self._latest is not None:
            self._release(self._latest, 0, prod(self._latest.shape))
        self._latest = place
        return self._read(place, 0, prod(place.shape), None).view(place.shape)

    def pieces(self, place: Place) -> Iterator[Tensor]:
        """The tensor's rows from the top, some at a time, each valid until the next is asked for.

        Rows are along the first dimension; a tensor of one dimension is one piece.
        """
        if len(place.shape) < 2 or not prod(place.shape):
            yield self.tensor(place)
            return
        row_shape = place.shape[1:]
        step = max(1, _PIECE_WEIGHTS // prod(row_shape)) * prod(row_shape)
        buffer = None
        if isinstance(place.form, BlockFormat):
            buffer = torch.empty(min(step, prod(place.shape)))
        for start in range(0, prod(place.shape), step):
            stop = min(start + step, prod(place.shape))
            yield self._read(place, start, stop, buffer).view(-1, *row_shape)
            self._release(place, start, stop)

    def packed_rows(self, place: Place) -> Iterator[Tensor]:
        """A matrix's rows as they are stored, uint8 [rows, bytes], some at a time.

        Each piece is valid until the next is asked for; all but the last are of PIECE_ROWS rows or
        a multiple.
        """
        num_rows, num_columns = place.shape
        step = max(1, _PIECE_WEIGHTS // max(1, num_columns * PIECE_ROWS)) * PIECE_ROWS
        for start in range(0, num_rows, step):
            stop = min(start + step, num_rows)
            stretch = start * num_columns, stop * num_columns
            data = self._files.read(place.path, *_stretch(place, *stretch))
            yield torch.from_numpy(data).view(stop - start, -1)
            self._release(place, *stretch)

    def _read(self, place: Place, start: int, stop: int, buffer: Tensor | None) -> Tensor:
        """Weights from `start` to `stop`, whole blocks, flat; unpacked into `buffer` if given."""
        if start == stop:
            dtype = place.form if isinstance(place.form, torch.dtype) else torch.float32
            return torch.empty(0, dtype=dtype)
        data = self._files.read(place.path, *_stretch(place, start, stop))
        if isinstance(place.form, torch.dtype):
            return _plain(data, place.form, place.is_swapped)
        unpacked = torch.empty(stop - start) if buffer is None else buffer[: stop - start]
        self._unpack(data, place.form, unpacked.numpy())
        return unpacked

    def _unpack(
        self, data: NDArray[np.uint8], form: BlockFormat, unpacked: NDArray[np.float32]
    ) -> None:
        blocks = data.reshape(-1, form.num_bytes)
        weights = unpacked.reshape(-1, form.num_weights)
        step = max(1, _TASK_WEIGHTS // form.num_weights)

        def task(start: int) -> None:
            # Damaged scales make damaged weights; numpy would warn of them, thread by thread.
            with np.errstate(all="ignore"):
                weights[start : start + step] = form.unpack(blocks[start : start + step])

        list(self._threads.map(task, range(0, len(blocks), step)))

    def _release(self, place: Place, start: int, stop: int) -> None:
        self._files.release(place.path, *_stretch(place, start, stop))


def _stretch(place: Place, start: int, stop: int) -> tuple[int, int]:
    """Offset and number of bytes of the weights from `start` to `stop`."""
    if isinstance(place.form, torch.dtype):
        num_weights, num_bytes = 1, place.form.itemsize
    else:
        num_weights, num_bytes = place.form.num_weights, place.form.num_bytes
    offset = place.offset + start // num_weights * num_bytes
    return offset, (stop - start) // num_weights * num_bytes


def _plain(data: NDArray[np.uint8], dtype: torch.dtype, is_swapped: bool) -> Tensor:
    """Flat numbers, in place if they have this machine's byte order and an address for torch."""
    if is_swapped:
        data = data.reshape(-1, dtype.itemsize)[:, ::-1].reshape(-1)
    elif data.ctypes.data % dtype.itemsize:
        data = data.copy()
    return torch.from_numpy(data).view(dtype)
