"""A CUDA device that is pretended: tensors say `cuda:0`, their data is the CPU's and real.

It refuses what a GPU would: an operator or a kernel whose tensors are on several devices, types
that CUDA does not calculate with. It counts what makes the host wait. Kernels run in Triton's
interpreter. Knows no model.
"""

import contextlib
import ctypes
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from kernels import interpreter

aten: Any = torch.ops.aten

CPU = torch.device("cpu")
TOTAL_BYTES = 128 << 20  # what is free of it is allocated in earnest
CAPABILITY = (9, 0)
# c10/core/DeviceType.h, and the table in c10/core/impl/DeviceGuardImplInterface.h
_CUDA, _META = 1, 14
_GUARDS = "_ZN3c104impl26device_guard_impl_registryE"
# Their size is that of their values, so the host waits for these.
_WAITS = {
    *(aten._local_scalar_dense, aten.nonzero, aten.equal, aten.is_nonzero, aten.masked_select),
    *(aten.bincount, aten.repeat_interleave, aten._unique2, aten.unique_consecutive),
}
_INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
_TAKE_NUMBERS = {*_INDEXED, aten.fill, aten.fill_, aten.masked_fill, aten.masked_fill_}
_COPIES = {aten._to_copy, aten.copy_, aten.copy}
_PRODUCTS = {aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.mv, aten.dot, aten.addmv}
# What CUDA calculates nothing with; it copies them and looks at them as another type.
_STORED = {torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2}
_SHAPERS = {aten.zeros, aten.empty, aten.new_empty, aten.new_zeros, aten.empty_like, aten.zero_}


class DevicesMixed(AssertionError):
    """What CUDA would not have done."""


class OnDevice(Tensor):
    """A tensor that says it is on a device; `held` has its data."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, real: Tensor, device: torch.device) -> "OnDevice":
        made: OnDevice = torch.Tensor._make_wrapper_subclass(
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=device,
        )
        made.held = real
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"{self.held!r} on {self.device}"

    def tolist(self) -> Any:
        """To the host, which torch itself has not for subclasses."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise AssertionError(f"{func} on a pretended device outside of `pretend_cuda`")


