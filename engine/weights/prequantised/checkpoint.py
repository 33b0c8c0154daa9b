"""A safetensors checkpoint whose matrices another tool has quantised. Knows no method.

A matrix is spoken of as `X.weight`, whatever its parts are called in the files.
"""

import logging
from collections.abc import Iterator
from importlib import import_module
from typing import Protocol

import torch
from torch import Tensor

from engine.config import ModelConfig
from engine.errors import LoadError
from engine.weights.checkpoint import PackedTensor
from engine.weights.files import ModelFiles
from engine.weights.prequantised.config import Method
from engine.weights.prequantised.parts import SCALES_OF_ACTIVATIONS, Parts
from engine.weights.safetensors import DTYPES, SafetensorsCheckpoint

log = logging.getLogger(__name__)

_BYTES_WITH_SCALES = {"F8_E4M3": torch.float8_e4m3fn, "F8_E8M0": torch.float8_e8m0fnu}


class Matrix(Protocol):
    """A quantised matrix of a checkpoint, or several stacked."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weights."""

    @property
    def kind(self) -> int | None:
        """The packed format that holds it exactly, None if there is none."""

    @property
    def reason(self) -> str:
        """Why there is none."""

    def pieces(self) -> Iterator[Tensor]:
        """The weights, float32, some rows at a time."""

    def packed_rows(self) -> Iterator[Tensor]:
        """The rows in blocks of `kind`, uint8 [rows, bytes], some at a time."""


class Layout(Protocol):
    """How a method's matrices lie in a checkpoint."""

    def find(self) -> dict[str, Parts]:
        """The parts of each matrix by its name."""

    def matrix(self, parts: Parts) -> Matrix:
        """Raises LoadError if parts are missing or do not fit."""


class PrequantisedCheckpoint:
    """Tensors of `files.weights`, quantised by `method`. Raises LoadError as a plain one does."""

    def __init__(self, files: ModelFiles, method: Method) -> None:
        self._stored = SafetensorsCheckpoint(files, {**DTYPES, **_BYTES_WITH_SCALES})
        self.config: ModelConfig = self._stored.config
        module = import_module(f"engine.weights.prequantised.{method.module}")
        self._layout: Layout = module.open_layout(self._stored, method)
        self._parts = self._layout.find()
        used = {name for parts in self._parts.values() for name in parts.values()}
        unused = _activation_scales(self._stored.names())
        self._names: frozenset[str] = (self._stored.names() - used - unused) | self._parts.keys()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._told: set[str] = set()

    def names(self) -> frozenset[str]:
        """The tensors that a checkpoint of unquantised weights would have."""
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape. Raises LoadError if it is not there."""
        if name not in self._parts:
            return self._stored.shape(name)
        if name not in self._shapes:
            self._shapes[name] = self._matrix(name).shape
        return self._shapes[name]

    def tensor(self, name: str) -> Tensor:
        """One tensor, a quantised one as float32. Raises LoadError if it is not there."""
        if name not in self._parts:
            return self._stored.tensor(name)
        return torch.cat(list(self._matrix(name).pieces()))

    def pieces(self, name: str) -> Iterator[Tensor]:
        """The same, some rows at a time. Raises LoadError if it is not there."""
        if name not in self._parts:
            return self._stored.pieces(name)
        return self._matrix(name).pieces()

    def packed(self, name: str) -> PackedTensor | None:
        """A quantised matrix in blocks that hold it exactly, another one as `_stored` has it."""
        if name not in self._parts:
            return self._stored.packed(name)
        matrix = self._matrix(name)
        if matrix.kind is None:
            self._tell(name, matrix.reason)
            return None
        return PackedTensor(matrix.kind, matrix.shape, matrix.packed_rows())

    def _matrix(self, name: str) -> Matrix:
        matrix = self._layout.matrix(self._parts[name])
        if 0 in matrix.shape:
            raise LoadError(
                f"{name} has the shape {list(matrix.shape)}, no weights; it is damaged."
            )
        return matrix

    def _tell(self, name: str, reason: str) -> None:
        """Say so once for each reason."""
        if reason not in self._told:
            log.info("%s and others are unpacked as they are loaded: %s", name, reason)
            self._told.add(reason)


def _activation_scales(names: frozenset[str]) -> set[str]:
    """Those of inputs, which are not rounded to eight bits here as their makers' kernels do."""
    scales = {name for name in names if name.rpartition(".")[2] in SCALES_OF_ACTIVATIONS}
    if scales:
        log.info("%d scales of activations have no use: activations stay floats", len(scales))
    return scales
