"""A checkpoint's tensors under other names, those that a model does not want left out."""

from collections.abc import Iterator, Mapping

from torch import Tensor

from engine.config import ModelConfig
from engine.errors import LoadError
from engine.weights.checkpoint import Checkpoint, PackedTensor


class Renamed:
    """A `Checkpoint` that has the tensors of `names`: its own name -> that in `checkpoint`."""

    def __init__(
        self, checkpoint: Checkpoint, names: Mapping[str, str], config: ModelConfig | None = None
    ) -> None:
        """`config` takes the place of the checkpoint's. Nothing is read yet."""
        self._checkpoint = checkpoint
        self._names = names
        self._config = config

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self._checkpoint.config if self._config is None else self._config

    def names(self) -> frozenset[str]:
        """The tensors there are."""
        return frozenset(self._names)

    def tensor(self, name: str) -> Tensor:
        """As `Checkpoint` has it."""
        return self._checkpoint.tensor(self._name(name))

    def shape(self, name: str) -> tuple[int, ...]:
        """As `Checkpoint` has it."""
        return self._checkpoint.shape(self._name(name))

    def pieces(self, name: str) -> Iterator[Tensor]:
        """As `Checkpoint` has it."""
        return self._checkpoint.pieces(self._name(name))

    def packed(self, name: str) -> PackedTensor | None:
        """As `Checkpoint` has it."""
        return self._checkpoint.packed(self._name(name))

    def _name(self, name: str) -> str:
        if name not in self._names:
            raise LoadError(f"The checkpoint has no tensor {name} of the model that is wanted.")
        return self._names[name]
