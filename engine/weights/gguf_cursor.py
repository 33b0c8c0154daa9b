"""Reads the values of a GGUF header one after another. Knows types of values, no keys."""

import mmap
import struct
from typing import Any

import numpy as np
from gguf.constants import GGUFValueType

_SCALARS = {
    GGUFValueType.UINT8: "u1",
    GGUFValueType.INT8: "i1",
    GGUFValueType.UINT16: "u2",
    GGUFValueType.INT16: "i2",
    GGUFValueType.UINT32: "u4",
    GGUFValueType.INT32: "i4",
    GGUFValueType.FLOAT32: "f4",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "u8",
    GGUFValueType.INT64: "i8",
    GGUFValueType.FLOAT64: "f8",
}
_MAX_DEPTH = 8  # of arrays in arrays
# What a value cannot be shorter than: a string has its length, an array its type and length.
_LEAST_BYTES = {GGUFValueType.STRING: 8, GGUFValueType.ARRAY: 12}


class GgufCursor:
    """A place in a file. Reading what cannot be there raises ValueError, before memory is taken."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = 0
        self.order = "<"  # as struct has it; set once the file's is known

    def u32(self) -> int:
        """An unsigned number of four bytes."""
        return self._number("I")

    def u64(self) -> int:
        """An unsigned number of eight bytes."""
        return self._number("Q")

    def count(self, least_bytes: int) -> int:
        """How many things follow, which take `least_bytes` of the file each, if not more."""
        count = self.u64()
        self._check_room(count * least_bytes)
        return count

    def name(self) -> str:
        """A string that must be UTF-8."""
        return self._take(self.u64()).decode("utf-8")

    def value(self, depth: int = 0) -> Any:
        """A value behind its type. Bytes of a string that are not UTF-8 become U+FFFD."""
        kind = GGUFValueType(self.u32())
        if kind is GGUFValueType.ARRAY:
            return self._array(depth)
        return self._values(kind, 1)[0]

    def _array(self, depth: int) -> list[Any]:
        if depth >= _MAX_DEPTH:
            raise ValueError(f"it has arrays more than {_MAX_DEPTH} deep")
        kind = GGUFValueType(self.u32())
        if kind is not GGUFValueType.ARRAY:
            return self._values(kind, self.u64())
        length = self.count(_LEAST_BYTES[kind])
        return [self._array(depth + 1) for _ in range(length)]

    def _values(self, kind: GGUFValueType, length: int) -> list[Any]:
        if kind is GGUFValueType.STRING:
            self._check_room(length * _LEAST_BYTES[kind])
            return [self._take(self.u64()).decode("utf-8", "replace") for _ in range(length)]
        dtype = np.dtype(self.order + _SCALARS[kind])
        values: list[Any] = np.frombuffer(self._take(length * dtype.itemsize), dtype).tolist()
        return values

    def _number(self, layout: str) -> int:
        layout = self.order + layout
        (value,) = struct.unpack(layout, self._take(struct.calcsize(layout)))
        return int(value)

    def _take(self, num_bytes: int) -> bytes:
        self._check_room(num_bytes)
        chunk = self.data[self.position : self.position + num_bytes]
        self.position += num_bytes
        return chunk

    def _check_room(self, num_bytes: int) -> None:
        missing = self.position + num_bytes - len(self.data)
        if missing > 0:
            raise ValueError(f"{missing} bytes of the header are missing")
