"""Products by groups: reference against float64, kernel and CPU path against the reference."""

import pytest
import torch

from kernels.cpu.grouped_linear import grouped_linear as cpu_grouped_linear
from kernels.reference.grouped_linear import grouped_linear as reference_grouped_linear

# Rows of each group, outputs, inputs.
SHAPES = {
    "one": ([1], 1, 1),
    "odd": ([3, 1, 5], 7, 13),
    "empty-groups": ([0, 4, 0, 0, 2, 0], 20, 33),
    "all-in-the-last": ([0, 0, 19], 65, 40),
    "tiles": ([17, 0, 40, 16, 1], 130, 150),
    "many-rows": ([150, 131], 140, 70),
    "no-rows": ([0, 0], 8, 8),
}


@pytest.fixture(params=list(SHAPES.values()), ids=list(SHAPES))
def arguments(request, dtype, generator):
    sizes, num_outputs, num_inputs = request.param
    x = torch.randn(sum(sizes), num_inputs + 3, generator=generator)
    weight = torch.randn(len(sizes), num_outputs + 2, num_inputs, generator=generator)
    weight = weight * num_inputs**-0.5
    starts = torch.tensor([0, *sizes]).cumsum(0).to(torch.int32)
    return x.to(dtype)[:, :num_inputs], weight.to(dtype)[:, :num_outputs], starts


def in_float64(x, weight, starts):
    groups = zip(x.double().split(starts.diff().tolist()), weight.double(), strict=True)
    return torch.cat([rows @ matrix.T for rows, matrix in groups])


def test_reference_is_the_formula_in_float64(arguments, tolerance):
    result = reference_grouped_linear(*arguments)
    assert result.dtype == arguments[0].dtype
    torch.testing.assert_close(result.double(), in_float64(*arguments), **tolerance)


def test_cpu_path_is_the_formula_in_float64(arguments, tolerance):
    result = cpu_grouped_linear(*arguments)
    assert result.dtype == arguments[0].dtype
    torch.testing.assert_close(result.double(), in_float64(*arguments), **tolerance)


def test_kernel_equals_reference(arguments, tolerance, device, launcher):
    result = launcher("grouped_linear")(*(tensor.to(device) for tensor in arguments))
    torch.testing.assert_close(result.cpu(), reference_grouped_linear(*arguments), **tolerance)


def test_starts_of_another_type_or_number_are_refused(launcher):
    x, weight = torch.ones(2, 4), torch.ones(3, 5, 4)
    with pytest.raises(ValueError, match=r"dtype of starts: got torch.int64"):
        launcher("grouped_linear")(x, weight, torch.tensor([0, 1, 1, 2]))
    with pytest.raises(ValueError, match=r"shape of starts: got \(3,\), expected \(4,\)"):
        launcher("grouped_linear")(x, weight, torch.tensor([0, 1, 2], dtype=torch.int32))


def test_weights_of_other_inputs_are_refused(launcher):
    starts = torch.tensor([0, 2], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"shape of x: got \(2, 4\), expected \(2, 5\)"):
        launcher("grouped_linear")(torch.ones(2, 4), torch.ones(1, 3, 5), starts)
