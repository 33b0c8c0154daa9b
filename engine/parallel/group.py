"""The processes that share a model, and the sums between them. Knows no steps."""

import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.errors import LoadError
from engine.layers.attention import Attention
from engine.layers.experts import Experts
from engine.layers.mlp import MLP, GatedMLP
from engine.parallel.shard import Shard

_BLOCKS = (Attention, Experts, GatedMLP, MLP)  # each narrows again what it widened: a sum follows
_JOIN = timedelta(seconds=120)
# An idle group waits in its next broadcast. A process that dies ends it at once; one that hangs is
# for whoever watches the engine.
_IDLE = timedelta(days=3650)
_LOOK_S = 0.05


class Group:
    """One process' end of the group: `control` for what the host reads, `data` for the device."""

    def __init__(self, shard: Shard, folder: Path, device: torch.device) -> None:
        """Meets the others by a file in `folder`. Raises LoadError if they do not come."""
        self.shard = shard
        self.device = device
        # All are on this machine: no port is open to others.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        store = dist.FileStore(str(folder / "store"), shard.size)
        store.set_timeout(_JOIN)
        self._store = store
        options = {"rank": shard.rank, "world_size": shard.size, "timeout": _IDLE}
        try:
            dist.init_process_group("gloo", store=store, **options)
            self.data: dist.ProcessGroup | None = None
            if device.type == "cuda":
                torch.cuda.set_device(device)
                self.data = dist.new_group(backend="nccl", timeout=_IDLE)
        except RuntimeError as error:
            raise LoadError(
                f"The {shard.size} processes of --tensor-parallel did not meet: {error}"
            ) from error

    def broadcast_ints(self, values: Sequence[int], count: int) -> list[int]:
        """What the first process has in `values`: `count` numbers, on the host."""
        tensor = torch.tensor(values, dtype=torch.int64)
        if self.shard.rank:
            tensor = torch.empty(count, dtype=torch.int64)
        dist.broadcast(tensor, 0)
        numbers: list[int] = tensor.tolist()
        return numbers

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The first process' `tensor` on everyone's device, in place."""
        dist.broadcast(tensor, 0, group=self.data)
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
        texts = (self._store.get(name).decode() for name in names)
        return next(filter(None, texts), "")

    def add_up(self, model: nn.Module) -> None:
        """Have each block of `model` give the sum over all processes."""

        def add(_block: nn.Module, _inputs: tuple[object, ...], output: Tensor) -> Tensor:
            dist.all_reduce(output, group=self.data)
            return output

        for module in model.modules():
            if isinstance(module, _BLOCKS):
                module.register_forward_hook(add)

    def leave(self) -> None:
        """The end of it."""
        dist.destroy_process_group()
