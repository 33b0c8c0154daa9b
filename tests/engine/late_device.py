"""A device for decode graphs on a CPU, as unhelpful as a GPU: it acts late, and replays blindly.

A capture notes each operation with the very tensors that it had. A replay does those again on the
same memory, so what a body read of the host stays as it was, and what it kept elsewhere is not
there. Nothing runs before somebody waits or uploads.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What a stream in capture refuses, as the host would have to wait for its outcome.
HOST_READS = (
    *("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount"),
    *("repeat_interleave", "is_nonzero", "equal", "item"),
)
_POISON = {torch.int64: -(10**9), torch.float32: float("nan")}


class Refusing(TorchDispatchMode):
    """Raises where the host reads from the device, or copies between the two."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in HOST_READS, f"{func} waits for the device"
        output = func(*args, **(kwargs or {}))
        devices = {leaf.device.type for leaf in tree_leaves((args, output)) if _has_rows(leaf)}
        assert len(devices) < 2, f"{func} is on {devices}"
        return output


def _has_rows(leaf: object) -> bool:
    """Scalars of the host are arguments of a kernel like any number."""
    return isinstance(leaf, Tensor) and leaf.dim() > 0


class Recorder(TorchDispatchMode):
    """Notes operations with their tensors, and does them again."""

    def __init__(self) -> None:
        super().__init__()
        self._notes: list[tuple[Any, Any, Any, list[tuple[int, Tensor]]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        known = {_storage(leaf) for leaf in tree_leaves((args, kwargs)) if _is_tensor(leaf)}
        made = [
            (place, leaf)
            for place, leaf in enumerate(tree_leaves(output))
            if _is_tensor(leaf) and _storage(leaf) not in known
        ]
        if made or func._schema.is_mutable:  # else a view, which is there for good
            self._notes.append((func, args, kwargs, made))
        return output

    def replay(self) -> None:
        for func, args, kwargs, made in self._notes:
            leaves = tree_leaves(func(*args, **kwargs))
            for place, output in made:
                output.copy_(leaves[place])


def _is_tensor(leaf: object) -> bool:
    return isinstance(leaf, Tensor)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _record(body: Callable[[], None]) -> Callable[[], None]:
    recorder = Recorder()
    with Refusing(), recorder:
        body()
    return recorder.replay


def _copy(source: Tensor, target: Tensor) -> None:
    target.copy_(source)


class LateDevice:
    """Satisfies `GraphDevice`. `outputs` are filled with nonsense before each replay.

    `log` says in which order ids were asked for and waited for. Unless it `records`, a replay runs
    the body again: kernels that are not torch's cannot be noted.
    """

    device = torch.device("cpu")

    def __init__(self, *, records: bool = True) -> None:
        self.outputs: list[Tensor] = []
        self._records = records
        self.log: list[str] = []
        self.num_captures = 0
        self._queue: list[Callable[[], None]] = []
        self._num_fetches = 0

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        body()
        replay = _record(body) if self._records else body
        self.num_captures += 1

        def run() -> None:
            for output in self.outputs:
                output.fill_(_POISON[output.dtype])
            replay()

        return lambda: self._queue.append(run)

    def forget(self) -> None:
        self.drain()

    def upload(self, values: NDArray[Any]) -> Tensor:
        self.drain()
        return torch.from_numpy(np.array(values, order="C"))

    def fetch(self, ids: Tensor) -> Callable[[], list[int]]:
        self._num_fetches += 1
        name, buffer = self._num_fetches, torch.full_like(ids, _POISON[ids.dtype])
        self._queue.append(lambda: _copy(ids, buffer))
        self.log.append(f"launch {name}")

        def wait() -> list[int]:
            self.log.append(f"wait {name}")
            self.drain()
            token_ids: list[int] = buffer.tolist()
            return token_ids

        return wait

    def used_bytes(self) -> int:
        return 0

    def drain(self) -> None:
        """Do all that was told. What runs outside of graphs has to wait for it too."""
        queue, self._queue = self._queue, []
        with torch.inference_mode():
            for run in queue:
                run()
