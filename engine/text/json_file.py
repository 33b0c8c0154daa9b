"""Reads one of a model's JSON files. Knows no format beyond the type it is given."""

from pathlib import Path
from typing import TypeVar

import msgspec

from engine.errors import LoadError

T = TypeVar("T")


def read_json(path: Path, kind: type[T]) -> T | None:
    """The file as a `kind`, or None if there is no such file. Raises LoadError if it is damaged."""
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LoadError(f"{path} cannot be read ({error}); download it again.") from error
