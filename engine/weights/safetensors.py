"""A checkpoint in one safetensors file or in several shards, read in place. Knows no model."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.errors import LoadError
from engine.weights.checkpoint import PackedTensor
from engine.weights.files import ModelFiles
from engine.weights.model_config import read_model_config
from engine.weights.safetensors_index import read_shards
from engine.weights.tensor_reader import Place, TensorReader

# Not the types of eight bits and less: their weights mean nothing without scales from elsewhere.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class SafetensorsCheckpoint:
    """Tensors of `files.weights`, of what `dtypes` has for the names of the files' types."""

    def __init__(
        self,
        files: ModelFiles,
        dtypes: Mapping[str, torch.dtype] = DTYPES,
        config: ModelConfig | None = None,
    ) -> None:
        """Without `config` the shape is read from the files."""
        self._dtypes = dtypes
        self.config: ModelConfig = read_model_config(files) if config is None else config
        self._directory = files.directory
        self._headers, self._paths = read_shards(files.directory, files.weights)
        self._reader = TensorReader()

    def names(self) -> frozenset[str]:
        """The tensors of all shards."""
        return frozenset(self._paths)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape. Raises LoadError if it is not there."""
        return self._place(name).shape

    def tensor(self, name: str) -> Tensor:
        """One tensor, in the dtype that the file stores. Raises LoadError if it is not there."""
        return self._reader.tensor(self._place(name))

    def pieces(self, name: str) -> Iterator[Tensor]:
        """The same, some rows at a time. Raises LoadError if it is not there."""
        return self._reader.pieces(self._place(name))

    def packed_rows(self, name: str) -> Iterator[Tensor]:
        """A matrix of bytes [rows, bytes] as `TensorReader.packed_rows` reads it."""
        return self._reader.packed_rows(self._place(name))

    def packed(self, name: str) -> PackedTensor | None:
        """A matrix in F16 or BF16. Raises LoadError if it is not there."""
        place = self._place(name)
        if (kind := place.packed_kind()) is None:
            return None
        return PackedTensor(kind, place.shape, self._reader.packed_rows(place))

    def _place(self, name: str) -> Place:
        if name not in self._paths:
            raise LoadError(f"{self._directory} has no tensor {name} in its safetensors files.")
        path = self._paths[name]
        header = self._headers[path]
        tensor = header.tensors[name]
        if tensor.dtype not in self._dtypes:
            raise LoadError(
                f"{path}: {name} is stored as {tensor.dtype}, which is not supported; use a "
                "version of the model in BF16, F16 or F32, or a GGUF file."
            )
        offset = header.data_start + tensor.data_offsets[0]
        return Place(tensor.shape, path, offset, self._dtypes[tensor.dtype])
