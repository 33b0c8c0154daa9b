"""Low-rank adapters: reference against float64, kernels against the reference."""

import pytest
import torch

from kernels.reference.lora_expand import lora_expand as reference_lora_expand
from kernels.reference.lora_shrink import lora_shrink as reference_lora_shrink

# Rows, inputs, outputs, rank.
SHAPES = [(1, 1, 1, 1), (5, 300, 130, 8), (4, 64, 257, 20)]


@pytest.fixture(params=SHAPES, ids=str)
def layer(request, dtype, generator):
    num_rows, num_inputs, num_outputs, rank = request.param

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    x, output = normal(num_rows, num_inputs + 3)[:, :num_inputs], normal(num_rows, num_outputs)
    down = normal(3, rank + 1, num_inputs)[:, :rank] * num_inputs**-0.5
    up = normal(3, num_outputs, rank + 5)[..., :rank]
    adapters = torch.tensor([2, -1, 0, 2, 1], dtype=torch.int32)[:num_rows]
    return x, down, adapters, output, up, torch.tensor([0.5, 2.0, -1.0])


def in_float64(x, down, adapters, output, up, scales):
    """Row by row, as it is defined."""
    rows = []
    for row, adapter, before in zip(x.double(), adapters.tolist(), output.double(), strict=True):
        change = up[adapter].double() @ (down[adapter].double() @ row) * scales[adapter].double()
        rows.append(before if adapter < 0 else before + change)
    return torch.stack(rows)


def test_references_are_the_formula_in_float64(layer, tolerance):
    x, down, adapters, output, up, scales = layer
    shrunk = reference_lora_shrink(x, down, adapters)
    assert shrunk.dtype == torch.float32
    result = reference_lora_expand(output, shrunk, up, adapters, scales)
    assert result.dtype == output.dtype
    torch.testing.assert_close(result.double(), in_float64(*layer), **tolerance)


def test_kernels_equal_their_references(layer, tolerance, device, launcher):
    x, down, adapters, output, up, scales = (tensor.to(device) for tensor in layer)
    shrunk = launcher("lora_shrink")(x, down, adapters)
    expected = reference_lora_shrink(*layer[:3])
    torch.testing.assert_close(shrunk.cpu(), expected, rtol=1e-5, atol=1e-5)
    result = launcher("lora_expand")(output, shrunk, up, adapters, scales)
    torch.testing.assert_close(result.cpu().double(), in_float64(*layer), **tolerance)


def test_rows_without_an_adapter_stay_to_the_bit(device, launcher):
    output = torch.tensor([[0.1, -0.0]], device=device)
    none = torch.tensor([-1], dtype=torch.int32, device=device)
    x, down = torch.ones(1, 4, device=device), torch.ones(1, 2, 4, device=device)
    shrunk = launcher("lora_shrink")(x, down, none)
    assert shrunk.eq(0).all()
    up, scales = torch.ones(1, 2, 2, device=device), torch.ones(1, device=device)
    assert launcher("lora_expand")(output, shrunk, up, none, scales).equal(output)


def test_adapters_of_another_type_are_refused(launcher):
    x, down = torch.ones(2, 4), torch.ones(3, 5, 4)
    with pytest.raises(ValueError, match=r"dtype of adapters: got torch.int64"):
        launcher("lora_shrink")(x, down, torch.tensor([0, 1]))
