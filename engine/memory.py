"""How much memory a device has, and what a run takes of it at its peak. Knows no model."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from engine.capacity import available_bytes, total_bytes
from engine.errors import LoadError

_PROCESS = Path("/proc/self")
_FORGET_PEAK = "5"  # what /proc/PID/clear_refs takes for it, see proc(5)


class Memory(NamedTuple):
    """A device's, in bytes; what this and other processes hold is not `free`."""

    free: int
    total: int

    def __str__(self) -> str:
        return f"{self.free / 1e9:.2f} of {self.total / 1e9:.2f} GB free"


def memory_of(device: torch.device) -> Memory:
    """What the device has now. On CUDA nothing is counted as taken that torch could give back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return Memory(*torch.cuda.mem_get_info(device))
    return Memory(available_bytes(), total_bytes())


def peak_bytes(device: torch.device, run: Callable[[], None]) -> int:
    """The most that `run` takes at a time beside what is there. Raises LoadError on odd systems."""
    return _cuda_peak(device, run) if device.type == "cuda" else _process_peak(run)


def _cuda_peak(device: torch.device, run: Callable[[], None]) -> int:
    """What the allocator drew from the device: it takes whole segments, and has gaps in them."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_reserved(device) - before


def _process_peak(run: Callable[[], None], process: Path = _PROCESS) -> int:
    try:
        (process / "clear_refs").write_text(_FORGET_PEAK)
        before = _status_bytes(process, "VmRSS")
        run()
        return max(0, _status_bytes(process, "VmHWM") - before)
    except OSError as error:
        raise LoadError(
            "--pa-gpu-mem-usage on a CPU is measured through /proc, which cannot be used here "
            f"({error.strerror}); say --pa-gpu-mem or --pa-ctxt-len in its place."
        ) from error


def _status_bytes(process: Path, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", (process / "status").read_text(), re.MULTILINE)
    assert found is not None, "Linux has had both since 2.6"
    return int(found[1]) * 1024
