"""Stand-ins for torch.cuda's functions, streams and graphs, over the devices of on_device.py."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from tests.engine.on_device import TO_HOST, PretendedCuda

TOTAL_BYTES = 128 << 20  # what is free of it is allocated in earnest
CAPABILITY = (9, 0)


class Stream:
    """All work is done at once, so streams need not wait for each other."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device

    def wait_stream(self, other: "Stream") -> None:
        """Nothing to do."""


class Graph:
    """What a capture noted."""

    def __init__(self) -> None:
        self.notes: list[Callable[[], None]] = []

    @torch.inference_mode()
    def replay(self) -> None:
        """All of it again, on the same memory."""
        for note in self.notes:
            note()


def cuda_functions(cuda: PretendedCuda, num_devices: int) -> dict[str, Any]:
    """By their names in torch.cuda."""

    def set_device(device: int | torch.device) -> None:
        index = device.index if isinstance(device, torch.device) else device
        if index is None:
            raise ValueError(f"Expected a torch.device with a specified index, but got {device}")
        cuda.current = index

    class Event:
        """Of the work so far."""

        def record(self, stream: Stream | None = None) -> None:
            """Nothing to do."""

        def synchronize(self) -> None:
            """What is copied to pinned memory is there."""
            cuda.wait(TO_HOST)

    @contextlib.contextmanager
    def graph(made: Graph, *_: Any, **__: Any) -> Iterator[None]:
        assert cuda.capturer is None, "one capture at a time"
        cuda.notes, cuda.capturer = made.notes, threading.get_ident()
        try:
            yield
        finally:
            cuda.notes = cuda.capturer = None

    return {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: num_devices,
        "current_device": lambda: cuda.current,
        "set_device": set_device,
        "get_device_capability": lambda device=None: CAPABILITY,
        "synchronize": lambda device=None: cuda.wait("synchronize"),
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda device=None: None,
        "memory_allocated": lambda device=None: 1 << 20,
        "max_memory_allocated": lambda device=None: 3 << 20,
        "memory_reserved": lambda device=None: 4 << 20,
        "max_memory_reserved": lambda device=None: 6 << 20,
        "mem_get_info": lambda device=None: (TOTAL_BYTES // 2, TOTAL_BYTES),
        "Stream": Stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "current_stream": lambda device=None: Stream(device),
        "Event": Event,
        "CUDAGraph": Graph,
        "graph": graph,
        "graph_pool_handle": object,
    }


def pin(cuda: PretendedCuda) -> Callable[[Tensor], Tensor]:
    """For torch.Tensor.pin_memory."""

    def pin_memory(tensor: Tensor) -> Tensor:
        pinned = tensor.clone()
        cuda.pinned[pinned.untyped_storage().data_ptr()] = pinned
        return pinned

    return pin_memory
