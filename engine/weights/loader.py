"""Copies a checkpoint's tensors into a model's parameters, one at a time. Knows no model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.errors import LoadError
from engine.weights.checkpoint import Checkpoint
from engine.weights.progress import Progress
from kernels.packed import PackedMatrix
from kernels.packing import can_pack, pack


class Loader:
    """One pass over a checkpoint. Memory peaks at the model and the few rows on their way there.

    `is_exact` says how products with weights that stay packed are to be made.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        total_bytes: int,
        progress: Progress | None,
        *,
        is_exact: bool = True,
    ) -> None:
        self.checkpoint = checkpoint
        self.total_bytes = total_bytes
        self.progress = progress
        self.is_exact = is_exact
        self.done_bytes = 0
        self._names = checkpoint.names()
        self._used: set[str] = set()

    def has(self, name: str) -> bool:
        """True if the checkpoint has a tensor of that name."""
        return name in self._names

    @torch.no_grad()
    def copy(self, name: str, target: Tensor) -> None:
        """Fill `target` with the tensor `name`, cast to its dtype.

        Raises LoadError if the tensor is not there or has another shape.
        """
        self._check_shape(name, target)
        start = 0
        for rows in self.checkpoint.pieces(name):
            if not rows.dim():  # a scalar has no rows
                target.copy_(rows)
                break
            target[start : start + len(rows)].copy_(rows)
            start += len(rows)
        self._count(name, target)

    def packed(
        self, names: Sequence[str], targets: Sequence[Tensor]
    ) -> tuple[PackedMatrix, ...] | None:
        """The tensors `names` as packed matrices, in the place of `targets`.

        None unless all are stored in blocks that this machine has kernels for. Raises LoadError as
        `copy` does.
        """
        if any(target.device.type != "cpu" for target in targets):
            return None
        tensors = [self.checkpoint.packed(name) for name in names]
        found = [tensor for tensor in tensors if tensor is not None]
        if len(found) < len(tensors) or not all(can_pack(t.kind, t.shape[1]) for t in found):
            return None
        matrices = []
        for name, target, tensor in zip(names, targets, found, strict=True):
            self._check_shape(name, target)
            num_rows, num_columns = target.shape
            matrices.append(pack(tensor.kind, num_rows, num_columns, tensor.pieces))
            self._count(name, target)
        return tuple(matrices)

    def _check_shape(self, name: str, target: Tensor) -> None:
        if (shape := self.checkpoint.shape(name)) != target.shape:
            raise LoadError(
                f"{name} has the shape {list(shape)}, but by the model's configuration it "
                f"is {list(target.shape)}; the files do not belong together."
            )

    def _count(self, name: str, target: Tensor) -> None:
        self._used.add(name)
        self.done_bytes += target.nbytes
        if self.progress is not None:
            self.progress(self.done_bytes, self.total_bytes)

    def check_unused(self, spare: Sequence[str]) -> None:
        """Raise LoadError if a tensor was not used whose name does not end in one of `spare`.

        Such a tensor, a bias for example, would make another model of it without a sign.
        """
        unused = self._names - self._used
        unknown = sorted(
            name
            for name in unused
            if not name.endswith(tuple(spare)) and not self._adds_nothing(name)
        )
        if unknown:
            architecture = self.checkpoint.config.architecture
            raise LoadError(
                f"The checkpoint has {len(unknown)} tensors that {architecture} does not use, for "
                f"example {unknown[0]}; it is a variant that is not supported."
            )

    def _adds_nothing(self, name: str) -> bool:
        """AutoGPTQ wrote biases of zeros where a model has none."""
        return name.endswith(".bias") and not self.checkpoint.tensor(name).any()
