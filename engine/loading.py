"""Loads a model's weights, at the start and again while it runs. Knows no engine."""

from collections.abc import Callable

import msgspec
import torch

from engine.config import EngineConfig
from engine.errors import LoadError
from engine.fingerprint import fingerprint
from engine.layers.decoder import Decoder
from engine.models.registry import load_class
from engine.weights.bounds import check_num_weights
from engine.weights.checkpoint import Checkpoint, open_checkpoint
from engine.weights.files import ModelFiles
from engine.weights.footprint import check_room
from engine.weights.isq import Isq, requested_isq
from engine.weights.isq_settings import with_imatrix_in_use
from engine.weights.progress import Progress


def load_model(
    checkpoint: Checkpoint,
    config: EngineConfig,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress | None = None,
) -> Decoder:
    """The checkpoint's model with its weights. Raises LoadError."""
    isq = requested_isq(with_imatrix_in_use(config), device)
    return _load(checkpoint, config, isq, dtype, device, progress)


def reload(
    files: ModelFiles,
    config: EngineConfig,
    name: str,
    dtype: torch.dtype,
    device: torch.device,
    isq: str,
) -> Decoder:
    """The model of the fingerprint `name` once more, from its files, in another type.

    Raises LoadError if there is no room for it beside the one that runs, or the files are others.
    """
    config = msgspec.structs.replace(config, isq=isq)
    checkpoint = open_checkpoint(files)
    if fingerprint(files, checkpoint.config) != name:
        raise LoadError(
            "The model's files hold other weights than at the start; start the worker again."
        )
    asked = requested_isq(with_imatrix_in_use(config), device)
    check_room(checkpoint, asked, dtype, device)
    return _load(checkpoint, config, asked, dtype, device, None)


def _load(
    checkpoint: Checkpoint,
    config: EngineConfig,
    isq: Isq | None,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress | None,
) -> Decoder:
    check_num_weights(checkpoint.config, map(checkpoint.shape, checkpoint.names()))
    model_class: Callable[..., Decoder] = load_class(checkpoint.config.architecture)
    model = model_class(checkpoint.config, dtype, device)
    is_exact = config.cpu_activations == "float"
    model.load(checkpoint, progress, is_exact=is_exact, isq=isq)
    return model
