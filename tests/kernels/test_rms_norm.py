"""RMSNorm and its fusion with a residual add: reference against float64, kernels against that."""

import pytest
import torch
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from kernels import ops
from kernels.reference.add_rms_norm import add_rms_norm as reference_add_rms_norm
from kernels.reference.rms_norm import rms_norm as reference_rms_norm

EPS = 1e-5
SHAPES = {
    "one": (1, 1),
    "odd": (3, 37),
    "heads": (3, 5, 80),
    "wide": (2, 1500),
    "no-rows": (0, 16),
}


@pytest.fixture(params=list(SHAPES.values()), ids=list(SHAPES))
def rows(request, dtype, generator):
    """(x, weight); x is a slice of something wider, as a fused projection's heads are."""
    *lead, dim = request.param
    x = torch.randn(*lead, dim + 8, generator=generator).to(dtype)[..., :dim]
    return x, torch.randn(dim, generator=generator).to(dtype)


def test_reference_is_the_formula_in_float64(rows, tolerance):
    x, weight = rows
    exact = torch.nn.functional.rms_norm(x.double(), x.shape[-1:], weight.double(), EPS)
    torch.testing.assert_close(reference_rms_norm(x, weight, EPS).double(), exact, **tolerance)


def test_kernel_equals_reference(rows, tolerance, device, launcher):
    x, weight = rows
    result = launcher("rms_norm")(x.to(device), weight.to(device), EPS)
    assert result.is_contiguous()
    torch.testing.assert_close(result.cpu(), reference_rms_norm(x, weight, EPS), **tolerance)


HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])


@HALVES
@pytest.mark.parametrize("is_wide", [False, True], ids=["llama", "gemma"])
def test_kernels_round_where_the_reference_rounds(is_wide, dtype, generator, device, launcher):
    x, residual = (torch.randn(8, 512, generator=generator).to(dtype) for _ in range(2))
    weight = torch.randn(512, generator=generator).to(torch.float32 if is_wide else dtype)
    placed = [tensor.to(device) for tensor in (x, residual, weight)]
    normed = launcher("rms_norm")(placed[0], placed[2], EPS)
    fused, _ = launcher("add_rms_norm")(*placed, EPS)
    expected, _ = reference_add_rms_norm(x, residual, weight, EPS)
    assert normed.dtype == fused.dtype == expected.dtype == dtype
    # A sum in another order moves a few values over a tie; a rounding too few moves many.
    assert (normed.cpu() == reference_rms_norm(x, weight, EPS)).float().mean() > 0.99
    assert (fused.cpu() == expected).float().mean() > 0.99


@HALVES
def test_weights_of_the_rows_type_round_as_transformers_llama(dtype, generator):
    x, weight = (torch.randn(shape, generator=generator).to(dtype) for shape in ((8, 512), 512))
    norm = LlamaRMSNorm(512, EPS).to(dtype)
    norm.weight.data.copy_(weight)
    assert torch.equal(reference_rms_norm(x, weight, EPS), norm(x))


@HALVES
def test_float32_weights_round_as_transformers_gemma(dtype, generator):
    x, weight = (torch.randn(shape, generator=generator).to(dtype) for shape in ((8, 512), 512))
    norm = GemmaRMSNorm(512, EPS).to(dtype)
    norm.weight.data.copy_(weight)
    result = reference_rms_norm(x, 1 + weight.float(), EPS)
    assert result.dtype == dtype
    assert torch.equal(result, norm(x))
    residual = torch.randn(8, 512, generator=generator).to(dtype)
    fused, total = reference_add_rms_norm(x, residual, 1 + weight.float(), EPS)
    assert torch.equal(fused, norm(x + residual))
    assert total.dtype == dtype


def test_a_row_of_zeros_stays_zero(device, launcher):
    result = launcher("rms_norm")(torch.zeros(2, 16, device=device), torch.ones(16).to(device), EPS)
    assert result.count_nonzero() == 0


def test_add_reference_is_the_formula_in_float64(dtype, tolerance, generator):
    x, residual = (torch.randn(5, 37, generator=generator).to(dtype) for _ in range(2))
    weight = torch.randn(37, generator=generator).to(dtype)
    normed, hidden = reference_add_rms_norm(x, residual, weight, EPS)
    torch.testing.assert_close(hidden.double(), x.double() + residual.double(), **tolerance)
    exact = torch.nn.functional.rms_norm(hidden.double(), (37,), weight.double(), EPS)
    torch.testing.assert_close(normed.double(), exact, **tolerance)


@pytest.mark.parametrize("shape", [(1, 1), (3, 37), (2, 1500), (0, 16)], ids=str)
def test_add_kernel_equals_reference(shape, dtype, tolerance, generator, device, launcher):
    num_rows, dim = shape
    x, residual = (
        torch.randn(num_rows, dim + pad, generator=generator).to(dtype)[:, :dim] for pad in (3, 8)
    )
    weight = torch.randn(dim, generator=generator).to(dtype)
    arguments = [tensor.to(device) for tensor in (x, residual, weight)]
    normed, hidden = launcher("add_rms_norm")(*arguments, EPS)
    expected_normed, expected_hidden = reference_add_rms_norm(x, residual, weight, EPS)
    assert torch.equal(hidden.cpu(), expected_hidden)
    torch.testing.assert_close(normed.cpu(), expected_normed, **tolerance)


def test_add_leaves_its_arguments_alone(device, launcher):
    x, residual = torch.ones(2, 16, device=device), torch.ones(2, 16, device=device)
    for add in (launcher("add_rms_norm"), ops.add_rms_norm):
        add(x, residual, torch.ones(16, device=device), EPS)
        assert (x == 1).all()
        assert (residual == 1).all()


@pytest.mark.parametrize(
    ("x", "weight", "complaint"),
    [
        (torch.ones(4), torch.ones(4), "dimensions of x: got 1, expected 2 or 3"),
        (torch.ones(2, 4), torch.ones(5), r"shape of weight: got \(5,\), expected \(4,\)"),
        (torch.ones(4, 4).T, torch.ones(4), "last stride of x: got 4, expected 1"),
    ],
    ids=["dimensions", "weight", "stride"],
)
def test_launcher_names_what_it_got_and_expected(x, weight, complaint, launcher):
    with pytest.raises(ValueError, match=complaint):
        launcher("rms_norm")(x, weight, EPS)


def test_add_launcher_wants_one_dtype(launcher):
    x = torch.ones(2, 4)
    with pytest.raises(ValueError, match=r"dtype of residual: got torch.float16, expected torch"):
        launcher("add_rms_norm")(x, x.half(), torch.ones(4), EPS)


@pytest.mark.parametrize("num_parts", [1, 2, 5])
def test_a_product_in_parts_is_summed_and_rounded_first(
    num_parts, dtype, generator, device, launcher
):
    parts = torch.randn(num_parts, 3, 90, generator=generator)[..., :70]
    residual = torch.randn(3, 70, generator=generator).to(dtype)
    weight = 1 + 0.1 * torch.randn(70, generator=generator).to(dtype)
    whole = parts.double().sum(0).float().to(dtype)
    expected = reference_add_rms_norm(whole, residual, weight, EPS)
    placed = [tensor.to(device) for tensor in (parts, residual, weight)]
    near = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    for results in (
        launcher("add_rms_norm")(*placed, EPS),
        ops.add_rms_norm(parts, residual, weight, EPS),
    ):
        for result, truth in zip(results, expected, strict=True):
            assert result.dtype == dtype
            torch.testing.assert_close(result.cpu(), truth, rtol=near, atol=near)
