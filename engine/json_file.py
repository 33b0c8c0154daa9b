"""Reads a JSON file into a type, or says which file and key is wrong. Torch-free."""

from pathlib import Path
from typing import TypeVar

import msgspec

from engine.errors import LoadError

T = TypeVar("T")


def read_json(path: Path, kind: type[T]) -> T:
    """Decode a JSON file. Raises LoadError naming the file and the key that does not fit."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror}.") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LoadError(f"{path} cannot be used: {error}. Download it again.") from error


def read_json_if_there(path: Path, kind: type[T]) -> T | None:
    """The same, or None if there is no such file."""
    return read_json(path, kind) if path.is_file() else None