class PretendedCuda(TorchDispatchMode):
    """Runs operators; `waits` counts those for which the host waits, by the name of what it does.

    `launches` counts the kernels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.variants: dict[str, set[tuple[object, ...]]] = defaultdict(set)
        self.current = 0  # the device that kernels are launched on
        self.runs_kernels = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, for seconds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        target = _target(leaves, kwargs)
        if target is None:
            return func(*args, **kwargs)
        if _is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        return self._run(func, args, kwargs, leaves, target)

    def _run(
        self,
        func: Any,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        leaves: Sequence[Tensor],
        target: torch.device,
    ) -> Any:
        packet = func.overloadpacket
        if packet in _COPIES:
            self._note_copy(packet, args, kwargs, target)
        else:
            _check_one_device(func, leaves)
            _check_types(func, leaves)
            self._note_wait(packet, args)
        known = {id(leaf.held): leaf for leaf in leaves if isinstance(leaf, OnDevice)}
        if "device" in kwargs:
            kwargs["device"] = CPU
        real_args, real_kwargs = tree_map(held_of, (args, kwargs))
        made = func(*real_args, **real_kwargs)
        # torch wants a view to be as its base: made for inference alone, or not.
        is_inference = leaves[0].is_inference() if leaves and _is_view(func) else None
        with torch.inference_mode(
            torch.is_inference_mode_enabled() if is_inference is None else is_inference
        ):
            return tree_map(lambda part: _wrapped(part, known, target), made)

    def _note_copy(
        self, packet: Any, args: Sequence[Any], kwargs: Mapping[str, Any], target: torch.device
    ) -> None:
        """A copy between host and device is waited for, unless it says otherwise."""
        source = args[0] if packet is aten._to_copy else args[1]
        is_free = kwargs.get("non_blocking") or (packet is aten.copy_ and True in args[2:])
        if source.device.type == "cpu" and target.type == "cuda":
            if not is_free and source.dim():
                self.waits["to the device"] += 1
        elif source.device.type == "cuda" and target.type == "cpu":
            self.waits["to the host"] += 1

    def _note_wait(self, packet: Any, args: Sequence[Any]) -> None:
        is_mask = packet in _INDEXED and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if packet in _WAITS or is_mask:
            self.waits[str(packet).removeprefix("aten.")] += 1

    def launch(self, kernel: Any, values: Mapping[str, Any]) -> None:
        """A kernel with these arguments is about to run."""
        name = kernel.fn.__name__
        for value in values.values():
            if isinstance(value, Tensor):
                index = value.device.index if isinstance(value, OnDevice) else None
                if index != self.current:
                    raise DevicesMixed(
                        f"{name} is launched on cuda:{self.current} with a tensor on {value.device}"
                    )
        self.launches[name] += 1
        self.variants[name].add(_variant_of(kernel, values))


def _target(leaves: Sequence[Tensor], kwargs: Mapping[str, Any]) -> torch.device | None:
    """Where the result is; None for what has nothing to do with a pretended device."""
    there = next((leaf.device for leaf in leaves if isinstance(leaf, OnDevice)), None)
    asked = there if kwargs.get("device") is None else torch.device(kwargs["device"])
    if asked is None or (there is None and asked.type != "cuda"):
        return None
    if asked.type == "cuda" and asked.index is None:
        raise DevicesMixed("the pretended devices have a number")
    return asked


def _is_composite(func: Any) -> bool:
    """Whether it is made of other operators, which are to be seen each."""
    has_own = torch._C._dispatch_has_kernel_for_dispatch_key
    return bool(has_own(func.name(), "CompositeImplicitAutograd"))


def _check_one_device(func: Any, leaves: Sequence[Tensor]) -> None:
    """As CUDA does, where numbers on the host are taken for pointwise operators alone."""
    takes_numbers = torch.Tag.pointwise in func.tags or func.overloadpacket in _TAKE_NUMBERS
    devices = {
        leaf.device
        for leaf in leaves
        if leaf.device.type != "cpu" or leaf.dim() or not takes_numbers
    }
    if len(devices) > 1:
        raise DevicesMixed(f"{func} of tensors on {sorted(map(str, devices))}")


def _is_view(func: Any) -> bool:
    """Whether its results look at what it was given."""
    returns = func._schema.returns
    return any(value.alias_info and not value.alias_info.is_write for value in returns)


def _check_types(func: Any, leaves: Sequence[Tensor]) -> None:
    packet = func.overloadpacket
    types = {leaf.dtype for leaf in leaves}
    if types & _STORED and not _is_view(func) and packet not in _SHAPERS:
        raise DevicesMixed(f"{func} of {types}, which CUDA does not calculate with")
    if packet in _PRODUCTS and not all(dtype.is_floating_point for dtype in types):
        raise DevicesMixed(f"{func} of {types}: CUDA multiplies matrices of floats only")


def held_of(value: Any) -> Any:
    """The data of a pretended tensor; other values as they are."""
    return value.held if isinstance(value, OnDevice) else value


def _wrapped(part: Any, known: Mapping[int, Tensor], target: torch.device) -> Any:
    if not isinstance(part, Tensor) or target.type == "cpu":
        return part
    return known.get(id(part)) if id(part) in known else OnDevice(part, target)


def _variant_of(kernel: Any, values: Mapping[str, Any]) -> tuple[object, ...]:
    """What Triton compiles a kernel for: types, constants, and what 16 divides (triton/runtime)."""
    unspecialised = kernel.kwargs.get("do_not_specialize") or ()
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


@contextlib.contextmanager
def pretend_cuda(num_devices: int = 1) -> Iterator[PretendedCuda]:
    """While it lasts there is CUDA, and nothing else may launch a kernel."""
    from triton.runtime.interpreter import InterpretedFunction

    interpreter.repair_bfloat16()
    mode = PretendedCuda()
    run = InterpretedFunction.run

    def launch(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        mode.launch(self, dict(zip(self.arg_names, args, strict=False)) | kwargs)
        if not mode.runs_kernels:
            return None
        real_args, real_kwargs = tree_map(held_of, (args, kwargs))
        return run(self, *real_args, grid=grid, warmup=warmup, **real_kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpretedFunction, "run", launch)
        # A mode is a thread's own.
        start = threading.Thread.run
        patch.setattr(threading.Thread, "run", lambda thread: _in_mode(mode, start, thread))
        for name, function in _cuda_functions(mode, num_devices).items():
            patch.setattr(torch.cuda, name, function)
        with _device_guard(), mode:
            yield mode


def _in_mode(
    mode: PretendedCuda, run: Callable[[threading.Thread], None], thread: threading.Thread
) -> None:
    with mode:
        run(thread)


@contextlib.contextmanager
def _device_guard() -> Iterator[None]:
    """Give torch's C++ a guard of CUDA devices that does nothing, which builds for CPUs have not.

    It knows no current device: `cuda` without an index is not understood.
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


def _cuda_functions(mode: PretendedCuda, num_devices: int) -> dict[str, Callable[..., Any]]:
    """What stands in for torch.cuda's functions."""

    def set_device(device: int | torch.device) -> None:
        index = device.index if isinstance(device, torch.device) else device
        if index is None:
            raise ValueError(f"Expected a torch.device with a specified index, but got {device}")
        mode.current = index

    def wait(_device: Any = None) -> None:
        mode.waits["synchronize"] += 1

    return {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: num_devices,
        "current_device": lambda: mode.current,
        "set_device": set_device,
        "get_device_capability": lambda device=None: CAPABILITY,
        "synchronize": wait,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda device=None: None,
        "memory_allocated": lambda device=None: 1 << 20,
        "max_memory_allocated": lambda device=None: 3 << 20,
        "memory_reserved": lambda device=None: 4 << 20,
        "mem_get_info": lambda device=None: (TOTAL_BYTES // 2, TOTAL_BYTES),
    }
