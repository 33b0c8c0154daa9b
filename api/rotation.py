"""A file that starts anew when it is full, shared by processes. Knows no line.

`log` becomes `log.1`, that `log.2`, and so on; whoever finds that another process, or logrotate,
has moved the file goes on in the new one.
"""

import fcntl
import io
import os
from pathlib import Path


def open_end(path: Path) -> io.FileIO:
    """The file at `path`, to be appended to, each write at once. Raises OSError."""
    return io.FileIO(path, "a")


class Rotation:
    """Keeps `path` under `max_bytes` (0: no bound), and `num_kept` older ones."""

    def __init__(self, path: Path, max_bytes: int, num_kept: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._num_kept = num_kept

    def file_for(self, file: io.FileIO, num_bytes: int) -> io.FileIO:
        """Where the next `num_bytes` go: `file`, or the one that has taken its place."""
        if not self._is_moved(file):
            size = os.fstat(file.fileno()).st_size
            if not self._max_bytes or not size or size + num_bytes <= self._max_bytes:
                return file
            self._turn(file)
        fresh = open_end(self._path)
        file.close()
        return fresh

    def _is_moved(self, file: io.FileIO) -> bool:
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(file.fileno()))
        except FileNotFoundError:
            return True

    def _turn(self, file: io.FileIO) -> None:
        with self._numbered("lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._is_moved(file):  # another process was first
                return
            names = [self._path, *(self._numbered(str(n + 1)) for n in range(self._num_kept))]
            for older, newer in reversed(list(zip(names[1:], names, strict=False))):
                if newer.exists():
                    newer.replace(older)
            if not self._num_kept:
                self._path.unlink()

    def _numbered(self, end: str) -> Path:
        return self._path.with_name(f"{self._path.name}.{end}")
