"""Triton's interpreter, with small floats made right: runs the kernels on CPU tensors, for tests.

One mode per process, chosen before anything imports Triton: its library is decorated at import,
for the interpreter or for the compiler. Knows no kernel.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[Any]
# Triton reads its mode from the environment and nowhere else, and transformers imports Triton.
_ENVIRONMENT = os.environ  # noqa: TID251
_VARIABLE = "TRITON_INTERPRET"
_FLOAT8 = {"fp8e4nv": torch.float8_e4m3fn, "fp8e5": torch.float8_e5m2}
# What `teach_asm` was told: an instruction is its text.
_ASM_TWINS: dict[str, Callable[..., Array | tuple[Array, ...]]] = {}


def is_interpreting() -> bool:
    """Whether kernels of this process run in the interpreter rather than compiled."""
    return _ENVIRONMENT.get(_VARIABLE, "0").lower() in ("1", "true", "on", "yes", "y")


def use_interpreter() -> None:
    """Make this process, and those it starts, interpret kernels. Imports no Triton.

    Raises RuntimeError when Triton is already imported for the compiler. Call `repair_bfloat16`
    before the first kernel runs.
    """
    _choose("interpreter", "1")


def use_compiler() -> None:
    """Make this process, and those it starts, compile kernels. Imports no Triton.

    Raises RuntimeError when Triton is already imported for the interpreter.
    """
    _choose("compiler", "0")


def _choose(mode: str, value: str) -> None:
    if "triton" in sys.modules and is_interpreting() != (value == "1"):
        raise RuntimeError(f"triton is already imported: choose the {mode} before that")
    _ENVIRONMENT[_VARIABLE] = value


def teach_asm(asm: str, twin: Callable[..., Array | tuple[Array, ...]]) -> None:
    """Let the interpreter run the inline assembly `asm`: `twin` does to arrays what it does.

    To be called beside the string, when the kernel's file is imported; harmless where it compiles.
    """
    _ASM_TWINS[asm] = twin


def bfloat16_to_float32(bits: Array) -> Array:
    """Widen bfloat16 bit patterns (uint16) to float32; exact."""
    wide = np.ascontiguousarray(bits).astype(np.uint32) << 16
    return wide.view(np.float32).reshape(np.shape(bits))


def float32_to_bfloat16(values: Array) -> Array:
    """Round float32 to the nearest bfloat16, ties to even, as bit patterns (uint16)."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    bits = values.view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16).astype(np.uint16)
    quiet_nan = np.uint16(0x7FC0)
    return np.where(np.isnan(values), quiet_nan, rounded)


def float8_to_float32(bits: Array, kind: str) -> Array:
    """Widen bit patterns (uint8) of "fp8e4nv" or "fp8e5" to float32; exact."""
    values = torch.from_numpy(np.ascontiguousarray(bits)).view(_FLOAT8[kind])
    wide: Array = values.float().numpy()
    return wide.reshape(np.shape(bits))


def float32_to_float8(values: Array, kind: str) -> Array:
    """Round float32 to nearest even as bit patterns (uint8), the largest for what is beyond it."""
    largest = torch.finfo(_FLOAT8[kind]).max
    wide = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    bits: Array = wide.clamp(-largest, largest).to(_FLOAT8[kind]).view(torch.uint8).numpy()
    return bits.reshape(np.shape(values))


def repair_bfloat16() -> None:
    """Give the interpreter a GPU's bfloat16: computed in float32, rounded once to nearest even.

    Triton 3.6 and 3.7 truncate casts and calculate on the raw bits without an error (triton issue
    11584). Reductions over bfloat16 stay unsupported and raise TypeError: widen first. Beside that
    casts to and from 8-bit floats become a GPU's, where NaN is NaN, and inline assembly runs that
    `teach_asm` knows. Idempotent.
    """
    from triton.runtime import interpreter

    if getattr(interpreter.InterpreterBuilder, "repairs_bfloat16", False):
        return
    interpreter.InterpreterBuilder.repairs_bfloat16 = True
    _repair_casts(interpreter)
    _repair_float8(interpreter)
    _repair_arithmetic(interpreter)
    _refuse_reductions(interpreter)
    _repair_index(interpreter)
    _allow_asm(interpreter)


def _is_bfloat16(handle: Any) -> bool:
    dtype = getattr(handle.dtype, "scalar", handle.dtype)
    return str(dtype) == "bf16"


def _widened(handle: Any) -> Array:
    data: Array = handle.data
    return bfloat16_to_float32(data) if _is_bfloat16(handle) else data


