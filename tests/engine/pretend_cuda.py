"""Has a process believe in CUDA devices: their tensors are on_device.py's, kernels are interpreted.

What a GPU would refuse is refused: an operator or a kernel whose tensors are on several devices,
types that CUDA does not calculate with. What makes the host wait is counted.
"""

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from kernels import interpreter
from tests.engine.cuda_functions import cuda_functions, pin
from tests.engine.on_device import DevicesMixed, OnDevice, PretendedCuda, held_of

# c10/core/DeviceType.h, and the table in c10/core/impl/DeviceGuardImplInterface.h
_CUDA, _META = 1, 14
_GUARDS = "_ZN3c104impl26device_guard_impl_registryE"


@contextlib.contextmanager
def pretend_cuda(num_devices: int = 1) -> Iterator[PretendedCuda]:
    """While it lasts there is CUDA, and nothing else may launch a kernel."""
    cuda = PretendedCuda()
    with pytest.MonkeyPatch.context() as patch:
        kernel = _kernel_class()
        patch.setattr(kernel, "run", _launching(cuda, kernel.run))
        # A mode is a thread's own.
        start = threading.Thread.run
        patch.setattr(threading.Thread, "run", lambda thread: _in_mode(cuda, start, thread))
        patch.setattr(Tensor, "pin_memory", pin(cuda))
        for name, function in cuda_functions(cuda, num_devices).items():
            patch.setattr(torch.cuda, name, function)
        with _device_guard(), cuda:
            yield cuda


def _kernel_class() -> Any:
    if interpreter.is_interpreting():
        from triton.runtime.interpreter import InterpretedFunction

        interpreter.repair_bfloat16()
        return InterpretedFunction
    from triton.runtime.jit import JITFunction

    return JITFunction


def _in_mode(
    cuda: PretendedCuda, run: Callable[[threading.Thread], None], thread: threading.Thread
) -> None:
    with cuda:
        run(thread)


@contextlib.contextmanager
def _device_guard() -> Iterator[None]:
    """Give torch's C++ a guard of CUDA devices that does nothing, which builds for CPUs have not.

    It knows no current device: `cuda` without a number is not understood.
    """
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * (_META + 1)).in_dll(library, _GUARDS)
    before = guards[_CUDA]
    guards[_CUDA] = before or guards[_META]
    lifts = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor shows us its copy to a device
    try:
        yield
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts)
        guards[_CUDA] = before


def _launching(cuda: PretendedCuda, run: Callable[..., Any]) -> Callable[..., Any]:
    """The interpreter's launch, of tensors on the device."""

    def launch(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        _check_launch(cuda, self, dict(zip(self.arg_names, args, strict=False)) | kwargs)
        if cuda.on_launch is not None:
            cuda.on_launch(self, *args, grid=grid, warmup=warmup, **kwargs)
        if cuda.runs_kernels:
            real_args, real_kwargs = tree_map(held_of, (args, kwargs))
            cuda.do(lambda: run(self, *real_args, grid=grid, warmup=warmup, **real_kwargs))

    return launch


def _check_launch(cuda: PretendedCuda, kernel: Any, values: Mapping[str, Any]) -> None:
    """A kernel with these arguments is about to run."""
    name = kernel.fn.__name__
    for value in values.values():
        if isinstance(value, Tensor):
            index = value.device.index if isinstance(value, OnDevice) else None
            if index != cuda.current:
                raise DevicesMixed(
                    f"{name} is launched on cuda:{cuda.current} with a tensor on {value.device}"
                )
    cuda.launches[name] += 1
    cuda.variants[name].add(_variant_of(kernel, values))


def _variant_of(kernel: Any, values: Mapping[str, Any]) -> tuple[object, ...]:
    """What Triton compiles a kernel for: types, constants, and what 16 divides (triton/runtime)."""
    unspecialised = getattr(kernel, "kwargs", {}).get("do_not_specialize") or ()
    parts: list[object] = []
    for name, value in values.items():
        if isinstance(value, OnDevice):
            offset = value.storage_offset() * value.element_size()
            parts.append((value.dtype, offset % 16 == 0))
        elif type(value) is int and not _is_constant(kernel, name):
            is_special = name not in unspecialised
            parts.append((value == 1, value % 16 == 0) if is_special else "int")
        elif not isinstance(value, float) or _is_constant(kernel, name):
            parts.append(value)
    return tuple(parts)


def _is_constant(kernel: Any, name: str) -> bool:
    annotation = kernel.fn.__annotations__.get(name)
    return annotation is not None or name not in kernel.arg_names
