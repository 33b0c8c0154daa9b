"""Perplexity by our engine, of a model's files in any format. Used by a bench and by tests."""

from collections.abc import Iterator, Sequence
from math import exp
from pathlib import Path

import torch
import torch.nn.functional as F
from gguf.constants import GGMLQuantizationType as Type, LlamaFileType

from engine.builtin.train import Example
from engine.layers.decoder import Decoder
from engine.layers.linear import Linear
from engine.models.registry import load_class
from engine.quant.tensor_format import TensorFormat
from engine.weights.checkpoint import Checkpoint, PackedTensor, open_checkpoint
from engine.weights.files import ModelRef, resolve
from engine.weights.gguf_mixture import Scheme
from engine.weights.gguf_writer import open_source, write_gguf
from tests.engine.models.paged import BLOCK_SIZE, make_batch

STEP_TOKENS = 1024

_FILE_TYPE_NAMES = {
    **{Type.F32: "ALL_F32", Type.MXFP4: "MOSTLY_MXFP4_MOE"},
    **{Type.Q3_K: "MOSTLY_Q3_K_S", Type.Q4_K: "MOSTLY_Q4_K_S", Type.Q5_K: "MOSTLY_Q5_K_S"},
}


class Rounded:
    """A checkpoint whose matrices went through a format that packs whole ones, and came back."""

    def __init__(self, checkpoint: Checkpoint, kind: TensorFormat) -> None:
        self._checkpoint, self._kind = checkpoint, kind
        self.config, self.names, self.shape = checkpoint.config, checkpoint.names, checkpoint.shape

    def tensor(self, name: str) -> torch.Tensor:
        """In float32, if it is a matrix."""
        weights = self._checkpoint.tensor(name)
        if weights.dim() < 2:
            return weights
        return self._kind.dequantize(self._kind.quantize(weights))

    def pieces(self, name: str) -> Iterator[torch.Tensor]:
        """The whole tensor at once."""
        yield self.tensor(name)

    def packed(self, name: str) -> PackedTensor | None:
        """It is float by now."""
        return None


def open_model(path: Path) -> Checkpoint:
    """A file or directory."""
    return open_checkpoint(resolve(ModelRef(model=str(path))))


def file_type(kind: Type) -> LlamaFileType:
    """What a file that is all of one type is called."""
    return LlamaFileType[_FILE_TYPE_NAMES.get(kind, f"MOSTLY_{kind.name}")]


def write_type(source: Path, kind: Type, out: Path) -> Path:
    """A GGUF file of the model with every matrix in one type, the embeddings too."""
    scheme = Scheme(file_type(kind), lambda name, shape, facts: kind)
    write_gguf(open_source(resolve(ModelRef(model=str(source)))), scheme, out)
    return out


def load(checkpoint: Checkpoint, *, is_exact: bool) -> Decoder:
    """In float32 on the CPU, but for what stays packed; unless `is_exact` with int8 inputs."""
    model_class = load_class(checkpoint.config.architecture)
    model = model_class(checkpoint.config, torch.float32, torch.device("cpu"))
    model.load(checkpoint, None, is_exact=is_exact)
    return model


def is_packed(model: Decoder) -> bool:
    """Whether its products are made with packed weights, so that int8 inputs are another thing."""
    return any(isinstance(part, Linear) and part.packed for part in model.modules())


def perplexity(model: Decoder, texts: Sequence[Example]) -> float:
    """exp of the mean of -log p over the texts' targets, each text a sequence of its own."""
    loss, number = 0.0, 0
    for group in _steps(texts):
        rows = _logits(model, [text.token_ids for text in group])
        targets = torch.tensor([i for text in group for i in [*text.token_ids[1:], 0]])
        is_target = torch.tensor(
            [is_it for text in group for is_it in [*text.is_target[1:], False]]
        )
        losses = F.cross_entropy(rows[is_target].double(), targets[is_target], reduction="sum")
        loss, number = loss + losses.item(), number + int(is_target.sum())
    return exp(loss / number)


def _steps(texts: Sequence[Example]) -> Iterator[list[Example]]:
    group: list[Example] = []
    for text in texts:
        if sum(len(t.token_ids) for t in [*group, text]) > STEP_TOKENS and group:
            yield group
            group = []
        group.append(text)
    yield group


@torch.inference_mode()
def _logits(model: Decoder, texts: Sequence[list[int]]) -> torch.Tensor:
    """Of all positions of all texts [T, vocab], in one step over a paged cache."""
    parts, num_blocks = [], 0
    for ids in texts:
        first, num_blocks = num_blocks, num_blocks - (-len(ids) // BLOCK_SIZE)
        parts.append((ids, 0, list(range(first, num_blocks))))
    config = model.config
    shape = (num_blocks, BLOCK_SIZE, config.num_kv_heads, config.head_dim)
    caches = [(torch.empty(shape), torch.empty(shape)) for _ in range(config.num_layers)]
    return model.logits(model(make_batch(parts), caches))
