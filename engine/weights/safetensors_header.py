"""The header of a safetensors file: names, dtypes and places of its tensors. Torch-free.

Format: the safetensors library's README; what it refuses is refused here.
"""

import json
import struct
from collections import Counter
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Annotated, Any

import msgspec

from engine.errors import LoadError

Size = Annotated[int, msgspec.Meta(ge=0)]

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_MAX_HEADER_BYTES = 100_000_000  # the library's own limit
_MAX_DIMENSIONS = 64
_MAX_ELEMENTS = 1 << 56
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


class SafetensorsTensor(msgspec.Struct, frozen=True):
    """One entry of the header. `data_offsets` are bytes from the end of the header."""

    dtype: str
    shape: tuple[Size, ...]
    data_offsets: tuple[Size, Size]


class SafetensorsHeader(msgspec.Struct, frozen=True):
    """A file's tensors by name; `data_start` is where their offsets count from, in bytes."""

    tensors: dict[str, SafetensorsTensor]
    data_start: int


def read_header(path: Path) -> SafetensorsHeader:
    """The header of a safetensors file. Raises LoadError for a damaged one."""
    try:
        return _read(path)
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror}.") from error
    except (struct.error, ValueError, RecursionError) as error:
        raise LoadError(f"{path} is damaged or cut short ({error}); download it again.") from error


def _read(path: Path) -> SafetensorsHeader:
    with path.open("rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        data_bytes = path.stat().st_size - 8 - header_bytes
        if data_bytes < 0:
            raise ValueError("its header is longer than the file")
        if header_bytes > _MAX_HEADER_BYTES:
            raise ValueError(f"its header has {header_bytes} bytes")
        entries = json.loads(file.read(header_bytes), object_pairs_hook=_unique)
    if not isinstance(entries, dict):
        raise ValueError("its header is no JSON object")
    entries.pop("__metadata__", None)
    tensors = msgspec.convert(entries, dict[str, SafetensorsTensor])
    for name, tensor in tensors.items():
        _check_size(name, tensor)
    _check_places(tensors, data_bytes)
    return SafetensorsHeader(tensors, 8 + header_bytes)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"its header has {name!r} twice")
    return values


def _check_size(name: str, tensor: SafetensorsTensor) -> None:
    if len(tensor.shape) > _MAX_DIMENSIONS:
        raise ValueError(f"{name} has {len(tensor.shape)} dimensions")
    if prod(max(size, 1) for size in tensor.shape) > _MAX_ELEMENTS:  # 0 may be among them
        raise ValueError(f"{name} has an impossible shape")
    if (bits := _BITS.get(tensor.dtype)) is None:
        return  # of a kind that came later; an error if it is wanted
    start, end = tensor.data_offsets
    if prod(tensor.shape) * bits != 8 * (end - start):
        raise ValueError(
            f"{name} has {end - start} bytes, which do not make the shape {list(tensor.shape)} in "
            f"{tensor.dtype}"
        )


def _check_places(tensors: dict[str, SafetensorsTensor], data_bytes: int) -> None:
    """One after another, from the first byte to the last, as the format demands."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        if tensor.data_offsets[0] != end or tensor.data_offsets[1] < end:
            raise ValueError(f"{name} does not begin where the tensor before it ends")
        end = tensor.data_offsets[1]
    if end != data_bytes:
        raise ValueError(f"it has {data_bytes} bytes of weights and its header says {end}")


def stored_dtype(paths: Sequence[Path], *, is_quantised: bool = False) -> str:
    """The dtype that most of the weights have: float32, float16 or bfloat16.

    Of weights that are quantised, those that are not, and the scales. Raises LoadError for plain
    weights of another kind, which need more than a cast to be used.
    """
    sizes: Counter[str] = Counter()
    for path in paths:
        for tensor in read_header(path).tensors.values():
            if not is_quantised or tensor.dtype in _DTYPES:
                sizes[tensor.dtype] += prod(tensor.shape)
    if not sizes:
        raise LoadError(f"{paths[0].parent} has no tensors in its safetensors files.")
    dtype = sizes.most_common(1)[0][0]
    if dtype not in _DTYPES:
        raise LoadError(
            f"{paths[0].parent} stores its weights as {dtype}; supported are {', '.join(_DTYPES)}."
        )
    return _DTYPES[dtype]
