"""The header of a safetensors file: names, dtypes and places of its tensors. Torch-free."""

import struct
from collections import Counter
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import LoadError

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class SafetensorsTensor(msgspec.Struct, frozen=True):
    """One entry of the header. `data_offsets` are bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_header(path: Path) -> dict[str, SafetensorsTensor]:
    """The tensors of a safetensors file by name. Raises LoadError for a damaged one."""
    try:
        with path.open("rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            file_bytes = path.stat().st_size
            if header_bytes > file_bytes:
                raise ValueError("its header is longer than the file")
            entries = msgspec.json.decode(file.read(header_bytes), type=dict[str, Any])
        entries.pop("__metadata__", None)
        header = msgspec.convert(entries, dict[str, SafetensorsTensor])
        _check_length(header, file_bytes - 8 - header_bytes)
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror}.") from error
    except (struct.error, ValueError) as error:
        raise LoadError(f"{path} is damaged or cut short ({error}); download it again.") from error
    return header


def _check_length(header: dict[str, SafetensorsTensor], data_bytes: int) -> None:
    needed = max((tensor.data_offsets[1] for tensor in header.values()), default=0)
    if needed > data_bytes:
        raise ValueError(f"it has {data_bytes} bytes of weights and its header says {needed}")


def stored_dtype(paths: Sequence[Path]) -> str:
    """The dtype that most of the weights have: float32, float16 or bfloat16.

    Raises LoadError for weights of another kind, which need more than a cast to be used.
    """
    sizes: Counter[str] = Counter()
    for path in paths:
        for tensor in read_header(path).values():
            sizes[tensor.dtype] += prod(tensor.shape)
    if not sizes:
        raise LoadError(f"{paths[0].parent} has no tensors in its safetensors files.")
    dtype = sizes.most_common(1)[0][0]
    if dtype not in _DTYPES:
        raise LoadError(
            f"{paths[0].parent} stores its weights as {dtype}; supported are {', '.join(_DTYPES)}."
        )
    return _DTYPES[dtype]
