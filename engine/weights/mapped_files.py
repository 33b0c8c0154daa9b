"""Weight files mapped into memory and read from in place. Knows bytes, no format.

The pages read from count as the process's memory until they are given back, so whoever is through
with a stretch says so.
"""

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import LoadError


class MappedFiles:
    """Files by path, each mapped when first asked for. A returned array keeps its file's map."""

    def __init__(self) -> None:
        self._maps: dict[Path, mmap.mmap] = {}

    def read(self, path: Path, offset: int, num_bytes: int) -> NDArray[np.uint8]:
        """A stretch of a file, without a copy; do not write to it.

        Raises LoadError if the file cannot be read or is shorter than that.
        """
        data = self._map(path)
        if offset + num_bytes > len(data):
            raise LoadError(f"{path} became shorter while it was read; download it again.")
        return np.frombuffer(data, np.uint8, num_bytes, offset)

    def release(self, path: Path, offset: int, num_bytes: int) -> None:
        """Give back the memory of a stretch; a later look at it reads the file again."""
        start = offset - offset % mmap.PAGESIZE
        if num_bytes:
            self._map(path).madvise(mmap.MADV_DONTNEED, start, offset + num_bytes - start)

    def _map(self, path: Path) -> mmap.mmap:
        if path not in self._maps:
            try:
                with path.open("rb") as file:
                    # Copy on write, because torch warns of buffers that it may not write to.
                    self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            except (OSError, ValueError) as error:
                raise LoadError(f"{path} cannot be read: {error}.") from error
        return self._maps[path]
