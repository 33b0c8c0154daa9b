"""Importance matrices, which llama.cpp's llama-imatrix measures: how much each column matters.

Torch-free. Knows both of its formats and no model: names are those of GGUF files. Source:
llama.cpp's tools/quantize/quantize.cpp, load_imatrix and load_legacy_imatrix.
"""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from engine.errors import LoadError
from engine.weights.gguf_metadata import GgufHeader, GgufTensor, read_gguf

Floats = NDArray[np.float32]
Entries = Mapping[str, Floats]  # [columns], or [experts * columns] of stacked experts

_SUMS, _COUNTS = ".in_sum2", ".counts"
_INT = struct.Struct("<i")
_MAX_NAME = 1024


def read_imatrix(path: str) -> Entries:
    """The mean squares of the input of each weight, by GGUF name, in either format.

    Raises LoadError for a file that is neither, or damaged.
    """
    file = Path(path).expanduser()
    if file.suffix == ".cimatrix":
        raise LoadError(
            f"{path} is in mistral.rs' own format, which is not read here; make one with "
            "llama.cpp's llama-imatrix (.gguf or .dat)."
        )
    try:
        data = file.read_bytes()
    except OSError as error:
        raise LoadError(f"the imatrix {path} cannot be read: {error.strerror}.") from error
    entries = _gguf(file) if data[:4] == b"GGUF" else _legacy(data, file)
    for name, values in entries.items():
        if not len(values) or not np.isfinite(values).all() or (values < 0).any():
            raise LoadError(f"the imatrix {path} has no finite mean squares for {name}.")
    return entries


def _gguf(path: Path) -> Entries:
    header = read_gguf([path])
    tensors = header.tensors
    names = [name.removesuffix(_SUMS) for name in tensors if name.endswith(_SUMS)]
    if not names:
        raise LoadError(f"{path} is a GGUF file but no imatrix: it has no tensor *{_SUMS}.")
    with path.open("rb") as file:
        data = file.read()
    return {name: _means(header, name, data, path) for name in names}


def _means(header: GgufHeader, name: str, data: bytes, path: Path) -> Floats:
    """Sums over counts, matrix by matrix. One that saw no token has nothing to say: all ones."""
    if name + _COUNTS not in header.tensors:
        raise LoadError(f"{path} has no tensor {name}{_COUNTS}; it is no whole imatrix.")
    counts = _numbers(header.tensors[name + _COUNTS], data).reshape(-1, 1)
    sums = _numbers(header.tensors[name + _SUMS], data)
    if not len(counts) or not len(sums) or len(sums) % len(counts):
        raise LoadError(f"{path} has {len(counts)} counts for {len(sums)} sums of {name}.")
    rows = sums.reshape(len(counts), -1)
    return np.where(counts > 0, rows / np.maximum(counts, 1), 1).astype(np.float32).reshape(-1)


def _numbers(tensor: GgufTensor, data: bytes) -> Floats:
    if tensor.type is not GGMLQuantizationType.F32:
        raise LoadError(f"{tensor.path}: {tensor.name} is {tensor.type.name}, not F32.")
    order = ">f4" if tensor.is_big_endian else "<f4"
    count = tensor.num_bytes // 4
    return np.frombuffer(data, order, count, tensor.offset).astype(np.float32)


def _legacy(data: bytes, path: Path) -> Entries:
    try:
        return _parse(memoryview(data))
    except (ValueError, struct.error) as error:
        raise LoadError(
            f"{path} is no imatrix of llama.cpp, or a damaged one ({error}); make it again."
        ) from error


def _parse(data: memoryview) -> Entries:
    """Number of entries; of each: name, number of calls, number of values, float32 values.

    What may follow, the dataset's name, is of no use here.
    """
    (num_entries,) = _INT.unpack_from(data, 0)
    position = _INT.size
    if num_entries < 1:
        raise ValueError("it has no entries")
    entries: dict[str, Floats] = {}
    for _ in range(num_entries):
        (length,) = _INT.unpack_from(data, position)
        if not 0 < length <= _MAX_NAME:
            raise ValueError(f"a name of {length} bytes")
        name = bytes(data[position + 4 : position + 4 + length]).decode()
        position += 4 + length
        calls, count = struct.unpack_from("<ii", data, position)
        position += 8
        if count < 1 or position + 4 * count > len(data):
            raise ValueError(f"{count} values of {name}")
        if name in entries:
            raise ValueError(f"{name} is in it twice")
        values = np.frombuffer(data, "<f4", count, position).astype(np.float32)
        position += 4 * count
        entries[name] = values / calls if calls > 0 else values
    return entries
