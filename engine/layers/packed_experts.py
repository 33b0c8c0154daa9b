"""Experts whose matrices stay packed: their loading and their product; not the router."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from engine.weights.loader import Loader, in_planes
from kernels import ops
from kernels.packed import PackedMatrix


class PackedExperts(NamedTuple):
    """On a CPU: of each expert gate and up, stacked or apart, and down."""

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


class JoinedExperts(NamedTuple):
    """On a GPU: all experts' gates and ups, those of each together, and all downs."""

    gate_up: PackedMatrix  # [E * 2I, H]
    down: PackedMatrix  # [E * H, I]

    def __call__(self, rows: Tensor, starts: Tensor, gate: Callable[[Tensor], Tensor]) -> Tensor:
        """As `PackedExperts`, without a word to the host of how rows are divided."""
        inner = gate(ops.packed_grouped_linear(rows, self.gate_up, starts))
        return ops.packed_grouped_linear(inner, self.down, starts)


def load_packed(
    loader: Loader, prefix: str, names: Sequence[str], gate_up: Tensor, down: Tensor
) -> PackedExperts | JoinedExperts | None:
    """The experts below `prefix` in the place of gate_up [E, 2I, H] and down [E, H, I].

    None unless all of them stay packed, and on a GPU those that are multiplied together are of one
    kind, for which they may not be HQQ. `names` are gate, up and down where each expert has three
    tensors. Raises LoadError as `Loader` does.
    """
    stacks = {f"{prefix}.gate_up_proj": gate_up, f"{prefix}.down_proj": down}
    if all(map(loader.has, stacks)):
        if not loader.can_pack(tuple(stacks), tuple(stacks.values())):
            return None
        if in_planes(down.device):
            return _load_joined(loader, prefix, [(name, stacks[name]) for name in stacks], 1)
        both, downs = (loader.packed_stack(name, target) for name, target in stacks.items())
        return PackedExperts([(matrix,) for matrix in both], downs, loader.is_exact)
    parts = tuple(expert_parts(prefix, names, gate_up, down))
    if not loader.can_pack([name for name, _ in parts], [target for _, target in parts]):
        return None
    if in_planes(down.device):
        return _load_joined(loader, prefix, parts, 2)
    matrices = [loader.packed_one(name, target) for name, target in parts]
    return PackedExperts(
        list(zip(matrices[0::3], matrices[1::3], strict=True)), matrices[2::3], loader.is_exact
    )


def _load_joined(
    loader: Loader, prefix: str, parts: Sequence[tuple[str, Tensor]], num_gates: int
) -> JoinedExperts | None:
    """`parts` are, again and again, `num_gates` tensors of gates and ups and one of downs."""
    step = num_gates + 1
    gates = [part for place, part in enumerate(parts) if place % step < num_gates]
    both = [list(zip(*some, strict=True)) for some in (gates, parts[num_gates::step])]
    if not all(loader.can_join(names) for names, _ in both):
        loader.warn_of_unpacked_experts(prefix)
        return None
    return JoinedExperts(*(loader.packed_below(*some) for some in both))


def expert_parts(
    prefix: str, names: Sequence[str], gate_up: Tensor, down: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of each expert that has three, gate, up and down, and what each fills."""
    inner_size = down.shape[2]
    for expert, both in enumerate(gate_up):
        gate, up = both[:inner_size], both[inner_size:]
        for name, target in zip(names, (gate, up, down[expert]), strict=True):
            yield f"{prefix}.{expert}.{name}.weight", target
