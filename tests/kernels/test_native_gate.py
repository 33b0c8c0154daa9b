"""The gates of MLPs in C++ against float64, at the ends of what a float holds too."""

import pytest
import torch

from kernels.cpu.native.bindings import load_library


@pytest.fixture
def library():
    found = load_library()
    if found is None:
        pytest.skip("no compiler")
    return found


def act(x, is_gelu):
    if is_gelu:
        return torch.nn.functional.gelu(x, approximate="tanh")
    return torch.nn.functional.silu(x)


@pytest.mark.parametrize("is_gelu", [False, True], ids=["silu", "gelu"])
@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (3, 37), (5, 5000)], ids=str)
@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0], ids=str)
def test_a_gate_is_the_formula(library, is_gelu, shape, size, generator):
    gate, up = size * torch.randn(2, *shape, generator=generator)
    result = library.gate(torch.cat((gate, up), dim=1), is_gelu)
    expected = act(gate.double(), is_gelu) * up
    # GELU's 1 + tanh loses digits where it is near 0, in torch as here.
    bound = {"rtol": 2e-6, "atol": 4e-7 * size * size}
    torch.testing.assert_close(result.double(), expected, **bound)


@pytest.mark.parametrize("is_gelu", [False, True], ids=["silu", "gelu"])
def test_what_is_far_out_is_zero_or_itself_and_no_number_stays_one(library, is_gelu):
    gate = torch.tensor([[-1e30, -500.0, -88.5, 88.5, 500.0, 1e30, torch.nan, torch.inf]])
    result = library.gate(torch.cat((gate, torch.ones_like(gate)), dim=1), is_gelu)[0]
    assert result[:3].abs().max() < 1e-30
    assert result[3:6].equal(gate[0, 3:6])
    assert result[6].isnan()
    assert result[7] == torch.inf
