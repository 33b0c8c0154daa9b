"""Loads a model's weights, at the start and again while it runs. Knows no engine."""

from collections.abc import Callable

import msgspec
import torch

from engine.capacity import available_bytes
from engine.config import EngineConfig
from engine.errors import LoadError
from engine.fingerprint import fingerprint
from engine.layers.decoder import Decoder
from engine.models.registry import load_class
from engine.quant.registry import find_format, fitting_format
from engine.quant.row_format import RowFormat
from engine.requantize import check_room
from engine.weights.bounds import check_num_weights
from engine.weights.checkpoint import Checkpoint, open_checkpoint
from engine.weights.files import ModelFiles
from engine.weights.progress import Progress

_MATRIX_BYTES = 1.125  # most that a weight takes in a format that packs whole matrices


def load_model(
    checkpoint: Checkpoint,
    config: EngineConfig,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress | None = None,
) -> Decoder:
    """The checkpoint's model with its weights. Raises LoadError."""
    check_num_weights(checkpoint.config, map(checkpoint.shape, checkpoint.names()))
    model_class: Callable[..., Decoder] = load_class(checkpoint.config.architecture)
    model = model_class(checkpoint.config, dtype, device)
    model.load(checkpoint, progress, is_exact=config.cpu_activations == "float")
    return model


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
    checkpoint = open_checkpoint(files)
    if fingerprint(files, checkpoint.config) != name:
        raise LoadError(
            "The model's files hold other weights than at the start; start the worker again."
        )
    check_room(_num_bytes(checkpoint, isq, dtype), _free_bytes(device), str(device))
    return load_model(checkpoint, msgspec.structs.replace(config, isq=isq), dtype, device)


def _num_bytes(checkpoint: Checkpoint, isq: str, dtype: torch.dtype) -> int:
    """About what the model takes in memory."""
    shapes = map(checkpoint.shape, checkpoint.names())
    return sum(_tensor_bytes(shape, isq, dtype) for shape in shapes)


def _tensor_bytes(shape: tuple[int, ...], isq: str, dtype: torch.dtype) -> int:
    kind = fitting_format(find_format(isq), shape) if isq and len(shape) > 1 else None
    num_weights = torch.Size(shape).numel()
    if kind is None:
        return num_weights * dtype.itemsize
    if isinstance(kind, RowFormat):
        return num_weights // kind.num_weights * kind.num_bytes
    return int(num_weights * _MATRIX_BYTES)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_bytes()
