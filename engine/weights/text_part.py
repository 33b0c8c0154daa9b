"""The language model inside a checkpoint that has an image encoder as well. Knows names only."""

import logging
import re
from collections.abc import Iterator

from torch import Tensor

from engine.config import ModelConfig
from engine.errors import LoadError
from engine.weights.checkpoint import Checkpoint, PackedTensor

log = logging.getLogger(__name__)

# Files that transformers saves have the first form; the second is what the modules are called in
# memory since 4.52, which other tools save.
_PLACES = (
    (re.compile(r"language_model\.(model\.|lm_head\.)"), r"\1"),
    (re.compile(r"model\.language_model\."), "model."),
)
_VISION = re.compile(r"(model\.)?(vision_tower|multi_modal_projector)\.")


class TextPart:
    """A checkpoint's tensors under the names that they have in a model for text alone.

    The image encoder's are left out, with one line in the log; others keep their names.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Nothing is read yet."""
        self._checkpoint = checkpoint
        every = checkpoint.names()
        text = [name for name in every if not _VISION.match(name)]
        self._names = {_plain(name): name for name in text}
        if skipped := len(every) - len(text):
            log.warning(
                "%s is served for text only: %d tensors of its image encoder are not loaded",
                checkpoint.config.architecture,
                skipped,
            )

    @property
    def config(self) -> ModelConfig:
        """The language model's shape."""
        return self._checkpoint.config

    def names(self) -> frozenset[str]:
        """The tensors of the language model."""
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
            raise LoadError(f"The checkpoint has no tensor {name} in its language model.")
        return self._names[name]


def _plain(name: str) -> str:
    for pattern, plain in _PLACES:
        if pattern.match(name):
            return pattern.sub(plain, name, count=1)
    return name
