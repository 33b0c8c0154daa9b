"""A checkpoint in a GGUF file, unpacked tensor by tensor to what a Hugging Face one would hold."""

import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray
from torch import Tensor

from engine.config import ModelConfig
from engine.errors import LoadError
from engine.weights.files import ModelFiles
from engine.weights.gguf_config import read_gguf_config, read_gguf_family
from engine.weights.gguf_experts import split_experts
from engine.weights.gguf_metadata import GgufTensor, read_gguf
from engine.weights.model_config import check_model_config
from engine.weights.names import hf_name

_PLAIN = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
    GGMLQuantizationType.F64: torch.float64,
}
_ROWS = 1024  # unpacked at a time
_IN_CONFIG = frozenset({"rope_freqs.weight"})


class GgufCheckpoint:
    """Tensors of `files.weights`, all splits together, under Hugging Face names."""

    def __init__(self, files: ModelFiles) -> None:
        header = read_gguf(files.weights)
        self.config: ModelConfig = check_model_config(
            read_gguf_config(header, files.weights[0]), files.name
        )
        tensors = [t for t in header.tensors.values() if t.name not in _IN_CONFIG]
        _check_types(tensors)
        self._path = files.weights[0]
        family = read_gguf_family(header, files.weights[0])
        self._tensors = {hf_name(t.name, family.names): t for t in split_experts(tensors)}
        self._is_permuted = family.is_permuted
        self._maps: dict[Path, mmap.mmap] = {}

    def names(self) -> frozenset[str]:
        """The tensors there are, by Hugging Face name; one without such a name keeps its own."""
        return frozenset(self._tensors)

    def tensor(self, name: str) -> Tensor:
        """One tensor, packed types as float32. Raises LoadError if it is not there."""
        if name not in self._tensors:
            raise LoadError(f"{self._path} has no tensor {name}.")
        tensor = self._read(self._tensors[name])
        if self._is_permuted and ".self_attn.q_proj." in name:
            return _halves(tensor, self.config.num_heads)
        if self._is_permuted and ".self_attn.k_proj." in name:
            return _halves(tensor, self.config.num_kv_heads)
        return tensor

    def _read(self, place: GgufTensor) -> Tensor:
        data = self._map(place.path)
        if (dtype := _PLAIN.get(place.type)) is not None:
            count = place.num_bytes // dtype.itemsize
            flat = torch.frombuffer(data, dtype=dtype, count=count, offset=place.offset)
            return flat.view(place.shape)
        packed = np.frombuffer(data, np.uint8, place.num_bytes, place.offset)
        return _unpack(packed.reshape(*place.shape[:-1], -1), place)

    def _map(self, path: Path) -> mmap.mmap:
        if path not in self._maps:
            with path.open("rb") as file:
                # Copy on write, because torch warns of buffers that it may not write to.
                self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._maps[path]


def _check_types(tensors: Sequence[GgufTensor]) -> None:
    for tensor in {tensor.type: tensor for tensor in tensors}.values():
        if tensor.type in _PLAIN:
            continue
        try:
            dequantize(np.zeros((1, GGML_QUANT_SIZES[tensor.type][1]), np.uint8), tensor.type)
        except NotImplementedError as error:
            raise LoadError(
                f"{tensor.path}: {tensor.name} has the type {tensor.type.name}, which cannot be "
                "unpacked; use a file with another quantisation."
            ) from error


def _unpack(packed: NDArray[np.uint8], place: GgufTensor) -> Tensor:
    """Unpack some rows at a time: the whole would need its size in memory twice."""
    unpacked = torch.empty(place.shape, dtype=torch.float32)
    rows = unpacked.numpy()
    for start in range(0, len(rows), _ROWS):
        chunk = slice(start, start + _ROWS)
        rows[chunk] = dequantize(packed[chunk], place.type)
    return unpacked


def _halves(rows: Tensor, num_heads: int) -> Tensor:
    """Rows of each head from adjacent pairs to two halves, as `kernels.ops.rotary` has them."""
    if len(rows) % (2 * num_heads):  # of a shape that the loader will refuse
        return rows
    pairs = rows.reshape(num_heads, -1, 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)
