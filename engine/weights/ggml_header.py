"""The header of a Llama model in a GGML file, the format before GGUF. Torch-free.

Source: llama.cpp before August 2023, `llama_file_loader`. Such a file begins with one of three
magics: `ggml` without version, `ggmf` 1 (adds the scores of tokens), `ggjt` 1 to 3 (aligns tensors;
2 and 3 store quantised ones in another way). It says nothing of its family, which is always Llama.
"""

import mmap
import struct
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from engine.errors import LoadError
from engine.quant.block_format import BlockFormat
from engine.quant.ggjt import ggjt_format

_MAGICS = {b"lmgg": "ggml", b"fmgg": "ggmf", b"tjgg": "ggjt"}  # numbers in the file's byte order
_VERSIONS = {"ggmf": (1,), "ggjt": (1, 2, 3)}
_ALIGNMENT = 32
_MAX_DIMENSIONS = 2
_PLAIN_TYPES = (GGMLQuantizationType.F32, GGMLQuantizationType.F16)


class GgmlTensor(NamedTuple):
    """One tensor's place. `shape` is row-major; `format` is None for plain numbers of `type`."""

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    path: Path
    offset: int  # bytes from the start of the file
    format: BlockFormat | None


class GgmlHeader(NamedTuple):
    """What the file says of the model, its tokens as raw bytes, and its tensors by their names.

    `scores` is None in files that have none.
    """

    vocab_size: int
    hidden_size: int
    num_heads: int
    num_layers: int
    rotary_size: int
    tokens: list[bytes]
    scores: list[float] | None
    tensors: dict[str, GgmlTensor]


def read_ggml(path: Path) -> GgmlHeader:
    """Read the header of a GGML file. Raises LoadError for anything else and for a damaged file."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(_Cursor(data), path)
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise LoadError(f"{path} is damaged or cut short ({error}); download it again.") from error


class _Cursor:
    """A place in a file. Reading what is not there raises ValueError, before memory is taken."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = 0

    def u32(self) -> int:
        (value,) = struct.unpack("<I", self.take(4))
        return int(value)

    def take(self, num_bytes: int) -> bytes:
        start = self.position
        self.skip(num_bytes)
        return self.data[start : self.position]

    def skip(self, num_bytes: int) -> None:
        self.position += num_bytes
        if self.position > len(self.data):
            raise ValueError(f"{self.position - len(self.data)} bytes are missing")


def _parse(cursor: _Cursor, path: Path) -> GgmlHeader:
    magic, version = _magic(cursor, path)
    vocab_size, hidden_size, _, num_heads, num_layers, rotary_size, _ = (
        cursor.u32() for _ in range(7)
    )
    has_scores = magic != "ggml"
    token_bytes = 8 if has_scores else 4
    if vocab_size * token_bytes > len(cursor.data):
        raise ValueError(f"it is too short for {vocab_size} tokens")
    tokens, scores = [], []
    for _ in range(vocab_size):
        tokens.append(cursor.take(cursor.u32()))
        if has_scores:
            scores.append(float(np.frombuffer(cursor.take(4), "<f4")[0]))
    return GgmlHeader(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_layers=num_layers,
        rotary_size=rotary_size,
        tokens=tokens,
        scores=scores if has_scores else None,
        tensors=_tensors(cursor, path, version, is_aligned=magic == "ggjt"),
    )


def _magic(cursor: _Cursor, path: Path) -> tuple[str, int]:
    """The magic as a word, and the version as far as block formats go."""
    magic = _MAGICS.get(start := cursor.take(4))
    if magic is None:
        hint = " but a GGUF file" if start == b"GGUF" else ""
        raise LoadError(f"{path} is not a GGML file{hint}; say which file with -f.")
    if magic == "ggml":
        return magic, 1
    if (version := cursor.u32()) not in _VERSIONS[magic]:
        raise LoadError(f"{path} has the unknown GGML version {magic} {version}; use GGUF.")
    return magic, version


def _tensors(
    cursor: _Cursor, path: Path, version: int, *, is_aligned: bool
) -> dict[str, GgmlTensor]:
    tensors: dict[str, GgmlTensor] = {}
    while cursor.position < len(cursor.data):
        num_dimensions, name_bytes, raw_type = cursor.u32(), cursor.u32(), cursor.u32()
        if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
            raise ValueError(f"a tensor has {num_dimensions} dimensions")
        shape = tuple(reversed([cursor.u32() for _ in range(num_dimensions)]))
        if (name := cursor.take(name_bytes).decode("utf-8")) in tensors:
            raise ValueError(f"it has the tensor {name} twice")
        if is_aligned:
            cursor.skip(-cursor.position % _ALIGNMENT)
        kind = _type(raw_type, name, path)
        form = None if kind in _PLAIN_TYPES else _format(kind, version, name, path)
        tensors[name] = GgmlTensor(name, kind, shape, path, cursor.position, form)
        cursor.skip(_num_bytes(tensors[name]))
    return tensors


def _type(raw_type: int, name: str, path: Path) -> GGMLQuantizationType:
    try:
        return GGMLQuantizationType(raw_type)
    except ValueError as error:
        raise LoadError(
            f"{path}: {name} has the tensor type {raw_type}, which llama.cpp gave up long ago; use "
            "a GGUF file."
        ) from error


def _format(kind: GGMLQuantizationType, version: int, name: str, path: Path) -> BlockFormat:
    try:
        return ggjt_format(kind, version)
    except ValueError as error:
        raise LoadError(f"{path}: {name} cannot be {kind.name}: {error}.") from error


def _num_bytes(tensor: GgmlTensor) -> int:
    if tensor.format is None:
        return prod(tensor.shape) * GGML_QUANT_SIZES[tensor.type][1]
    _, num_weights, num_bytes, _ = tensor.format
    if tensor.shape[-1] % num_weights:
        raise ValueError(f"rows of {tensor.name} are no whole number of {tensor.type.name} blocks")
    return prod(tensor.shape) // num_weights * num_bytes