def _repair_casts(interpreter: Any) -> None:
    import triton.language as tl

    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    stock_cast, stock_fp_to_fp = builder.cast_impl, builder.create_fp_to_fp

    def cast(self: Any, source: Any, target: Any) -> Any:
        old, new = source.dtype.scalar, target.scalar
        if old == tl.bfloat16 and new != tl.bfloat16:
            wide = handle(bfloat16_to_float32(source.data), tl.float32)
            return wide if new == tl.float32 else stock_cast(self, wide, target)
        if new == tl.bfloat16 and old != tl.bfloat16:
            return handle(float32_to_bfloat16(source.data.astype(np.float32)), tl.bfloat16)
        return stock_cast(self, source, target)

    def fp_to_fp(self: Any, source: Any, target: Any, rounding_mode: Any) -> Any:
        if tl.bfloat16 in (source.dtype.scalar, target.scalar):
            return cast(self, source, target)
        return stock_fp_to_fp(self, source, target, rounding_mode)

    builder.cast_impl, builder.create_fp_to_fp = cast, fp_to_fp


def _repair_float8(interpreter: Any) -> None:
    import triton.language as tl

    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    stock = builder.create_fp_to_fp

    def fp_to_fp(self: Any, source: Any, target: Any, rounding_mode: Any) -> Any:
        old, new = str(source.dtype.scalar), str(target.scalar)
        if old in _FLOAT8:
            wide = handle(float8_to_float32(source.data, old), tl.float32)
            return wide if new == "fp32" else self.create_fp_to_fp(wide, target, rounding_mode)
        if new in _FLOAT8:
            return handle(float32_to_float8(_widened(source), new), target.scalar)
        return stock(self, source, target, rounding_mode)

    builder.create_fp_to_fp = fp_to_fp


def _repair_arithmetic(interpreter: Any) -> None:
    import triton.language as tl

    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    stock_binary, stock_unary = builder.binary_op, builder.unary_op
    stock_fma, stock_dot = builder.create_fma, builder.create_dot

    def binary(self: Any, left: Any, right: Any, op: Callable[..., Array]) -> Any:
        if not (_is_bfloat16(left) or _is_bfloat16(right)):
            return stock_binary(self, left, right, op)
        result = op(_widened(left), _widened(right))
        if result.dtype == np.bool_:
            return handle(result, tl.int1)
        return handle(float32_to_bfloat16(result), tl.bfloat16)

    def unary(self: Any, argument: Any, op: Callable[..., Array]) -> Any:
        if not _is_bfloat16(argument):
            return stock_unary(self, argument, op)
        return handle(float32_to_bfloat16(op(_widened(argument))), tl.bfloat16)

    def fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        if not _is_bfloat16(z):
            return stock_fma(self, x, y, z)
        return handle(float32_to_bfloat16(_widened(x) * _widened(y) + _widened(z)), tl.bfloat16)

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        a = handle(_widened(a), tl.float32) if _is_bfloat16(a) else a
        b = handle(_widened(b), tl.float32) if _is_bfloat16(b) else b
        return stock_dot(self, a, b, *rest)

    builder.binary_op, builder.unary_op = binary, unary
    builder.create_fma, builder.create_dot = fma, dot


def _refuse_reductions(interpreter: Any) -> None:
    for operation in (interpreter.ReduceOps, interpreter.ScanOps):
        operation.apply_impl = _refusing_bfloat16(operation.apply_impl)


def _refusing_bfloat16(stock: Callable[..., Any]) -> Callable[..., Any]:
    def apply(self: Any, tensors: Any) -> Any:
        if any(_is_bfloat16(tensor.handle) for tensor in tensors):
            raise TypeError("reduction over bfloat16: convert to float32 first")
        return stock(self, tensors)

    return apply


def _repair_index(interpreter: Any) -> None:
    # Triton 3.6 takes int() of a one-element array, which numpy 2.4 made an error.
    stock = interpreter._patch_lang_tensor

    def patch(tensor: Any, scope: Any) -> None:
        stock(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.reshape(-1)[0]))

    interpreter._patch_lang_tensor = patch


def _allow_asm(interpreter: Any) -> None:
    handle = interpreter.TensorHandle

    class Results(list[Any]):
        """What the frontend asks for each result of the instruction."""

        def get_result(self, index: int) -> Any:
            return self[index]

    def inline_asm(
        self: Any, asm: str, constraints: str, values: Any, types: Any, is_pure: bool, pack: int
    ) -> Results:
        if asm not in _ASM_TWINS:
            raise NotImplementedError(f"teach_asm knows no twin of {asm!r}")
        made = _ASM_TWINS[asm](*(value.data for value in values))
        arrays = made if isinstance(made, tuple) else (made,)
        return Results(handle(a, kind.scalar) for a, kind in zip(arrays, types, strict=True))

    interpreter.InterpreterBuilder.create_inline_asm = inline_asm
