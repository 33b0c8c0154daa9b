"""Tensors that say they are on a CUDA device, and what runs on them. Their data is the CPU's.

Knows no model, and not how a process comes to believe in such devices (pretend_cuda.py).
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten: Any = torch.ops.aten

CPU = torch.device("cpu")
TO_HOST, TO_DEVICE = "to the host", "to the device"
# Their size is that of their values, so the host waits for these.
_WAITS = {
    *(aten._local_scalar_dense, aten.nonzero, aten.equal, aten.is_nonzero, aten.masked_select),
    *(aten.bincount, aten.repeat_interleave, aten._unique2, aten.unique_consecutive),
}
_INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
_TAKE_NUMBERS = {*_INDEXED, aten.fill, aten.fill_, aten.masked_fill, aten.masked_fill_}
_COPIES = {aten._to_copy, aten.copy_}
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

    `launches` counts the kernels, and `on_launch` is told of each. A thread that captures notes
    what it does in `notes`, to be done again, and may not wait. Copies to pinned memory come when
    they are waited for, not before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.variants: dict[str, set[tuple[object, ...]]] = defaultdict(set)
        self.current = 0  # the device that kernels are launched on
        self.runs_kernels = True
        self.on_launch: Callable[..., None] | None = None
        self.pinned: dict[int, Tensor] = {}  # by where their memory begins
        self.notes: list[Callable[[], None]] | None = None
        self.capturer: int | None = None
        self._late: list[Callable[[], object]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, for seconds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        target = _target(leaves, [*args, kwargs.get("device")])
        if target is None:
            return func(*args, **kwargs)
        if _is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        if func.overloadpacket in _COPIES:
            if (made := self._copied(func, args, kwargs)) is not None:
                return made
        else:
            _check_one_device(func, leaves)
            _check_types(func, leaves)
            self._note_wait(func.overloadpacket, args)
        return self._run(func, args, kwargs, leaves, target)

    def _run(
        self,
        func: Any,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        leaves: Sequence[Tensor],
        target: torch.device,
    ) -> Any:
        known = {id(held_of(leaf)): leaf for leaf in leaves}
        if "device" in kwargs:
            kwargs["device"] = CPU
        real_args, real_kwargs = tree_map(held_of, (args, kwargs))
        made = func(*real_args, **real_kwargs)
        self._note(func, real_args, real_kwargs, made)
        is_inference = torch.is_inference_mode_enabled()
        if leaves and _is_view(func):  # torch wants a view to be as its base
            is_inference = leaves[0].is_inference()
        with torch.inference_mode(is_inference):
            return tree_map(lambda part: _wrapped(part, known, target), made)

    def _note(self, func: Any, args: Any, kwargs: Any, made: Any) -> None:
        """In a capture: do it again with the same memory, what it makes included."""
        if not self.is_capturing:
            return
        old = {_memory_of(leaf) for leaf in tree_leaves((args, kwargs)) if _is_tensor(leaf)}
        outputs = [leaf for leaf in tree_leaves(made) if _is_tensor(leaf)]
        new = [place for place, leaf in enumerate(outputs) if _memory_of(leaf) not in old]

        def again() -> None:
            results = [leaf for leaf in tree_leaves(func(*args, **kwargs)) if _is_tensor(leaf)]
            for place in new:
                outputs[place].copy_(results[place])

        if new or func._schema.is_mutable:  # else a view, which is there for good
            self.notes_of_capture().append(again)

    @property
    def is_capturing(self) -> bool:
        """Whether this thread does."""
        return self.capturer == threading.get_ident()

    def notes_of_capture(self) -> list[Callable[[], None]]:
        """Of this thread's."""
        assert self.notes is not None
        return self.notes

    def do(self, action: Callable[[], None]) -> None:
        """What the device is told by other means than an operator."""
        action()
        if self.is_capturing:
            self.notes_of_capture().append(action)

    def wait(self, what: str) -> None:
        """The host waits until the device has done all it was told."""
        if self.is_capturing:
            raise DevicesMixed(f"a capture cannot wait: {what}")
        self.waits[what] += 1
        for copy in self._late:
            copy()
        self._late.clear()

    def _copied(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """A copy between host and device is waited for, unless it says otherwise; None: to do."""
        is_new = func.overloadpacket is aten._to_copy
        source = args[0] if is_new else args[1]
        target = kwargs.get("device") or args[0].device if is_new else args[0].device
        is_free = bool(kwargs.get("non_blocking") or (not is_new and True in args[2:]))
        ways = source.device.type, torch.device(target).type
        if ways[0] == ways[1] or not source.dim():
            return None
        if self.is_capturing:
            raise DevicesMixed(f"a capture cannot copy: {ways}")
        if ways[0] == "cpu":
            if not is_free:
                self.wait(TO_DEVICE)
        elif is_new or not is_free or _memory_of(args[0]) not in self.pinned:
            self.wait(TO_HOST)
        else:
            return self._copied_late(args[0], source.held)
        return None

    def _copied_late(self, target: Tensor, source: Tensor) -> Tensor:
        values = source.clone()  # of now: the device does what it is told in order
        target.fill_(-77)
        self._late.append(lambda: target.copy_(values))
        return target

    def _note_wait(self, packet: Any, args: Sequence[Any]) -> None:
        is_mask = packet in _INDEXED and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if packet in _WAITS or is_mask:
            self.wait(str(packet).removeprefix("aten."))


def _target(leaves: Sequence[Tensor], args: Sequence[Any]) -> torch.device | None:
    """Where the result is; None for what has nothing to do with a pretended device."""
    there = next((leaf.device for leaf in leaves if isinstance(leaf, OnDevice)), None)
    asked = next((arg for arg in args if isinstance(arg, torch.device)), there)
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


def _is_tensor(leaf: object) -> bool:
    return isinstance(leaf, Tensor)


def _memory_of(tensor: Tensor) -> int:
    """Where its memory begins."""
    return tensor.untyped_storage().data_ptr()


def _wrapped(part: Any, known: Mapping[int, Tensor], target: torch.device) -> Any:
    if not isinstance(part, Tensor) or target.type == "cpu":
        return part
    return known[id(part)] if id(part) in known else OnDevice(part, target)
