"""The GEGLU gate: reference against float64, kernel against the reference."""

import math

import pytest
import torch

from kernels.reference.gelu_mul import gelu_mul as reference_gelu_mul

SHAPES = {"one": (1, 1), "odd": (3, 37), "two-tiles": (2, 2100), "no-rows": (0, 16)}


@pytest.fixture(params=list(SHAPES.values()), ids=list(SHAPES))
def gate_up(request, dtype, generator):
    num_rows, width = request.param
    wide = 4 * torch.randn(num_rows, 2 * width + 8, generator=generator)
    return wide.to(dtype)[:, : 2 * width]


def test_reference_is_the_formula_in_float64(gate_up, tolerance):
    gate, up = gate_up.double().chunk(2, dim=-1)
    bent = torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3))
    exact = gate / 2 * (1 + bent) * up
    torch.testing.assert_close(reference_gelu_mul(gate_up).double(), exact, **tolerance)


def test_kernel_equals_reference(gate_up, tolerance, device, launcher):
    result = launcher("gelu_mul")(gate_up.to(device))
    torch.testing.assert_close(result.cpu(), reference_gelu_mul(gate_up), **tolerance)


def test_gates_far_from_zero_are_passed_or_closed(device, launcher):
    gate_up = torch.tensor([[100.0, -100.0, 3.0, 3.0]])
    expected = torch.tensor([[300.0, 0.0]])
    assert torch.equal(reference_gelu_mul(gate_up), expected)
    assert torch.equal(launcher("gelu_mul")(gate_up.to(device)).cpu(), expected)


def test_an_odd_width_is_refused(launcher):
    with pytest.raises(ValueError, match="columns of gate_up modulo 2: got 1, expected 0"):
        launcher("gelu_mul")(torch.ones(2, 5))
