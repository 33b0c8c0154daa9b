"""Loads an encoder and the head of a task. Knows names of tensors, no format of files."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import EngineConfig, Task
from engine.device import choose_dtype
from engine.encoders.config import EncoderConfig
from engine.encoders.encoder import Encoder
from engine.encoders.families import Family, family_of
from engine.encoders.keys import read_encoder_config
from engine.errors import LoadError
from engine.layers.mlp import activation_of
from engine.pooling.heads import ScoreHead
from engine.pooling.parts import Parts, embedding_head
from engine.pooling.recipe import read_recipe
from engine.pooling.score_recipe import (
    ScoreSettings,
    pooling_of,
    read_score_settings,
    scale_of,
)
from engine.weights.bounds import check_num_weights
from engine.weights.files import ModelFiles
from engine.weights.hf_keys import ACTIVATIONS
from engine.weights.isq_settings import check_isq
from engine.weights.loader import Loader
from engine.weights.prequantised.config import read_method
from engine.weights.progress import Progress
from engine.weights.renamed import Renamed
from engine.weights.safetensors import SafetensorsCheckpoint

# what stands on top of an encoder, or is no weight
_TOPS = ("pooler.", "classifier.", "pre_classifier.", "head.")
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
# names of before 2019, which bert-base-uncased still has
_OLD_ENDINGS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def load_encoder(
    files: ModelFiles,
    architecture: str,
    task: Task,
    config: EngineConfig,
    device: torch.device,
    progress: Progress | None,
) -> Parts:
    """An encoder of `ENCODERS` for vectors or, with the classifier it has, scores.

    Raises LoadError.
    """
    _refuse_quantised(files, config)
    shape, family = read_encoder_config(files, architecture), family_of(architecture)
    stored = SafetensorsCheckpoint(files, config=shape)
    checkpoint = Renamed(stored, plain_names(stored.names(), family, task))
    check_num_weights(shape, map(checkpoint.shape, checkpoint.names()))
    dtype = choose_dtype(config, shape, device)
    encoder = Encoder(shape, dtype, device)
    is_exact = config.cpu_activations == "float"
    loader = Loader(checkpoint, encoder.num_bytes, progress, is_exact=is_exact)
    encoder.load(loader)
    if task == "score":
        head = _score_head(files, loader, shape, family, device)
        loader.check_unused(())
        return Parts(encoder, head, shape, dtype, num_types=shape.num_types)
    loader.check_unused(())
    recipe = read_recipe(files, "cls")
    vectors = embedding_head(files, recipe, shape, device)
    return Parts(encoder, vectors, shape, dtype, recipe, shape.num_types)


def _refuse_quantised(files: ModelFiles, config: EngineConfig) -> None:
    if config.isq or check_isq(config).types():
        raise LoadError(f"{files.name} is an encoder, which --isq and --topology are not for yet.")
    if read_method(files.directory) is not None:
        raise LoadError(
            f"{files.name} is an encoder that is quantised already, which is not supported; use "
            "a version of the model in BF16, F16 or F32."
        )


def plain_names(names: Iterable[str], family: Family, task: Task) -> dict[str, str]:
    """The tensors of an encoder, and of its classifier where it scores: plain names -> stored."""
    classifier = family.classifier
    kept = [name for name in (classifier.dense, classifier.norm, classifier.output) if name]
    wanted = tuple(f"{name}." for name in kept) if task == "score" else ()
    found = {_plain(name, family): name for name in names}
    return {
        plain: name
        for plain, name in found.items()
        if plain.startswith(wanted) or not plain.startswith((*_TOPS, *_BUFFERS, *family.heads))
    }


def _plain(name: str, family: Family) -> str:
    plain = name.removeprefix(f"{family.prefix}.")
    for old, new in _OLD_ENDINGS.items():
        if plain.endswith(old):
            return plain.removesuffix(old) + new
    return plain


def _score_head(
    files: ModelFiles,
    loader: Loader,
    shape: EncoderConfig,
    family: Family,
    device: torch.device,
) -> ScoreHead:
    path = files.directory / "config.json"
    settings = read_score_settings(files.directory)
    names = family.classifier
    num_labels = loader.checkpoint.shape(f"{names.output}.weight")[0]
    activation = _activation(names.activation, settings, path)
    scale = scale_of(settings, num_labels, path)
    head = ScoreHead(names, pooling_of(settings, path), activation, scale)
    head.load(loader, shape.hidden_size, shape.norm_eps, device)
    return head


def _activation(name: str, settings: ScoreSettings, path: Path) -> Callable[[Tensor], Tensor]:
    """The dense layer's: a family's own, or what ModernBERT's file says."""
    match name:
        case "tanh":
            return torch.tanh
        case "relu":
            return F.relu
    if (stated := settings.classifier_activation) not in ACTIVATIONS:
        raise LoadError(f"{path}: the classifier_activation {stated!r} is not supported.")
    return activation_of(ACTIVATIONS[stated])
