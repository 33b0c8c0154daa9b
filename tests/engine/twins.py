"""Kernels answered by their twins: a launcher checks its arguments, the reference computes.

The interpreter takes a second for what the reference does in a millisecond. Packed matrices are
remembered in the rows that they were made of, so that nothing of a GPU's layout is in an answer.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from kernels.packed import PackedMatrix
from kernels.packing import pack_in_planes
from tests.engine.on_device import OnDevice, PretendedCuda, held_of
from tests.engine.pretend_cuda import pretend_cuda

# Files of kernels, and the launcher in them.
LAUNCHERS = {
    **{name: name for name in ("add_rms_norm", "decode_attention", "gelu_mul", "grouped_linear")},
    **{name: name for name in ("lora_expand", "lora_shrink", "packed_grouped_linear")},
    **{name: name for name in ("packed_linear", "packed_rows", "paged_attention", "rms_norm")},
    **{name: name for name in ("rotary", "sample", "silu_mul", "uniform_quads")},
    **{name: name for name in ("varlen_attention", "write_heads", "write_kv")},
    "philox": "uniform",
}


class Rows:
    """The matrices that were packed, in rows of blocks."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[PackedMatrix, PackedMatrix]] = {}

    def pack(
        self,
        kind: int,
        num_rows: int,
        num_columns: int,
        pieces: Iterable[Tensor],
        device: torch.device,
    ) -> PackedMatrix:
        """As kernels.packing.pack_in_planes."""
        kept = [piece.clone() for piece in pieces]
        made = pack_in_planes(kind, num_rows, num_columns, kept, device)
        in_rows = PackedMatrix(kind, num_rows, num_columns, torch.cat(kept))
        self._found[id(made.planes)] = (made, in_rows)  # `made` keeps its id its own
        return made

    def on_host(self, value: Any) -> Any:
        """An argument as a reference takes it."""
        if isinstance(value, PackedMatrix):
            return self._found[id(value.planes)][1]
        return held_of(value)


@contextlib.contextmanager
def twins_on_cuda(num_devices: int = 1) -> Iterator[PretendedCuda]:
    """As `pretend_cuda`, with the kernels' twins in the place of the interpreter."""
    rows = Rows()
    with pretend_cuda(num_devices) as cuda, pytest.MonkeyPatch.context() as patch:
        cuda.runs_kernels = False
        patch.setattr("engine.weights.loader.pack_in_planes", rows.pack)
        for file, name in LAUNCHERS.items():
            launch = getattr(importlib.import_module(f"kernels.{file}"), name)
            truth = getattr(importlib.import_module(f"kernels.reference.{file}"), name)
            patch.setattr(f"kernels.{file}.{name}", _answering(cuda, launch, truth, rows))
        yield cuda


def _answering(
    cuda: PretendedCuda, launch: Callable[..., Any], truth: Callable[..., Any], rows: Rows
) -> Callable[..., Any]:
    """The launcher, whose results are the twin's."""

    def answer(*args: Any) -> Any:
        made = launch(*args)
        given = tree_map(rows.on_host, args, is_leaf=_is_matrix)
        results = [leaf for leaf in tree_leaves(made) if isinstance(leaf, OnDevice)]

        def compute() -> None:
            expected = [leaf for leaf in tree_leaves(truth(*given)) if isinstance(leaf, Tensor)]
            for result, values in zip(results, expected, strict=True):
                assert (result.shape, result.dtype) == (values.shape, values.dtype)
                result.held.copy_(values)

        cuda.do(compute)
        return made

    return answer


def _is_matrix(value: object) -> bool:
    return isinstance(value, PackedMatrix)
