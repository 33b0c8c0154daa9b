"""The layers of a decoder with packed weights on a CPU: one call of the library."""

from collections.abc import Sequence

from torch import Tensor

from kernels.cpu.native.bindings import load_library
from kernels.cpu.native.layers import can_take, run_layers
from kernels.packed import PackedStack


def is_native(x: Tensor, stack: PackedStack, caches: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """Whether `packed_layers` can be asked."""
    return can_take(x, stack, caches)


def packed_layers(
    x: Tensor,
    stack: PackedStack,
    rotations: Sequence[tuple[Tensor, Tensor]],
    caches: Sequence[tuple[Tensor, Tensor]],
    slots: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lengths: Tensor,
) -> tuple[Tensor, Tensor]:
    """As kernels/reference/packed_layers.py; a decode's bits do not depend on its neighbours."""
    library = load_library()
    assert library is not None
    sequences = (block_tables, query_starts, context_lengths)
    return run_layers(library, x, stack, rotations, caches, slots, sequences)
