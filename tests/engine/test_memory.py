"""What a device has, and what a run takes at its peak."""

import numpy as np
import pytest
import torch

from engine.capacity import available_bytes, total_bytes
from engine.errors import LoadError
from engine.memory import Memory, _process_peak, memory_of, peak_bytes

CPU = torch.device("cpu")
MB = 1_000_000


def test_a_cpu_has_what_the_machine_has():
    memory = memory_of(CPU)
    assert memory.total == total_bytes()
    assert 0.5 < memory.free / available_bytes() < 2
    assert str(Memory(1_500_000_000, 80_000_000_000)) == "1.50 of 80.00 GB free"


@pytest.mark.parametrize("size_mb", [0, 64, 256])
def test_the_peak_of_a_run_is_what_it_held_at_a_time_not_what_it_kept(size_mb):
    kept = np.ones(32 * MB, np.uint8)  # here before: not the run's

    def run():
        for _ in range(3):
            np.ones(size_mb * MB, np.uint8)

    peak = peak_bytes(CPU, run)
    assert size_mb * MB * 0.95 <= peak < size_mb * MB + 24 * MB
    assert kept.all()


def test_a_peak_of_long_ago_does_not_count():
    np.ones(256 * MB, np.uint8)
    assert peak_bytes(CPU, lambda: None) < 24 * MB


def test_where_it_cannot_be_measured_another_setting_is_named(tmp_path):
    with pytest.raises(LoadError, match="say --pa-gpu-mem or --pa-ctxt-len in its place"):
        _process_peak(lambda: None, tmp_path / "no proc")


class Gpu:
    """torch.cuda's counters of memory. A run takes and gives back by `take`."""

    def __init__(self, monkeypatch, total, free, reserved):
        self.total, self.free, self.reserved, self.peak = total, free, reserved, reserved
        self.calls = []
        for name in ("empty_cache", "reset_peak_memory_stats", "synchronize"):
            monkeypatch.setattr(torch.cuda, name, lambda *a, name=name: self.note(name))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (self.free, self.total))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: self.reserved)
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: self.peak)

    def note(self, name):
        self.calls.append(name)
        if name == "reset_peak_memory_stats":
            self.peak = self.reserved

    def take(self, size):
        self.peak = max(self.peak, self.reserved + size)


def test_a_gpu_says_itself_what_it_has_once_torch_has_given_back_what_it_can(monkeypatch):
    gpu = Gpu(monkeypatch, total=80, free=30, reserved=9)
    assert memory_of(torch.device("cuda")) == Memory(30, 80)
    assert gpu.calls == ["empty_cache"]


def test_a_gpus_peak_is_what_the_allocator_drew_beside_the_weights(monkeypatch):
    gpu = Gpu(monkeypatch, total=80, free=30, reserved=9)
    gpu.peak = 70  # while it loaded
    assert peak_bytes(torch.device("cuda"), lambda: gpu.take(13)) == 13
    assert gpu.calls == ["empty_cache", "reset_peak_memory_stats", "synchronize"]
