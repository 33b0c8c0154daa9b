"""Paths on their way to another process, for msgspec, which has no form for them. Knows no more."""

from pathlib import Path
from typing import Any


def encode_path(value: Any) -> str:
    """A path as text. Raises NotImplementedError for anything else."""
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} cannot cross to another process")


def decode_path(kind: type, value: Any) -> Any:
    """The path of that text."""
    return kind(value)
