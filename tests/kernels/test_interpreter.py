"""The interpreter's mode is chosen once, and its bfloat16 is a GPU's."""

import sys

import numpy as np
import pytest
import torch

from kernels import interpreter

pytest.importorskip("triton")


def bits_of(values):
    return values.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)


def test_rounding_to_bfloat16_is_torchs(generator):
    ties = torch.arange(0x3F80, 0x4080, dtype=torch.int32) << 16 | 0x8000
    values = torch.cat(
        [
            torch.randn(1000, generator=generator),
            ties.view(torch.float32),
            torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 3.4e38, 1e-45, 1e-39]),
        ]
    )
    assert np.array_equal(interpreter.float32_to_bfloat16(values.numpy()), bits_of(values))


def test_nan_stays_nan_in_bfloat16():
    payloads = np.array([0x7F800001, 0xFFFFFFFF], dtype=np.uint32).view(np.float32)
    rounded = interpreter.float32_to_bfloat16(payloads)
    assert np.isnan(interpreter.bfloat16_to_float32(rounded)).all()


def test_widening_every_bfloat16_and_rounding_it_back_changes_nothing():
    bits = np.arange(1 << 16, dtype=np.uint16)
    wide = interpreter.bfloat16_to_float32(bits)
    kept = ~np.isnan(wide)
    assert np.array_equal(interpreter.float32_to_bfloat16(wide)[kept], bits[kept])


def test_mode_follows_the_variable_that_triton_reads(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert interpreter.is_interpreting()
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert not interpreter.is_interpreting()


def test_choosing_the_interpreter_after_triton_was_imported_for_the_compiler_is_refused(
    monkeypatch,
):
    monkeypatch.setitem(sys.modules, "triton", object())
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="triton is already imported"):
        interpreter.use_interpreter()


@pytest.mark.skipif(not interpreter.is_interpreting(), reason="kernels of this process compile")
class TestRepair:
    """Small kernels that calculate on bfloat16 itself, as ours avoid to."""

    @pytest.fixture
    def triton(self):
        interpreter.repair_bfloat16()
        import triton

        return triton

    @pytest.fixture
    def operands(self, generator):
        return [torch.randn(16, generator=generator).bfloat16() for _ in range(3)]

    def test_arithmetic_rounds_once_to_nearest(self, triton, operands):
        import triton.language as tl

        @triton.jit
        def kernel(x, y, z, output):
            i = tl.arange(0, 16)
            product = tl.load(x + i) * tl.load(y + i)
            tl.store(output + i, tl.where(product > 0.5, product + tl.load(z + i), -product))

        x, y, z = operands
        output = torch.empty_like(x)
        kernel[(1,)](x, y, z, output)
        assert torch.equal(output, torch.where(x * y > 0.5, x * y + z, -(x * y)))

    def test_reductions_over_bfloat16_are_refused(self, triton, operands):
        import triton.language as tl

        @triton.jit
        def kernel(x, output):
            tl.store(output, tl.sum(tl.load(x + tl.arange(0, 16)), axis=0))

        with pytest.raises(Exception, match="convert to float32 first"):
            kernel[(1,)](operands[0], torch.empty(1, dtype=torch.bfloat16))

    def test_repairing_twice_is_repairing_once(self, triton):
        from triton.runtime.interpreter import InterpreterBuilder

        before = InterpreterBuilder.cast_impl
        interpreter.repair_bfloat16()
        assert InterpreterBuilder.cast_impl is before
