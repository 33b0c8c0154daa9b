"""What a model will take in memory, before it is loaded. Knows formats, no data."""

from collections.abc import Sequence

import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from engine.capacity import available_bytes
from engine.errors import LoadError
from engine.quant.memory_form import memory_form
from engine.quant.registry import Format, fitting_format
from engine.quant.row_format import RowFormat
from engine.weights.checkpoint import Checkpoint
from engine.weights.isq import Isq, can_quantise
from engine.weights.loader import FLOAT_KINDS, MANY_BYTES
from kernels.own_kinds import row_kind
from kernels.packed import HQQ4, HQQ8
from kernels.packing import bytes_in_planes, has_planes

_MARGIN = 0.05  # what loading needs beside the weights
# What a weight takes in a format that packs whole matrices: codes, and scales among them.
_MATRIX_BYTES = {"HQQ4": 0.625, "HQQ8": 1.125, "FP8": 1.125}


def check_room(
    checkpoint: Checkpoint, isq: Isq | None, dtype: torch.dtype, device: torch.device
) -> None:
    """Raise LoadError unless the weights fit beside everything that is in the device's memory."""
    needed = int(model_bytes(checkpoint, isq, dtype, device) * (1 + _MARGIN))
    free = free_bytes(device)
    if needed > free:
        raise LoadError(
            f"The new weights take {needed / 1e9:.2f} GB beside the old ones until they are in "
            f"place, but {device} has {free / 1e9:.2f} GB free; choose a smaller type, or start "
            "the worker again with --isq."
        )


def free_bytes(device: torch.device) -> int:
    """What is free on it now."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return available_bytes()


def model_bytes(
    checkpoint: Checkpoint, isq: Isq | None, dtype: torch.dtype, device: torch.device
) -> int:
    """About what the checkpoint's weights take as they are loaded."""
    names = checkpoint.names()
    if device.type != "cpu":
        return sum(_bytes_on_gpu(checkpoint, name, isq, dtype) for name in names)
    plain_bytes = sum(_num_weights(checkpoint, name) * dtype.itemsize for name in names)
    keeps_floats = plain_bytes >= MANY_BYTES
    return sum(_tensor_bytes(checkpoint, name, isq, dtype, keeps_floats) for name in names)


def _bytes_on_gpu(checkpoint: Checkpoint, name: str, isq: Isq | None, dtype: torch.dtype) -> int:
    shape, num_weights = checkpoint.shape(name), _num_weights(checkpoint, name)
    asked = isq.wanted(name) if isq is not None and can_quantise(name, shape) else None
    if asked is None:
        stored = checkpoint.packed(name)
        kind = None if stored is None else stored.kind
    else:
        format = fitting_format(asked, shape)
        form = None if format is None else memory_form(format, *shape[-2:])
        kind = None if form is None else form.kind
    is_unpacked_expert = kind in (HQQ4, HQQ8) and ".experts." in name
    if kind is None or not has_planes(kind) or is_unpacked_expert:
        return num_weights * dtype.itemsize
    return bytes_in_planes(kind, num_weights // shape[-1], shape[-1])


def _num_weights(checkpoint: Checkpoint, name: str) -> int:
    return torch.Size(checkpoint.shape(name)).numel()


def _tensor_bytes(
    checkpoint: Checkpoint, name: str, isq: Isq | None, dtype: torch.dtype, keeps_floats: bool
) -> int:
    shape, num_weights = checkpoint.shape(name), _num_weights(checkpoint, name)
    format = isq.wanted(name) if isq is not None and can_quantise(name, shape) else None
    if format is not None:
        return int(num_weights * _weight_bytes(format, shape[-2:], dtype))
    stored = checkpoint.packed(name)
    if stored is None or (stored.kind in FLOAT_KINDS and not keeps_floats):
        return num_weights * dtype.itemsize
    if (own := row_kind(stored.kind)) is not None:
        return num_weights // own.num_weights * own.num_bytes
    block, num_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(stored.kind)]
    return num_weights // block * num_bytes


def _weight_bytes(asked: Format, shape: Sequence[int], dtype: torch.dtype) -> float:
    """Bytes a weight: as it is where no format fits, or none that the kernels can hold."""
    format = fitting_format(asked, shape)
    if format is None or memory_form(format, *shape) is None:
        return dtype.itemsize
    if isinstance(format, RowFormat):
        return format.num_bytes / format.num_weights
    return _MATRIX_BYTES[format.name]
