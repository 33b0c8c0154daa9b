"""What the machine can do: bytes copied, products, and one kernel after the other."""

from collections.abc import Iterator
from functools import partial

import torch

from tests.bench.on_gpu.row import COPY, LAUNCH, PRODUCT, Row
from tests.bench.on_gpu.setting import Case, Setting

PART = "ceilings"


def cases(setting: Setting) -> list[Case]:
    """Each by itself."""
    return [
        Case(COPY, partial(_copy, setting)),
        Case(PRODUCT, partial(_product, setting)),
        Case(LAUNCH, partial(_launch, setting)),
    ]


def _copy(setting: Setting) -> Iterator[Row]:
    """Bytes that are read and written, of a tensor far larger than any cache."""
    source = setting.normal(setting.of_scale(1 << 30, 1 << 12))
    target = torch.empty_like(source)
    us = setting.timer.us([lambda: target.copy_(source)])
    yield _row(COPY, 2 * source.nbytes / us / 1e3, "GB/s", f"{2 * source.nbytes / 1e9:.1f} GB")


def _product(setting: Setting) -> Iterator[Row]:
    """Random numbers: zeros would be faster."""
    size = setting.of_scale(8192, 32)
    a, b = setting.normal(size, size), setting.normal(size, size)
    us = setting.timer.us([lambda: a @ b])
    yield _row(PRODUCT, 2 * size**3 / us / 1e6, "TFLOP/s", f"{size} x {size} x {size}")


def _launch(setting: Setting) -> Iterator[Row]:
    one = torch.zeros(1, device=setting.device)
    us = setting.timer.us([lambda: one.add_(1)] * setting.of_scale(200, 2))
    yield _row(LAUNCH, us, "µs", "one number and one more, each after the last")


def _row(name: str, value: float, unit: str, note: str) -> Row:
    return Row(part=PART, name=name, state="measured", value=value, unit=unit, note=note)
