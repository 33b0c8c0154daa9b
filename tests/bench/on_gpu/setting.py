"""What a part is told: device, sizes, clock and ceilings. Knows no part."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from tests.bench.on_gpu.row import Ceilings, Row
from tests.bench.on_gpu.timer import CpuTimer, CudaTimer, Timer

T = TypeVar("T")


class Sizes(NamedTuple):
    """Of the kernels' part: Llama-3-8B's."""

    hidden: int = 4096
    inner: int = 14336
    num_heads: int = 32
    num_kv_heads: int = 8
    head_dim: int = 128
    vocab: int = 128256


TINY = Sizes(hidden=256, inner=128, num_heads=4, num_kv_heads=2, head_dim=32, vocab=512)


class Setting(NamedTuple):
    """`is_tiny`: shapes are shrunk, so that a CPU shows that everything runs. `engine` has what
    replaces the parts' own choice in EngineConfig.
    """

    device: torch.device
    is_tiny: bool
    timer: Timer
    ceilings: Ceilings | None = None
    engine: Mapping[str, object] = {}

    @property
    def sizes(self) -> Sizes:
        """Of the kernels."""
        return TINY if self.is_tiny else Sizes()

    @property
    def dtype(self) -> torch.dtype:
        """Of whole models."""
        return torch.float32 if self.device.type == "cpu" else torch.bfloat16

    def of_scale(self, full: T, tiny: T) -> T:
        """The one that is for this run's sizes."""
        return tiny if self.is_tiny else full

    def normal(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """Numbers drawn anew, never the same twice."""
        return torch.randn(shape, device=self.device, dtype=dtype)

    def tensor(self, values: list[int], dtype: torch.dtype = torch.int32) -> Tensor:
        """Numbers on the device."""
        return torch.tensor(values, device=self.device, dtype=dtype)


class Case(NamedTuple):
    """Something that is tried by itself; what it yields is kept even if it fails then."""

    name: str
    run: Callable[[], Iterator[Row]]


Cases = Callable[[Setting], list[Case]]


def make_setting(
    device: str,
    scale: str,
    ceilings: Ceilings | None = None,
    engine: Mapping[str, object] | None = None,
) -> Setting:
    """Of a run's options; "cpu" or "cuda", "full" or "tiny"."""
    timer: Timer = CpuTimer() if device == "cpu" else CudaTimer()
    return Setting(torch.device(device), scale == "tiny", timer, ceilings, engine or {})
