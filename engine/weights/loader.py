"""Copies a checkpoint's tensors into a model's parameters, one at a time. Knows no model."""

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from gguf.constants import GGMLQuantizationType as Type
from torch import Tensor

from engine.errors import LoadError
from engine.weights.checkpoint import Checkpoint, PackedTensor
from engine.weights.contents import Contents, kind_name
from engine.weights.progress import Progress
from kernels.packed import HQQ4, HQQ8, PackedMatrix
from kernels.packing import can_pack, has_planes, pack, pack_in_planes

logger = logging.getLogger(__name__)
FLOAT_KINDS = (int(Type.F16), int(Type.BF16))
# A model of fewer bytes is not worth the minute in which kernels for these are first compiled.
MANY_BYTES = 128 << 20


def in_planes(device: torch.device) -> bool:
    """Whether matrices stay packed as a GPU's kernels take them."""
    return device.type != "cpu"


class Loader:
    """One pass over a checkpoint. Memory peaks at the model and the few rows on their way there.

    `is_exact` says how products with weights that stay packed are to be made. `contents` is what
    the model consists of so far.
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
        self.contents = Contents()
        self._names = checkpoint.names()
        self._used: set[str] = set()
        self._has_warned = False

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
            self._tell(start * (target.nbytes // max(1, len(target))))
        self._count(name, target, str(target.dtype).removeprefix("torch."), target.nbytes)

    def packed(
        self, names: Sequence[str], targets: Sequence[Tensor]
    ) -> tuple[PackedMatrix, ...] | None:
        """The tensors `names` as packed matrices, in the place of `targets`.

        On a GPU neighbours of one kind are one matrix, but for HQQ's. None unless `can_pack`.
        Raises LoadError as `copy` does.
        """
        if not self.can_pack(names, targets):
            return None
        if not in_planes(targets[0].device):
            return tuple(map(self.packed_one, names, targets))
        runs = groupby(zip(names, targets, strict=True), lambda pair: self._run(pair[0]))
        return tuple(self.packed_below(*zip(*run, strict=True)) for _, run in runs)

    def packed_one(self, name: str, target: Tensor) -> PackedMatrix:
        """The tensor `name` as a packed matrix. Ask `can_pack` first."""
        (matrix,) = self.packed_stack(name, target)
        return matrix

    def packed_stack(self, name: str, target: Tensor) -> tuple[PackedMatrix, ...]:
        """The matrices of a stack [E, O, I], or the one of [O, I]. Ask `can_pack` first."""
        tensor = self._stored(name, target)
        num_rows, num_columns = target.shape[-2:]
        pieces = self._counted(tensor.pieces, target)
        stack = ([piece] for piece in pieces) if target.dim() == 3 else (pieces,)
        matrices = tuple(pack(tensor.kind, num_rows, num_columns, matrix) for matrix in stack)
        num_bytes = sum(matrix.num_bytes for matrix in matrices)
        self._count(name, target, kind_name(tensor.kind), num_bytes)
        return matrices

    def packed_below(self, names: Sequence[str], targets: Sequence[Tensor]) -> PackedMatrix:
        """Tensors of one kind, [O, I] or stacks [E, O, I], one below the other, on a GPU."""
        device, num_columns = targets[0].device, targets[0].shape[-1]
        num_rows = sum(target.numel() // num_columns for target in targets)
        pieces = (
            piece
            for name, target in zip(names, targets, strict=True)
            for piece in self._counted(self._stored(name, target).pieces, target)
        )
        kind = self._kind(names[0])
        matrix = pack_in_planes(kind, num_rows, num_columns, pieces, device)
        for name, target in zip(names, targets, strict=True):
            share = matrix.num_bytes * (target.numel() // num_columns) // num_rows
            self._count(name, target, kind_name(kind), share)
        return matrix

    def can_join(self, names: Sequence[str]) -> bool:
        """Whether tensors that can be packed, stacks among them, can be one matrix."""
        kinds = set(map(self._kind, names))
        return len(kinds) == 1 and not kinds & {HQQ4, HQQ8}

    def warn_of_unpacked_experts(self, prefix: str) -> None:
        """Say, once a model, that experts cannot be joined and take more memory for that."""
        if not self._has_warned:
            logger.warning(
                "experts are unpacked, at %s and maybe elsewhere: on a GPU the gates and ups of a "
                "layer have to be of one kind, and so have its downs, which may not be HQQ",
                prefix,
            )
        self._has_warned = True

    def _run(self, name: str) -> object:
        """Equal for tensors that can be one matrix. HQQ's parts are those of one tensor."""
        kind = self._kind(name)
        return (kind, name) if kind in (HQQ4, HQQ8) else kind

    def _kind(self, name: str) -> int:
        tensor = self.checkpoint.packed(name)
        assert tensor is not None, "can_pack said so"
        return tensor.kind

    def _stored(self, name: str, target: Tensor) -> PackedTensor:
        self._check_shape(name, target)
        tensor = self.checkpoint.packed(name)
        assert tensor is not None, "can_pack said so"
        return tensor

    def can_pack(self, names: Sequence[str], targets: Sequence[Tensor]) -> bool:
        """Whether all of `names` are in blocks that stay as they are on the targets' device.

        That is where it has kernels for them or, on a CPU, the checkpoint says that they must.
        """
        stays = self._stays_in_planes if in_planes(targets[0].device) else self._stays
        return all(map(stays, map(self.checkpoint.packed, names)))

    def _stays_in_planes(self, tensor: PackedTensor | None) -> bool:
        return tensor is not None and has_planes(tensor.kind)

    def _stays(self, tensor: PackedTensor | None) -> bool:
        if tensor is None or tensor.must_stay:
            return tensor is not None
        if tensor.kind in FLOAT_KINDS and self.total_bytes < MANY_BYTES:
            return False
        return can_pack(tensor.kind, tensor.shape[-1])

    def _counted(self, pieces: Iterator[Tensor], target: Tensor) -> Iterator[Tensor]:
        """The same, telling the progress of each."""
        rows = 0
        for piece in pieces:
            yield piece
            rows += len(piece)
            self._tell(rows * target.shape[-1] * target.itemsize)

    def _check_shape(self, name: str, target: Tensor) -> None:
        if (shape := self.checkpoint.shape(name)) != target.shape:
            raise LoadError(
                f"{name} has the shape {list(shape)}, but by the model's configuration it "
                f"is {list(target.shape)}; the files do not belong together."
            )

    def _count(self, name: str, target: Tensor, kind: str, num_bytes: int) -> None:
        self._used.add(name)
        self.contents.add(kind, num_bytes)
        self.done_bytes += target.nbytes
        self._tell(0)

    def _tell(self, more_bytes: int) -> None:
        """Of the tensor that is being read, so much has come."""
        if self.progress is not None:
            self.progress(self.done_bytes + more_bytes, self.total_bytes)

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
