"""The processes that share a model, and the sums between them. Knows no steps."""

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.errors import LoadError
from engine.layers.attention import Attention
from engine.layers.decoder import Decoder
from engine.layers.experts import Experts
from engine.layers.mlp import MLP, GatedMLP
from engine.parallel.shard import Shard

_BLOCKS = (Attention, Experts, GatedMLP, MLP)  # each narrows again what it widened: a sum follows
_JOIN = timedelta(seconds=120)
# An idle group waits in its next broadcast. A process that dies ends it at once; one that hangs is
# for whoever watches the engine.
_IDLE = timedelta(days=3650)
_LOOK_S = 0.05

# Groups of our own, not torch's default one: a process may have several engines. Their classes are
# not in its stubs.
_c10d: Any = dist


def _gloo(store: Any, shard: Shard) -> Any:
    options = _c10d.ProcessGroupGloo._Options()
    options._timeout = _IDLE
    # All are on this machine: no port is open to others.
    options._devices = [_c10d.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    store = _c10d.PrefixStore("control", store)
    return _c10d.ProcessGroupGloo(store, shard.rank, shard.size, options)


def _nccl(store: Any, shard: Shard) -> Any:
    store = _c10d.PrefixStore("data", store)
    options = _c10d.ProcessGroupNCCL.Options()
    return _c10d.ProcessGroupNCCL(store, shard.rank, shard.size, options)


class Group:
    """One process' end of the group: `control` for what the host reads, `data` for the device."""

    def __init__(self, shard: Shard, folder: Path, device: torch.device) -> None:
        """Meets the others by a file in `folder`. Raises LoadError if they do not come."""
        self.shard = shard
        self.device = device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self._store = _c10d.FileStore(str(folder / "store"), shard.size)
        self._store.set_timeout(_JOIN)
        try:
            self._control = _gloo(self._store, shard)
            self._data = self._control if device.type == "cpu" else _nccl(self._store, shard)
        except RuntimeError as error:
            raise LoadError(
                f"The {shard.size} processes of --tensor-parallel did not meet: {error}"
            ) from error

    def broadcast_ints(self, values: Sequence[int], count: int) -> list[int]:
        """What the first process has in `values`: `count` numbers, on the host."""
        tensor = torch.tensor(values, dtype=torch.int64)
        if self.shard.rank:
            tensor = torch.empty(count, dtype=torch.int64)
        self._control.broadcast(tensor, 0).wait()
        numbers: list[int] = tensor.tolist()
        return numbers

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The first process' `tensor` on everyone's device, in place."""
        self._data.broadcast(tensor, 0).wait()
        return tensor

    def settle(self, error: str, check: Callable[[], None] = lambda: None) -> str:
        """Tell the others how loading went here, "" for well; what the first one to fail said.

        `check` is called while they are not ready, and may raise.
        """
        self._store.set(f"loaded/{self.shard.rank}", error)
        names = [f"loaded/{rank}" for rank in range(self.shard.size)]
        while not self._store.check(names):
            check()
            time.sleep(_LOOK_S)
        texts = [self._store.get(name).decode() for name in names]
        if not any(texts):
            # Nobody may still be reading when the folder goes.
            self._control.barrier().wait()
        return next(filter(None, texts), "")

    def sum(self, tensor: Tensor) -> None:
        """Put the sum over all processes into `tensor`."""
        self._data.allreduce([tensor]).wait()


def add_up(model: Decoder, reduce: Callable[[Tensor], None]) -> None:
    """Have each block of `model` give the sum over all processes, which `reduce` makes in place."""

    def add(_block: nn.Module, _inputs: tuple[object, ...], output: Tensor) -> None:
        reduce(output)

    model.keep_layers_apart()
    for module in model.modules():
        if isinstance(module, _BLOCKS):
            module.register_forward_hook(add)
