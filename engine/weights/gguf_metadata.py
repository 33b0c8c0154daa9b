"""A GGUF file's header: its metadata and where its tensors lie. Torch-free; knows no model."""

import mmap
import struct
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from engine.errors import LoadError

_SCALARS = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT64: "<f8",
}
_DEFAULT_ALIGNMENT = 32


class GgufTensor(NamedTuple):
    """One tensor's place. `shape` is row-major, as torch has it: the file's dimensions reversed."""

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    path: Path
    offset: int  # bytes from the start of the file
    num_bytes: int


class GgufHeader(NamedTuple):
    """Metadata of the (first) file and the tensors of all its splits, by name, in file order."""

    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def read_gguf(paths: Sequence[Path]) -> GgufHeader:
    """Read the headers of a GGUF file or of all splits of one, version 2 or 3, little-endian.

    Raises LoadError for anything else and for a damaged or shortened file. Format: ggml's
    docs/gguf.md.
    """
    headers = [_read_one(path) for path in paths]
    tensors: dict[str, GgufTensor] = {}
    for header in headers:
        tensors |= header.tensors
    return GgufHeader(headers[0].metadata, tensors)


def _read_one(path: Path) -> GgufHeader:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(_Cursor(data), path)
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (struct.error, ValueError, RecursionError) as error:
        raise LoadError(
            f"{path} is damaged or cut short ({error}); download or convert it again."
        ) from error


class _Cursor:
    """Reads values one after another. Running past the end raises ValueError or struct.error."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = 0

    def number(self, layout: str) -> int:
        (value,) = struct.unpack_from(layout, self.data, self.position)
        self.position += struct.calcsize(layout)
        return int(value)

    def string(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8")

    def take(self, num_bytes: int) -> bytes:
        end = self.position + num_bytes
        if end > len(self.data):
            raise ValueError(f"{end - len(self.data)} bytes of the header are missing")
        chunk = self.data[self.position : end]
        self.position = end
        return chunk

    def value(self, kind: GGUFValueType) -> Any:
        if kind is GGUFValueType.STRING:
            return self.string()
        if kind is GGUFValueType.ARRAY:
            return self.array()
        return self.scalars(kind, 1)[0]

    def array(self) -> list[Any]:
        kind, length = GGUFValueType(self.number("<I")), self.number("<Q")
        if kind in _SCALARS:
            return self.scalars(kind, length)
        return [self.value(kind) for _ in range(length)]

    def scalars(self, kind: GGUFValueType, length: int) -> list[Any]:
        dtype = np.dtype(_SCALARS[kind])
        values: list[Any] = np.frombuffer(self.take(length * dtype.itemsize), dtype).tolist()
        return values


def _parse(cursor: _Cursor, path: Path) -> GgufHeader:
    if cursor.data[:4] != b"GGUF":
        raise LoadError(f"{path} is not a GGUF file: it does not begin with the letters GGUF.")
    cursor.position = 4
    _check_version(cursor.number("<I"), path)
    num_tensors, num_keys = cursor.number("<Q"), cursor.number("<Q")
    metadata = {}
    for _ in range(num_keys):
        key = cursor.string()
        metadata[key] = cursor.value(GGUFValueType(cursor.number("<I")))
    infos = [_tensor_info(cursor) for _ in range(num_tensors)]
    alignment = _alignment(metadata)
    start = -(-cursor.position // alignment) * alignment
    tensors = [_place(info, start, path) for info in infos]
    _check_places(tensors, alignment)
    _check_length(tensors, len(cursor.data))
    return GgufHeader(metadata, {tensor.name: tensor for tensor in tensors})


def _check_version(version: int, path: Path) -> None:
    if version & 0xFFFF == 0:
        raise LoadError(f"{path} is a big-endian GGUF file; use the little-endian one.")
    if version not in (2, 3):
        raise LoadError(
            f"{path} has GGUF version {version}, versions 2 and 3 can be read; convert it again."
        )


def _tensor_info(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string()
    dimensions = [cursor.number("<Q") for _ in range(cursor.number("<I"))]
    return name, tuple(reversed(dimensions)), cursor.number("<I"), cursor.number("<Q")


def _alignment(metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
        raise ValueError(f"general.alignment is {alignment}, not a positive multiple of 8")
    return alignment


def _place(info: tuple[str, tuple[int, ...], int, int], start: int, path: Path) -> GgufTensor:
    name, shape, raw_type, offset = info
    kind = GGMLQuantizationType(raw_type)
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if not shape or shape[-1] % block:
        raise ValueError(f"rows of {name} are no whole number of {kind.name} blocks")
    num_bytes = prod(shape) // block * block_bytes
    return GgufTensor(name, kind, shape, path, start + offset, num_bytes)


def _check_places(tensors: Sequence[GgufTensor], alignment: int) -> None:
    for tensor in tensors:
        if not tensor.num_bytes:
            raise ValueError(f"{tensor.name} has no elements")
        if tensor.offset % alignment:
            raise ValueError(f"{tensor.name} is not aligned to {alignment} bytes")


def _check_length(tensors: Sequence[GgufTensor], file_bytes: int) -> None:
    needed = max((tensor.offset + tensor.num_bytes for tensor in tensors), default=0)
    if needed > file_bytes:
        raise ValueError(f"it has {file_bytes} bytes and its tensors need {needed}")
