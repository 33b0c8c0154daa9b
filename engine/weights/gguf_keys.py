"""Typed access to GGUF metadata, and what sets one GGUF architecture apart. Torch-free."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from engine.errors import LoadError
from engine.weights.gguf_metadata import GgufHeader, GgufTensor

Count = Annotated[int, msgspec.Meta(gt=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]


class GgufKeys:
    """Metadata below the prefix of the file's architecture. Errors name `path`."""

    def __init__(self, header: GgufHeader, path: Path) -> None:
        self.header = header
        self.path = path
        self.prefix = self.anywhere("general.architecture", str)

    def anywhere(self, key: str, kind: Any) -> Any:
        """The value of a whole key, None if it is not there and `kind` has None."""
        return self._convert(key, self.header.metadata.get(key), kind)

    def required(self, key: str, kind: Any) -> Any:
        """The value of `{architecture}.{key}`."""
        return self.anywhere(f"{self.prefix}.{key}", kind)

    def optional(self, key: str, kind: Any, default: Any) -> Any:
        """The value of `{architecture}.{key}`, or `default`."""
        value = self.header.metadata.get(f"{self.prefix}.{key}")
        return default if value is None else self._convert(f"{self.prefix}.{key}", value, kind)

    def has(self, tensor: str) -> bool:
        """True if the file has a tensor of that name."""
        return tensor in self.header.tensors

    def tensor(self, name: str) -> GgufTensor:
        """A tensor that must be there."""
        if name not in self.header.tensors:
            raise LoadError(f"{self.path} has no tensor {name}.")
        return self.header.tensors[name]

    def _convert(self, key: str, value: Any, kind: Any) -> Any:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            problem = "is missing" if value is None else f"cannot be used: {error}"
            raise LoadError(f"{self.path}: the metadata key {key} {problem}.") from error


def nothing_more(_keys: GgufKeys) -> dict[str, Any]:
    """The fields of a family that the common keys describe."""
    return {}


class GgufFamily(NamedTuple):
    """How to read the files of one GGUF architecture.

    `fields` has the fields of ModelConfig that are its own, perhaps another `architecture` too.
    `names` are block tensors (`attn_norm`) and root tensors (`output_norm`) that Hugging Face calls
    otherwise than weights/names.py has it. `is_permuted`: the rows of query and key are in the
    order of Meta's own rotary, adjacent pairs.
    """

    architecture: str
    fields: Callable[[GgufKeys], dict[str, Any]] = nothing_more
    names: Mapping[str, str] = {}
    is_permuted: bool = False
