"""The SwiGLU gate: reference against float64, kernel against the reference."""

import pytest
import torch

from kernels.cpu import silu_mul as cpu
from kernels.reference.silu_mul import silu_mul as reference_silu_mul

SHAPES = {"one": (1, 1), "odd": (3, 37), "two-tiles": (2, 2100), "no-rows": (0, 16)}


@pytest.fixture(params=list(SHAPES.values()), ids=list(SHAPES))
def gate_up(request, dtype, generator):
    num_rows, width = request.param
    wide = 4 * torch.randn(num_rows, 2 * width + 8, generator=generator)
    return wide.to(dtype)[:, : 2 * width]


def test_reference_is_the_formula_in_float64(gate_up, tolerance):
    gate, up = gate_up.double().chunk(2, dim=-1)
    exact = gate / (1 + torch.exp(-gate)) * up
    torch.testing.assert_close(reference_silu_mul(gate_up).double(), exact, **tolerance)


def test_kernel_equals_reference(gate_up, tolerance, device, launcher):
    result = launcher("silu_mul")(gate_up.to(device))
    torch.testing.assert_close(result.cpu(), reference_silu_mul(gate_up), **tolerance)


@pytest.mark.parametrize("piece", [1, 150, 1 << 18])
def test_cpu_path_equals_reference_whatever_its_pieces(gate_up, piece, monkeypatch):
    monkeypatch.setattr(cpu, "_PIECE", piece)
    # A vector unit's exponential and its remainder's differ in the last bit before rounding.
    torch.testing.assert_close(cpu.silu_mul(gate_up), reference_silu_mul(gate_up))


def test_an_odd_width_is_refused(launcher):
    with pytest.raises(ValueError, match="columns of gate_up modulo 2: got 1, expected 0"):
        launcher("silu_mul")(torch.ones(2, 5))
