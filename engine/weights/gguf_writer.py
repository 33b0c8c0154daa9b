"""Writes a GGUF file tensor by tensor: of the model, one packed tensor is in memory at a time."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from gguf import GGUFWriter
from gguf.constants import (
    GGML_QUANT_SIZES,
    GGMLQuantizationType as Type,
    GGUFValueType,
)
from torch import Tensor

from engine.errors import LoadError
from engine.quant.registry import ROW_FORMATS
from engine.weights.checkpoint_source import CheckpointSource
from engine.weights.files import ModelFiles
from engine.weights.gguf_importance import read_importance, with_importance
from engine.weights.gguf_mixture import Scheme, is_packed
from engine.weights.gguf_source import GgufSource, Source, SourceTensor
from engine.weights.progress import Progress

logger = logging.getLogger(__name__)

_FORMATS = {Type[kind.name]: kind for kind in ROW_FORMATS}
_PLAIN = {Type.F32: torch.float32, Type.F16: torch.float16, Type.BF16: torch.bfloat16}
_QUANTISATION_VERSION = 2  # of ggml's formats, GGML_QNT_VERSION


class _Planned(NamedTuple):
    source: SourceTensor
    type: Type
    importance: Tensor | None = None

    @property
    def num_bytes(self) -> int:
        block, block_bytes = GGML_QUANT_SIZES[self.type]
        return prod(self.source.shape) // block * block_bytes


def open_source(files: ModelFiles) -> Source:
    """What a GGUF file can be made of: another one, or safetensors. Raises LoadError."""
    if files.kind == "gguf":
        return GgufSource(files)
    if files.kind == "ggml":
        raise LoadError(
            f"{files.weights[0]} is a GGML file; convert it with llama.cpp's "
            "convert_llama_ggml_to_gguf.py and quantise that file."
        )
    return CheckpointSource(files)


def write_gguf(
    source: Source,
    scheme: Scheme,
    path: Path,
    progress: Progress | None = None,
    imatrix: str = "",
) -> dict[str, Type]:
    """Write `source` to `path`, packed as `scheme` says. Returns each tensor's type.

    `progress` counts the bytes written. Until the file is whole it has another name beside it.
    `imatrix` is the path of an importance matrix. Raises LoadError for weights that cannot be
    packed, for an imatrix that does not fit, and for a `path` that is there or cannot be.
    """
    if path.exists():
        raise LoadError(f"{path} exists; remove it, or choose another name with -o.")
    plan = [_plan(tensor, source, scheme) for tensor in source.tensors()]
    if imatrix:
        plan = _weighed(plan, imatrix)
    _warn_of_second_packing(plan)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with _writer(source, scheme, plan, partial) as writer:
            _write_tensors(writer, source, plan, progress)
        partial.rename(path)
    except OSError as error:
        raise LoadError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        partial.unlink(missing_ok=True)
    return {planned.source.name: planned.type for planned in plan}


def _plan(tensor: SourceTensor, source: Source, scheme: Scheme) -> _Planned:
    if not is_packed(tensor.name, tensor.shape):
        return _Planned(tensor, tensor.type)
    return _Planned(tensor, scheme.choose(tensor.name, tensor.shape, source.facts))


def _weighed(plan: list[_Planned], imatrix: str) -> list[_Planned]:
    shapes = {planned.source.name: planned.source.shape for planned in plan}
    takers = {
        planned.source.name
        for planned in plan
        if planned.type in _FORMATS and _FORMATS[planned.type].takes_imatrix
    }
    found = read_importance(imatrix, shapes, takers)
    return [planned._replace(importance=found.get(planned.source.name)) for planned in plan]


def _warn_of_second_packing(plan: list[_Planned]) -> None:
    twice = [p for p in plan if p.type is not p.source.type and p.source.type not in _PLAIN]
    if twice:
        logger.warning(
            "%d tensors are packed already (%s) and are packed again from that: a file made from "
            "the unquantised model would be better",
            len(twice),
            ", ".join(sorted({planned.source.type.name for planned in twice})),
        )


@contextmanager
def _writer(
    source: Source, scheme: Scheme, plan: list[_Planned], path: Path
) -> Iterator[GGUFWriter]:
    writer = GGUFWriter(path, source.architecture)
    for key, (value, kind, item) in source.metadata().items():
        writer.add_key_value(key, value, kind, sub_type=item)
        if key == "general.alignment":
            writer.data_alignment = value
    writer.add_key_value("general.file_type", int(scheme.file_type), GGUFValueType.UINT32)
    writer.add_quantization_version(_QUANTISATION_VERSION)
    for tensor, packed_type, _ in plan:
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), 0, raw_dtype=packed_type
        )
    # gguf-py takes the bytes of a packed tensor from its array, which is not there yet.
    for planned in plan:
        writer.tensors[0][planned.source.name].nbytes = planned.num_bytes
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        yield writer
    finally:
        writer.close()


def _write_tensors(
    writer: GGUFWriter, source: Source, plan: list[_Planned], progress: Progress | None
) -> None:
    total = sum(planned.num_bytes for planned in plan)
    done = 0
    for planned in plan:
        writer.write_tensor_data(_bytes(source, planned).numpy())
        done += planned.num_bytes
        if progress is not None:
            progress(done, total)


def _bytes(source: Source, planned: _Planned) -> Tensor:
    """The tensor as the file has it, flat uint8."""
    tensor, kind, importance = planned
    if tensor.type is kind and (stored := source.stored(tensor.name)) is not None:
        return stored
    packed = torch.empty(planned.num_bytes, dtype=torch.uint8)
    start = 0
    for weights, matters in with_importance(source.pieces(tensor.name), importance):
        part = _pack(weights, kind, tensor.name, matters)
        packed[start : start + len(part)] = part
        start += len(part)
    assert start == planned.num_bytes
    return packed


def _pack(weights: Tensor, kind: Type, name: str, importance: Tensor | None) -> Tensor:
    try:
        if kind in _FORMATS:
            return _FORMATS[kind].quantize(weights, importance).view(-1)
        if kind not in _PLAIN:
            raise ValueError(f"{kind.name} is a type to be read only")
        plain = weights.to(_PLAIN[kind])
        if not plain.isfinite().all():
            raise ValueError(f"there are weights that are no finite numbers in {kind.name}")
    except ValueError as error:
        raise LoadError(f"{name} cannot be written: {error}.") from error
    return plain.contiguous().view(torch.uint8).view(-1)
