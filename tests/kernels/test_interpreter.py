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


def test_choosing_the_compiler_after_triton_was_imported_for_the_interpreter_is_refused(
    monkeypatch,
):
    monkeypatch.setitem(sys.modules, "triton", object())
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(RuntimeError, match="choose the compiler before"):
        interpreter.use_compiler()


@pytest.mark.parametrize("mode", ["interpreter", "compiler"])
def test_a_mode_is_chosen_before_triton_is_imported(mode, monkeypatch):
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.setenv("TRITON_INTERPRET", "0" if mode == "interpreter" else "1")
    getattr(interpreter, f"use_{mode}")()
    assert interpreter.is_interpreting() == (mode == "interpreter")


def e4m3_numbers():
    """Every finite number of e4m3 from its definition: 4 bits of exponent, 3 of mantissa."""
    bits = np.arange(0x7F)
    exponents, mantissas = bits >> 3, bits & 7
    normal = (1 + mantissas / 8) * 2.0 ** (exponents - 7)
    return np.where(exponents == 0, mantissas / 8 * 2.0**-6, normal)


def test_widening_8_bit_floats_is_their_definition():
    bits = np.arange(0x7F, dtype=np.uint8)
    assert np.array_equal(interpreter.float8_to_float32(bits, "fp8e4nv"), e4m3_numbers())
    assert np.isnan(
        interpreter.float8_to_float32(np.array([0x7F, 0xFF], np.uint8), "fp8e4nv")
    ).all()


def test_rounding_to_8_bits_is_to_the_nearest_and_the_largest_beyond():
    numbers = e4m3_numbers()
    middles = (numbers[1:] + numbers[:-1]) / 2
    even = np.arange(0x7E) + np.arange(0x7E) % 2
    for values, expected in (
        (numbers, np.arange(0x7F)),
        (middles, even),
        (middles * (1 + 1e-6), np.arange(1, 0x7F)),
        (middles * (1 - 1e-6), np.arange(0x7E)),
        (np.array([449.0, 1e9, np.inf, np.nan]), np.array([0x7E, 0x7E, 0x7E, 0x7F])),
    ):
        bits = interpreter.float32_to_float8(values.astype(np.float32), "fp8e4nv")
        assert np.array_equal(bits, expected)


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

    def test_8_bit_floats_are_rounded_and_widened_like_torchs(self, triton, generator):
        import triton.language as tl

        @triton.jit
        def kernel(x, stored, back):
            i = tl.arange(0, 1024)
            tl.store(stored + i, tl.load(x + i).to(tl.float8e4nv))
            tl.store(back + i, tl.load(stored + i).to(tl.bfloat16))

        x = 100 * torch.randn(1024, generator=generator).bfloat16()
        stored, back = torch.empty(1024, dtype=torch.float8_e4m3fn), torch.empty_like(x)
        kernel[(1,)](x, stored, back)
        expected = x.clamp(-448, 448).to(torch.float8_e4m3fn)
        assert stored.view(torch.uint8).equal(expected.view(torch.uint8))
        assert back.equal(expected.bfloat16())

    def test_inline_assembly_is_its_twin(self, triton):
        import triton.language as tl

        asm = tl.constexpr("lop3.b32 $0, $1, $2, 0, 0xC0;")
        other = tl.constexpr("not.b32 $0, $1;")
        interpreter.teach_asm(asm.value, lambda x, y: x & y)

        @triton.jit
        def kernel(x, y, output, ASM: tl.constexpr):
            i = tl.arange(0, 16)
            pair = [tl.load(x + i), tl.load(y + i)]
            both = tl.inline_asm_elementwise(ASM, "=r,r,r", pair, tl.int32, True, 1)
            tl.store(output + i, both)

        x, y = torch.arange(16).int(), torch.full((16,), 5).int()
        output = torch.empty_like(x)
        kernel[(1,)](x, y, output, asm)
        assert output.equal(x & 5)
        with pytest.raises(Exception, match="teach_asm knows no twin of 'not"):
            kernel[(1,)](x, y, output, other)

    def test_repairing_twice_is_repairing_once(self, triton):
        from triton.runtime.interpreter import InterpreterBuilder

        before = InterpreterBuilder.cast_impl
        interpreter.repair_bfloat16()
        assert InterpreterBuilder.cast_impl is before
