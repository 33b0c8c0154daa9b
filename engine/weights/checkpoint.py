"""A model's tensors under Hugging Face names, whatever file they are in. Knows no model."""

from typing import Protocol

from torch import Tensor

from engine.config import ModelConfig
from engine.weights.files import ModelFiles


class Checkpoint(Protocol):
    """Tensors by name, each read when asked for: one at a time is in memory besides the model."""

    @property
    def config(self) -> ModelConfig:
        """The model's shape, checked."""

    def names(self) -> frozenset[str]:
        """The tensors there are."""

    def tensor(self, name: str) -> Tensor:
        """One tensor on the CPU, in the dtype that the file stores or, if packed, float32.

        Valid until the next call. Raises LoadError naming a tensor that is not there.
        """


def open_checkpoint(files: ModelFiles) -> Checkpoint:
    """Open a model's files, and read and check its configuration. Raises LoadError."""
    if files.kind == "gguf":
        from engine.weights.gguf import GgufCheckpoint

        return GgufCheckpoint(files)
    from engine.weights.safetensors import SafetensorsCheckpoint

    return SafetensorsCheckpoint(files)
