"""Tells GGML files, of before GGUF, from other files that end in .bin. Reads their first bytes.

The magic is a little-endian number: `ggml`, `ggmf` or `ggjt` lie in the file from right to left.
"""

from collections.abc import Iterable
from pathlib import Path

from engine.errors import LoadError
from engine.weights.selection import explain_pickle

MAGICS = (b"lmgg", b"fmgg", b"tjgg")
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"  # what torch.save writes, now and before 2020


def check_ggml(paths: Iterable[Path]) -> None:
    """Raise LoadError, saying what it is if that can be told, for a file that is no GGML file."""
    for path in paths:
        magic = _first_bytes(path)
        if magic.startswith((_ZIP, _PICKLE)):
            raise LoadError(explain_pickle(str(path)))
        if magic == b"GGUF":
            raise LoadError(f"{path} is a GGUF file; rename it to end in .gguf.")
        if magic not in MAGICS:
            raise LoadError(
                f"{path} is no GGML file: it starts with {magic!r} in the place of 'ggml', 'ggmf' "
                "or 'ggjt'; check the name, or download it again."
            )


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror}.") from error
