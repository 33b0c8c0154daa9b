"""The parts of the GPU bench: their order, their time, and where their cases are."""

from collections.abc import Mapping
from importlib import import_module
from typing import NamedTuple

from tests.bench.on_gpu.setting import Case, Setting


class Part(NamedTuple):
    """`seconds` at most when others are to follow, and the function that has its cases."""

    seconds: float
    module: str
    function: str = "cases"

    def cases(self, setting: Setting) -> list[Case]:
        """Imported now: Triton must know before whether it compiles."""
        found: list[Case] = getattr(import_module(self.module), self.function)(setting)
        return found


# In the order in which they are wanted, should time run out.
PARTS: Mapping[str, Part] = {
    "ceilings": Part(40, "tests.bench.on_gpu.ceilings"),
    "decode": Part(150, "tests.bench.on_gpu.decode"),
    "transformers": Part(75, "tests.bench.on_gpu.throughput", "peer_cases"),
    "throughput": Part(60, "tests.bench.on_gpu.throughput", "offline_cases"),
    "kernels": Part(210, "tests.bench.on_gpu.kernels_part"),
    "smoke": Part(90, "tests.bench.on_gpu.smoke"),
}
