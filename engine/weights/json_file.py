"""Reads a JSON file into a Struct, or says which file and key is wrong. Torch-free."""

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
        raise LoadError(f"{path} cannot be used: {error}.") from error
