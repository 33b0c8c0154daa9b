"""Tells when memory was short, and says so in a sentence. Knows no step and no job."""

import contextlib
from collections.abc import Iterator

import torch

from engine.errors import LoadError, OutOfMemory
from engine.memory import memory_of

# What torch, CUDA and its libraries say where they raise a bare RuntimeError; C++ itself and the
# system, too, through torch.
_SIGNS = (
    *("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED"),
    *("std::bad_alloc", "Cannot allocate memory"),
)


def is_shortage(error: BaseException) -> bool:
    """True if the error says that memory ran out, of a device or of the system."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@contextlib.contextmanager
def enough_memory(what: str, device: torch.device, advice: str) -> Iterator[None]:
    """Raise LoadError when memory runs out: `what` does not fit, and `advice` is to be followed."""
    try:
        yield
    except (RuntimeError, MemoryError, OutOfMemory) as error:
        if not (is_shortage(error) or isinstance(error, OutOfMemory)):
            raise
        problem = error.with_traceback(None)  # which holds what was allocated
    else:
        return
    raise LoadError(
        f"{what} does not fit the memory of {device} ({memory_of(device)}); {advice}."
    ) from problem


def no_memory(device: torch.device) -> str:
    """What to say and do when nothing fits."""
    return (
        f"Not even a step of one token fits the memory of {device} ({memory_of(device)}); lower "
        "--pa-gpu-mem-usage, --pa-gpu-mem or --pa-ctxt-len, or end what else is in that memory."
    )
