"""A checkpoint in one safetensors file or in several shards, read in place. Knows no model."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.config import ModelConfig
from engine.errors import LoadError
from engine.weights.files import ModelFiles
from engine.weights.model_config import read_model_config
from engine.weights.safetensors_header import read_header


class SafetensorsCheckpoint:
    """Tensors of `files.weights`. One file is mapped at a time, so its pages are free after it."""

    def __init__(self, files: ModelFiles) -> None:
        self.config: ModelConfig = read_model_config(files)
        self._directory = files.directory
        self._places: dict[str, Path] = {}
        for path in files.weights:
            self._places |= dict.fromkeys(read_header(path), path)
        self._open: tuple[Path, Any] | None = None

    def names(self) -> frozenset[str]:
        """The tensors of all shards."""
        return frozenset(self._places)

    def tensor(self, name: str) -> Tensor:
        """One tensor, in the dtype that the file stores. Raises LoadError if it is not there."""
        if name not in self._places:
            raise LoadError(f"{self._directory} has no tensor {name} in its safetensors files.")
        path = self._places[name]
        try:
            tensor: Tensor = self._file(path).get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise LoadError(f"{path}: {name} cannot be read ({error}).") from error
        return tensor

    def _file(self, path: Path) -> Any:
        if self._open is None or self._open[0] != path:
            self._open = (path, safe_open(path, framework="pt"))
        return self._open[1]
