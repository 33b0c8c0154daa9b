"""A kernel at one shape: held against float64 first, and timed if it is right."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.packed import PackedMatrix, Planes
from tests.bench.on_gpu.row import Row
from tests.bench.on_gpu.setting import Setting

PART = "kernels"
_ROTATED_BYTES = 400 << 20  # several times what the largest caches hold
_MAX_SETS = 64
# Relative error of results rounded to bfloat16 once or twice, and where softmax weights or weights
# of a product are rounded as well.
ROUNDED, ROUNDED_TWICE = 6e-3, 1e-2


class Probe(NamedTuple):
    """`expected` is float64 of the shape of `picked(result)`; `num_bytes` are those that must be
    read and written, `num_operations` those of its products.
    """

    launch: Callable[..., Any]
    arguments: tuple[Any, ...]
    expected: Callable[[], Tensor]
    num_bytes: int
    num_operations: int = 0
    picked: Callable[[Any], Tensor] = lambda result: result
    bound: float = ROUNDED
    distance: Callable[[Tensor, Tensor], float] | None = None  # None: `relative_error`


def judged(setting: Setting, name: str, probe: Probe) -> Row:
    """Its row."""
    with poisoned():
        result = probe.launch(*probe.arguments)
    distance = probe.distance or relative_error
    error = distance(probe.picked(result), probe.expected())
    del result
    found: dict[str, Any] = {"part": PART, "name": name, "error": error, "bound": probe.bound}
    if not error <= probe.bound:  # NaN is not
        return Row(state="wrong", **found)
    us = setting.timer.us([partial(probe.launch, *each) for each in _sets(setting, probe)])
    floor, limit = None, ""
    if setting.ceilings is not None:
        floor, limit = setting.ceilings.floor(probe.num_bytes, probe.num_operations)
    return Row(state="measured", value=us, unit="µs", floor=floor, note=limit, **found)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Of the whole: the norm of the difference over that of what is expected."""
    assert actual.shape == expected.shape, f"{actual.shape} is not {expected.shape}"
    wide = actual.to(expected.device, torch.float64)
    return float((wide - expected).norm() / expected.norm())


def share_of_others(actual: Tensor, expected: Tensor) -> float:
    """How many of some ids are others than expected."""
    return float((actual.cpu() != expected.cpu()).double().mean())


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that is asked for is full of NaN, so that an element nobody writes shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def num_bytes(*arguments: Any) -> int:
    """Of all tensors among them."""
    return sum(map(_bytes_of, arguments))


def _bytes_of(argument: Any) -> int:
    if isinstance(argument, Tensor):
        return argument.nbytes
    if isinstance(argument, PackedMatrix):
        return argument.num_bytes
    return sum(map(_bytes_of, argument)) if isinstance(argument, tuple | list) else 0


def _sets(setting: Setting, probe: Probe) -> Sequence[tuple[Any, ...]]:
    """The same arguments at several places, together more than a cache holds."""
    size = max(1, num_bytes(*probe.arguments))
    count = setting.of_scale(max(1, min(_MAX_SETS, -(-_ROTATED_BYTES // size))), 1)
    return [probe.arguments, *(_copy(probe.arguments) for _ in range(count - 1))]


def _copy(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        # torch copies few unsigned types on every device.
        is_words = argument.dtype == torch.uint16
        return (
            argument.view(torch.int16).clone().view(torch.uint16) if is_words else argument.clone()
        )
    if isinstance(argument, PackedMatrix):
        assert argument.planes is not None, "a matrix on a GPU is in planes"
        return argument._replace(planes=Planes(*map(_copy, argument.planes)))
    return type(argument)(map(_copy, argument)) if type(argument) in (tuple, list) else argument
