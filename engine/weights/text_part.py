"""The language model inside a checkpoint that has an image encoder as well. Knows names only."""

import logging
import re

from engine.weights.checkpoint import Checkpoint
from engine.weights.renamed import Renamed

log = logging.getLogger(__name__)

# Files that transformers saves have the first form; the second is what the modules are called in
# memory since 4.52, which other tools save.
_PLACES = (
    (re.compile(r"language_model\.(model\.|lm_head\.)"), r"\1"),
    (re.compile(r"model\.language_model\."), "model."),
)
_VISION = re.compile(r"(model\.)?(vision_tower|multi_modal_projector)\.")


class TextPart(Renamed):
    """A checkpoint's tensors under the names that they have in a model for text alone.

    The image encoder's are left out, with one line in the log; others keep their names.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Nothing is read yet."""
        every = checkpoint.names()
        text = [name for name in every if not _VISION.match(name)]
        super().__init__(checkpoint, {_plain(name): name for name in text})
        if skipped := len(every) - len(text):
            log.warning(
                "%s is served for text only: %d tensors of its image encoder are not loaded",
                checkpoint.config.architecture,
                skipped,
            )


def _plain(name: str) -> str:
    for pattern, plain in _PLACES:
        if pattern.match(name):
            return pattern.sub(plain, name, count=1)
    return name
