"""Experts whose matrices stay packed, on a CPU: their loading and their product; not the router."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from engine.weights.loader import Loader
from kernels import ops
from kernels.packed import PackedMatrix


class PackedExperts(NamedTuple):
    """Of each expert gate and up, stacked or apart, and down."""

    gate_up: Sequence[Sequence[PackedMatrix]]
    down: Sequence[PackedMatrix]
    is_exact: bool

    def __call__(self, rows: Tensor, starts: Tensor, gate: Callable[[Tensor], Tensor]) -> Tensor:
        """Expert e's MLP of rows starts[e]:starts[e + 1] of [R, hidden]; returns [R, hidden].

        An expert without rows costs nothing.
        """
        output = torch.empty_like(rows)
        bounds = starts.tolist()
        for expert, (start, end) in enumerate(pairwise(bounds)):
            if start < end:
                own = rows[start:end]
                inner = gate(ops.packed_linear(own, self.gate_up[expert], self.is_exact))
                down = (self.down[expert],)
                output[start:end] = ops.packed_linear(inner, down, self.is_exact)
        return output


def load_packed(
    loader: Loader, prefix: str, names: Sequence[str], gate_up: Tensor, down: Tensor
) -> PackedExperts | None:
    """The experts below `prefix` in the place of gate_up [E, 2I, H] and down [E, H, I].

    None unless all of them stay packed. `names` are gate, up and down where each expert has three
    tensors. Raises LoadError as `Loader` does.
    """
    stacks = {f"{prefix}.gate_up_proj": gate_up, f"{prefix}.down_proj": down}
    if all(map(loader.has, stacks)):
        if not loader.can_pack(tuple(stacks), tuple(stacks.values())):
            return None
        both, downs = (loader.packed_stack(name, target) for name, target in stacks.items())
        return PackedExperts([(matrix,) for matrix in both], downs, loader.is_exact)
    parts = tuple(expert_parts(prefix, names, gate_up, down))
    if not loader.can_pack([name for name, _ in parts], [target for _, target in parts]):
        return None
    matrices = [loader.packed_one(name, target) for name, target in parts]
    return PackedExperts(
        list(zip(matrices[0::3], matrices[1::3], strict=True)), matrices[2::3], loader.is_exact
    )


def expert_parts(
    prefix: str, names: Sequence[str], gate_up: Tensor, down: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of each expert that has three, gate, up and down, and what each fills."""
    inner_size = down.shape[2]
    for expert, both in enumerate(gate_up):
        gate, up = both[:inner_size], both[inner_size:]
        for name, target in zip(names, (gate, up, down[expert]), strict=True):
            yield f"{prefix}.{expert}.{name}.weight", target
