"""What decode graphs need of a device: to capture, and to copy without waiting. Knows no model."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_WARM_UPS = 2  # the first compiles kernels and makes library handles, which no capture may


class GraphDevice(Protocol):
    """A device that does what it is told in that order, some time later."""

    device: torch.device

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        """A function that does again what `body` did on the device, with the same tensors."""

    def forget(self) -> None:
        """Nothing captured so far is used any more; waits for what still runs."""

    def upload(self, values: NDArray[Any]) -> Tensor:
        """A copy of an array on the device. The array may be changed at once."""

    def fetch(self, ids: Tensor) -> Callable[[], list[int]]:
        """Begin to copy int64 [N] to the host. The function waits for it; of the last two alone."""

    def used_bytes(self) -> int:
        """Memory in use on the device, everyone's."""


class CudaGraphDevice:
    """A CUDA device; graphs share one pool of memory, as none runs beside another."""

    def __init__(self, device: torch.device, max_ids: int) -> None:
        """Not more than `max_ids` are fetched at once."""
        self.device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        # A copy is read while the next one may be on its way: two buffers in turn.
        self._buffers = [torch.empty(max_ids, dtype=torch.int64).pin_memory() for _ in range(2)]
        self._events = [_event() for _ in self._buffers]
        self._turn = 0

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        """As `GraphDevice` has it."""
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                body()
        graph = torch.cuda.CUDAGraph()
        # Other threads may be loading weights or compiling grammars: their calls are not ours.
        mode = "thread_local"
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode=mode):
            body()
        torch.cuda.current_stream(self.device).wait_stream(self._stream)
        replay: Callable[[], None] = graph.replay
        return replay

    def forget(self) -> None:
        """As `GraphDevice` has it."""
        torch.cuda.synchronize(self.device)
        self._pool = torch.cuda.graph_pool_handle()
        torch.cuda.empty_cache()

    def upload(self, values: NDArray[Any]) -> Tensor:
        """As `GraphDevice` has it. Torch keeps the pinned copy until the device has read it."""
        pinned = torch.from_numpy(np.ascontiguousarray(values)).pin_memory()
        return pinned.to(self.device, non_blocking=True)

    def fetch(self, ids: Tensor) -> Callable[[], list[int]]:
        """As `GraphDevice` has it."""
        self._turn ^= 1
        buffer, event = self._buffers[self._turn][: len(ids)], self._events[self._turn]
        buffer.copy_(ids, non_blocking=True)
        event.record(torch.cuda.current_stream(self.device))

        def wait() -> list[int]:
            event.synchronize()
            token_ids: list[int] = buffer.tolist()
            return token_ids

        return wait

    def used_bytes(self) -> int:
        """As `GraphDevice` has it; what torch keeps for later is not in use."""
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self.device)
        return total - free


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]
