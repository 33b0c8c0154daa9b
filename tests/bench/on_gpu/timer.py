"""How long calls take on the device: CUDA events around replays of a graph, or a CPU's clock."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

Call = Callable[[], object]
_TIMED_US = 60_000.0  # of replays, for a figure
_MIN_CALLS_US = 400.0  # of a replay: events are some microseconds apart by themselves


class Timer(Protocol):
    """One device's clock."""

    def us(self, calls: Sequence[Call]) -> float:
        """The median microseconds of a call. Calls should touch different memory: caches are warm
        otherwise. They must not wait for the device.
        """

    def wait(self) -> None:
        """Until the device has done all that it was given."""


class CpuTimer:
    """Each call once, by the wall clock: shows that everything runs, measures nothing."""

    def us(self, calls: Sequence[Call]) -> float:
        """As `Timer` has it."""
        return statistics.median(_timed_us(call) for call in calls)

    def wait(self) -> None:
        """A CPU is done when a call returns."""


def _timed_us(call: Call) -> float:
    start = time.perf_counter()
    call()
    return 1e6 * (time.perf_counter() - start)


class CudaTimer:
    """Calls captured into one graph, so that launching them costs the host nothing."""

    def us(self, calls: Sequence[Call]) -> float:
        """As `Timer` has it."""
        graph = _capture(calls)
        once_us = _replay_us(graph)
        if once_us < _MIN_CALLS_US:
            calls = list(calls) * round(1 + _MIN_CALLS_US / max(once_us, 1.0))
            graph = _capture(calls)
            once_us = _replay_us(graph)
        repeats = max(5, min(50, round(_TIMED_US / once_us)))
        return statistics.median(_replay_us(graph) for _ in range(repeats)) / len(calls)

    def wait(self) -> None:
        """As `Timer` has it."""
        torch.cuda.synchronize()


def _capture(calls: Sequence[Call]) -> torch.cuda.CUDAGraph:
    """A graph of all calls. They run twice before: what is compiled then cannot be during it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in (*calls, *calls):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    torch.cuda.synchronize()
    return graph


def _replay_us(graph: torch.cuda.CUDAGraph) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    elapsed_ms: float = start.elapsed_time(end)
    return 1e3 * elapsed_ms
