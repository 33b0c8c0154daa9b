"""A GGUF file's header: its metadata and where its tensors lie. Torch-free; knows no model."""

import mmap
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from engine.errors import LoadError
from engine.quant.block_format import block_format
from engine.weights.gguf_cursor import GgufCursor
from engine.weights.gguf_splits import Split, order_of_splits

PLAIN_TYPES = frozenset(kind for kind, (block, _) in GGML_QUANT_SIZES.items() if block == 1)

_DEFAULT_ALIGNMENT = 32
_MAX_DIMENSIONS = 8  # ggml has 4
_MAX_ELEMENTS = 1 << 56
_LEAST_KEY_BYTES = 13  # a name's length, a type, one byte
_LEAST_TENSOR_BYTES = 24  # a name's length, the number of dimensions, a type, an offset


class GgufTensor(NamedTuple):
    """One tensor's place. `shape` is row-major, as torch has it: the file's dimensions reversed."""

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    path: Path
    offset: int  # bytes from the start of the file
    num_bytes: int
    is_big_endian: bool = False


class GgufHeader(NamedTuple):
    """Metadata of the (first) file and the tensors of all its splits, by name, in file order."""

    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def read_gguf(paths: Sequence[Path]) -> GgufHeader:
    """Read the headers of a GGUF file or of all splits of one, version 2 or 3.

    Version 3 may be big-endian if its tensors are not packed. Splits may come in any order. Raises
    LoadError for anything else and for a damaged or shortened file. Format: ggml's docs/gguf.md.
    """
    read = [_read_one(path) for path in paths]
    splits = [
        Split(path, header.metadata, len(header.tensors))
        for path, header in zip(paths, read, strict=True)
    ]
    headers = [read[index] for index in order_of_splits(splits)]
    tensors: dict[str, GgufTensor] = {}
    for header in headers:
        for name, tensor in header.tensors.items():
            if name in tensors:
                raise LoadError(
                    f"{tensor.path} and {tensors[name].path} both have a tensor {name}; they are "
                    "no splits of one model."
                )
            tensors[name] = tensor
    return GgufHeader(headers[0].metadata, tensors)


def _read_one(path: Path) -> GgufHeader:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(GgufCursor(data), path)
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise LoadError(
            f"{path} is damaged or cut short ({error}); download or convert it again."
        ) from error


def _parse(cursor: GgufCursor, path: Path) -> GgufHeader:
    if cursor.data[:4] != b"GGUF":
        raise LoadError(f"{path} is not a GGUF file: it does not begin with the letters GGUF.")
    cursor.position = 4
    _read_version(cursor, path)
    num_tensors, num_keys = cursor.count(_LEAST_TENSOR_BYTES), cursor.count(_LEAST_KEY_BYTES)
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        if (key := cursor.name()) in metadata:
            raise ValueError(f"it has the key {key} twice")
        metadata[key] = cursor.value()
    infos = [_tensor_info(cursor) for _ in range(num_tensors)]
    alignment = _alignment(metadata)
    start = -(-cursor.position // alignment) * alignment
    is_big_endian = cursor.order == ">"
    places = [_place(info, start, path, is_big_endian) for info in infos]
    _check_places(places, alignment, len(cursor.data))
    tensors = {tensor.name: tensor for tensor in places}
    if len(tensors) < len(places):
        raise ValueError("it has two tensors of one name")
    return GgufHeader(metadata, tensors)


def _read_version(cursor: GgufCursor, path: Path) -> None:
    version = cursor.u32()
    if version & 0xFFFF == 0:  # a small number of the other byte order
        version = int.from_bytes(version.to_bytes(4, "little"), "big")
        cursor.order = ">"
    # Before version 3 there were no big-endian files.
    if version not in ((2, 3) if cursor.order == "<" else (3,)):
        raise LoadError(
            f"{path} has GGUF version {version}, versions 2 and 3 can be read; convert it again."
        )


class _Info(NamedTuple):
    name: str
    shape: tuple[int, ...]
    raw_type: int
    offset: int  # from the start of the tensors


def _tensor_info(cursor: GgufCursor) -> _Info:
    name = cursor.name()
    if (num_dimensions := cursor.u32()) > _MAX_DIMENSIONS:
        raise ValueError(f"{name} has {num_dimensions} dimensions")
    dimensions = [cursor.u64() for _ in range(num_dimensions)]
    if prod(max(size, 1) for size in dimensions) > _MAX_ELEMENTS:  # 0 may be among them
        raise ValueError(f"{name} has the impossible dimensions {dimensions}")
    return _Info(name, tuple(reversed(dimensions)), cursor.u32(), cursor.u64())


def _alignment(metadata: dict[str, Any]) -> int:
    """The format asks for a multiple of 8, ggml for a power of two: either will do."""
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment <= 0:
        raise ValueError("general.alignment is no positive number")
    if alignment % 8 and alignment & (alignment - 1):
        raise ValueError(f"general.alignment is {alignment}, no multiple of 8 or power of two")
    return alignment


def _place(info: _Info, start: int, path: Path, is_big_endian: bool) -> GgufTensor:
    kind = _type(info, path)
    if kind in PLAIN_TYPES:
        block, block_bytes = GGML_QUANT_SIZES[kind]
    else:
        _, block, block_bytes, _ = block_format(kind)
        _check_packed(info, kind, block, path, is_big_endian)
    num_bytes = prod(info.shape) // block * block_bytes
    offset = start + info.offset
    return GgufTensor(info.name, kind, info.shape, path, offset, num_bytes, is_big_endian)


def _type(info: _Info, path: Path) -> GGMLQuantizationType:
    try:
        return GGMLQuantizationType(info.raw_type)
    except ValueError as error:
        raise LoadError(
            f"{path}: {info.name} has the tensor type {info.raw_type}, which was removed from "
            "ggml or is too new; use a file with another quantisation."
        ) from error


def _check_packed(
    info: _Info, kind: GGMLQuantizationType, block: int, path: Path, is_big_endian: bool
) -> None:
    if not info.shape or info.shape[-1] % block:
        raise ValueError(f"rows of {info.name} are no whole number of {kind.name} blocks")
    if is_big_endian:
        raise LoadError(
            f"{path} is big-endian and {info.name} is packed as {kind.name}; use the "
            "little-endian file or one that is not quantised."
        )


def _check_places(tensors: Sequence[GgufTensor], alignment: int, file_bytes: int) -> None:
    for tensor in tensors:
        if tensor.offset % alignment:
            raise ValueError(f"{tensor.name} is not aligned to {alignment} bytes")
    needed = max((tensor.offset + tensor.num_bytes for tensor in tensors), default=0)
    if needed > file_bytes:
        raise ValueError(f"it has {file_bytes} bytes and its tensors need {needed}")
