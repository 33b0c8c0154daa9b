"""A GGUF file as the source of another: its metadata, its tensors, in their order.

What the file says is copied as it is, so this needs to know neither architecture nor tokenizer.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from gguf import GGUFReader
from gguf.constants import GGMLQuantizationType as Type, GGUFValueType
from torch import Tensor

from engine.errors import LoadError
from engine.quant.block_format import block_format
from engine.weights.files import ModelFiles
from engine.weights.ggml_tensors import PLAIN_DTYPES
from engine.weights.gguf_keys import GgufKeys
from engine.weights.gguf_metadata import GgufTensor, read_gguf
from engine.weights.gguf_mixture import ModelFacts
from engine.weights.tensor_reader import Place, TensorReader

_NOT_COPIED = (
    *("GGUF.", "split.", "general.architecture"),
    *("general.file_type", "general.quantization_version"),
)


class MetadataValue(NamedTuple):
    """A value of a GGUF file with its type; `item` is the type of an array's items."""

    value: Any
    type: GGUFValueType
    item: GGUFValueType | None = None


class SourceTensor(NamedTuple):
    """A tensor to write: its GGUF name, its shape, and the type that it has now."""

    name: str
    shape: tuple[int, ...]
    type: Type


class Source(Protocol):
    """What a GGUF file is to be made of."""

    @property
    def architecture(self) -> str:
        """`general.architecture`."""

    @property
    def facts(self) -> ModelFacts:
        """What the choice of types depends on."""

    def metadata(self) -> dict[str, MetadataValue]:
        """Keys and values, without those that tell of the quantisation."""

    def tensors(self) -> list[SourceTensor]:
        """The tensors, in the order in which to write them."""

    def pieces(self, name: str) -> Iterator[Tensor]:
        """A tensor's weights, some rows at a time, each piece valid until the next."""

    def stored(self, name: str) -> Tensor | None:
        """A tensor's bytes, flat uint8, if they are those of a GGUF file as they are."""


class GgufSource:
    """`files.weights`, all splits together. Raises LoadError for files that cannot be read."""

    def __init__(self, files: ModelFiles) -> None:
        self._path = files.weights[0]
        self._header = read_gguf(files.weights)
        self._reader = TensorReader()
        keys = GgufKeys(self._header, self._path)
        self.architecture: str = keys.prefix
        heads = keys.optional("attention.head_count", int, 1)
        self.facts = ModelFacts(
            architecture=keys.prefix,
            num_layers=keys.optional("block_count", int, 0),
            group=heads // max(keys.optional("attention.head_count_kv", int, heads), 1),
            num_experts=keys.optional("expert_count", int, 0),
            is_tied=not keys.has("output.weight"),
        )

    def metadata(self) -> dict[str, MetadataValue]:
        """As in the first file, value types and all."""
        try:
            fields = GGUFReader(self._path).fields
        except ValueError as error:
            raise LoadError(f"{self._path} cannot be read by gguf-py: {error}.") from error
        values = {
            name: MetadataValue(
                field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None
            )
            for name, field in fields.items()
            if not name.startswith(_NOT_COPIED)
        }
        # gguf-py writes no empty arrays, and they say no more than none.
        return {name: value for name, value in values.items() if value.value != []}

    def tensors(self) -> list[SourceTensor]:
        """Those of all splits, in file order."""
        return [SourceTensor(t.name, t.shape, t.type) for t in self._header.tensors.values()]

    def pieces(self, name: str) -> Iterator[Tensor]:
        """Packed types as float32."""
        return self._reader.pieces(_place(self._header.tensors[name]))

    def stored(self, name: str) -> Tensor | None:
        """Those of a big-endian file are not; they go by `pieces`."""
        tensor = self._header.tensors[name]
        if tensor.is_big_endian:
            return None
        place = Place((tensor.num_bytes,), tensor.path, tensor.offset, torch.uint8)
        return self._reader.tensor(place)


def _place(tensor: GgufTensor) -> Place:
    dtype = PLAIN_DTYPES.get(tensor.type)
    form = block_format(tensor.type) if dtype is None else dtype
    return Place(tensor.shape, tensor.path, tensor.offset, form, tensor.is_big_endian)
