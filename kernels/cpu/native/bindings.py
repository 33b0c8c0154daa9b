"""The C++ library from Python: weights into tiles, products and rows of them. Knows no model."""

import ctypes
import logging
from collections.abc import Sequence
from ctypes import Array, Structure
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.cpu.native.attention import AttentionCall
from kernels.cpu.native.build import BuildError, build
from kernels.packed import PackedMatrix

log = logging.getLogger(__name__)

TILE_ROWS = 16
_ALIGNMENT = 64


class _Weight(ctypes.Structure):
    _fields_ = (("tiles", ctypes.c_void_p), ("type", ctypes.c_long), ("rows", ctypes.c_long))


class Library:
    """The functions of one build. `path` says which instructions it uses."""

    def __init__(self, file: Path) -> None:
        """Raises OSError if the file is no library for this machine.

        It takes libgomp.so.1, which torch has loaded already: there is one pool of threads.
        """
        self.functions = self._lib = lib = ctypes.CDLL(str(file))
        pointer, number, whole = ctypes.c_void_p, ctypes.c_int, ctypes.c_long
        lib.tr_path.restype = ctypes.c_char_p
        lib.tr_tiles_bytes.restype = whole
        lib.tr_tiles_bytes.argtypes = (number, whole, whole)
        lib.tr_repack.restype = lib.tr_rows.restype = lib.tr_linear.restype = None
        lib.tr_repack.argtypes = (number, pointer, whole, whole, number, pointer)
        lib.tr_rows.argtypes = (pointer, whole, pointer, whole, pointer)
        lib.tr_linear.argtypes = (pointer, number, pointer, whole, whole, number, number, pointer)
        real = ctypes.c_float
        lib.tr_rms_norm.restype = lib.tr_gate.restype = lib.tr_attention.restype = None
        self._rms_norm = lib.tr_rms_norm
        lib.tr_rms_norm.argtypes = (*(pointer,) * 3, real, whole, whole, number, pointer, pointer)
        lib.tr_gate.argtypes = (pointer, whole, whole, number, number, pointer)
        lib.tr_attention.argtypes = (pointer, number)
        self._uniform, self._uniform_quads = lib.tr_uniform, lib.tr_uniform_quads
        self._uniform.restype = self._uniform_quads.restype = None
        self._uniform.argtypes = (*(pointer,) * 3, whole, whole, pointer)
        self._uniform_quads.argtypes = (*(pointer,) * 5, whole, pointer)
        self._mlp, self._attention_block = lib.tr_mlp, lib.tr_attention_block
        self._mlp.restype = self._attention_block.restype = None
        self._mlp.argtypes = (pointer, pointer, number, pointer, whole, number, pointer)
        self._attention_block.argtypes = (*(pointer,) * 4, whole, number, pointer)
        self._layers = lib.tr_layers
        self._layers.restype = None
        self._layers.argtypes = (pointer, whole, pointer, pointer, whole, whole, number) + (
            (pointer,) * 2
        )
        self.path: str = lib.tr_path().decode()

    def tiles_bytes(self, kind: int, num_rows: int, num_columns: int) -> int:
        """What the tiles of such a matrix take; 0 if the library has no such GGML type."""
        return int(self._lib.tr_tiles_bytes(kind, num_rows, num_columns))

    def empty(self, kind: int, num_rows: int, num_columns: int) -> PackedMatrix:
        """A matrix whose tiles are still to be written by `repack`."""
        num_bytes = self.tiles_bytes(kind, num_rows, num_columns)
        memory = torch.empty(num_bytes + _ALIGNMENT, dtype=torch.uint8)
        offset = -memory.data_ptr() % _ALIGNMENT
        tiles = memory[offset : offset + num_bytes]
        return PackedMatrix(kind, num_rows, num_columns, tiles, is_tiled=True)

    def repack(self, matrix: PackedMatrix, first_row: int, blocks: Tensor) -> None:
        """Write the tiles of some rows, given as the file has them: uint8 [rows, bytes].

        `first_row` is a multiple of TILE_ROWS, and so are the rows unless they are the last.
        """
        before = self.tiles_bytes(matrix.kind, first_row, matrix.num_columns)
        columns, threads = matrix.num_columns, torch.get_num_threads()
        target = matrix.data.data_ptr() + before
        self._lib.tr_repack(matrix.kind, blocks.data_ptr(), len(blocks), columns, threads, target)

    def rows(self, matrix: PackedMatrix, indices: Tensor) -> Tensor:
        """Rows of a tiled matrix [N, columns] float32; indices [N] int64, which must be valid."""
        indices = indices.contiguous()
        output = torch.empty(len(indices), matrix.num_columns)
        self._lib.tr_rows(
            ctypes.byref(_weight(matrix)),
            matrix.num_columns,
            indices.data_ptr(),
            len(indices),
            output.data_ptr(),
        )
        return output

    def linear(self, x: Tensor, weights: Sequence[PackedMatrix], is_exact: bool) -> Tensor:
        """x [T, I] times tiled matrices [O, I], side by side: [T, sum of O] float32."""
        x = x.float().contiguous()
        num_rows, num_columns = x.shape
        output = torch.empty(num_rows, sum(weight.num_rows for weight in weights))
        self._lib.tr_linear(
            weights_of(weights),
            len(weights),
            x.data_ptr(),
            num_rows,
            num_columns,
            is_exact,
            torch.get_num_threads(),
            output.data_ptr(),
        )
        return output

    def rms_norm(
        self, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        """`h = x + residual`, or x itself without one; (RMSNorm of h, h). All float32."""
        x = x.contiguous()
        output, hidden, residual_pointer = torch.empty_like(x), x, None
        if residual is not None:
            residual, hidden = residual.contiguous(), torch.empty_like(x)
            residual_pointer = residual.data_ptr()
        size = weight.shape[0]
        self._rms_norm(
            *(x.data_ptr(), residual_pointer, weight.data_ptr(), eps),
            *(x.numel() // size, size, torch.get_num_threads()),
            *(hidden.data_ptr(), output.data_ptr()),
        )
        return output, hidden

    def gate(self, gate_up: Tensor, is_gelu: bool) -> Tensor:
        """`act(gate) * up` [T, I] of gate_up [T, 2I] float32; SiLU, or GELU by tanh."""
        gate_up = gate_up.contiguous()
        num_rows, width = gate_up.shape
        output = torch.empty(num_rows, width // 2)
        threads = torch.get_num_threads()
        pointers = gate_up.data_ptr(), output.data_ptr()
        self._lib.tr_gate(pointers[0], num_rows, width // 2, is_gelu, threads, pointers[1])
        return output

    def uniform(self, seeds: Tensor, choices: Tensor, positions: Tensor, num: int) -> Tensor:
        """Rows of `num` uniforms; the keys [S] int64."""
        given = [tensor.contiguous() for tensor in (seeds, choices, positions)]
        num_rows, num_quads = seeds.shape[0], -(-num // 4)
        output = torch.empty(num_rows, 4 * num_quads)
        pointers = (tensor.data_ptr() for tensor in given)
        self._uniform(*pointers, num_rows, num_quads, output.data_ptr())
        return output[:, :num]

    def uniform_quads(self, keys: Sequence[Tensor], rows: Tensor, quads: Tensor) -> Tensor:
        """Elements 4q to 4q + 3 of rows of uniforms [N, 4]; `keys` are seeds, choices, positions.

        All int64, `rows` [N] valid places in the keys.
        """
        given = [tensor.contiguous() for tensor in (*keys, rows, quads)]
        output = torch.empty(len(quads), 4)
        self._uniform_quads(*(t.data_ptr() for t in given), len(quads), output.data_ptr())
        return output

    def attention(self, call: AttentionCall) -> None:
        """Attend as `call` says, which makes sure that its pointers are good."""
        self._lib.tr_attention(ctypes.byref(call), torch.get_num_threads())

    def mlp(
        self, gate_up: Structure, down: Structure, is_gelu: bool, x: int, num_rows: int, out: int
    ) -> None:
        """`tr_mlp` of block.cpp; `x` and `out` are addresses. block.py has it for tensors."""
        threads, by = torch.get_num_threads(), ctypes.byref
        self._mlp(by(gate_up), by(down), is_gelu, x, num_rows, threads, out)

    def attention_block(
        self, qkv: Structure, output: Structure, call: Structure, x: int, num_rows: int, out: int
    ) -> None:
        """`tr_attention_block` of block.cpp; `x` and `out` are addresses, as above."""
        threads, by = torch.get_num_threads(), ctypes.byref
        self._attention_block(by(qkv), by(output), by(call), x, num_rows, threads, out)

    def layers(
        self,
        layers: Array[Any],
        rotations: Array[Any],
        call: Structure,
        shape: Sequence[int],
        ends: tuple[int, int],
    ) -> None:
        """`tr_layers` of layers.cpp; `ends` are addresses. layers.py has it for tensors."""
        threads, turns = torch.get_num_threads(), ctypes.byref(rotations)
        self._layers(layers, len(layers), turns, ctypes.byref(call), *shape, threads, *ends)


def weights_of(matrices: Sequence[PackedMatrix]) -> Array[_Weight]:
    """Tiled matrices as C++ has them; they must outlive it."""
    return (_Weight * len(matrices))(*map(_weight, matrices))


def _weight(matrix: PackedMatrix) -> _Weight:
    return _Weight(matrix.data.data_ptr(), matrix.kind, matrix.num_rows)


_folder: Path | None = None


def keep_library_in(folder: Path) -> None:
    """Build the library there and look for it there, not below ~/.cache, unless it is loaded."""
    global _folder
    _folder = folder


@cache
def load_library() -> Library | None:
    """The library, built if need be; None, with a warning, where that cannot be."""
    try:
        library = Library(build(_folder or Path.home() / ".cache" / "tramontane" / "kernels"))
    except (BuildError, OSError, RuntimeError) as error:
        log.warning(
            "packed weights are unpacked, a file's as they are loaded and those that stay packed "
            "for each product, for there are no CPU kernels: %s; "
            "install g++ for a model that is smaller and faster",
            error,
        )
        return None
    log.info("CPU kernels for packed weights: %s", library.path)
    return library


def loaded_library() -> Library | None:
    """The library if packed weights have asked for it: nothing else is worth a build."""
    return load_library() if load_library.cache_info().currsize else None
