"""RMSNorm in C++ against the reference, and its bits against themselves."""

import pytest
import torch

from kernels.cpu.native.bindings import load_library
from kernels.reference.add_rms_norm import add_rms_norm as reference_add_rms_norm
from kernels.reference.rms_norm import rms_norm as reference_rms_norm

EPS = 1e-6


@pytest.fixture
def library():
    found = load_library()
    if found is None:
        pytest.skip("no compiler")
    return found


@pytest.fixture(params=[(1, 1), (3, 40), (33, 1024), (5, 4, 64), (0, 32)], ids=str)
def x(request, generator):
    return torch.randn(request.param, generator=generator)


@pytest.fixture
def weight(x, generator):
    return torch.randn(x.shape[-1], generator=generator)


def test_a_norm_is_the_references(library, x, weight):
    result, same = library.rms_norm(x, None, weight, EPS)
    torch.testing.assert_close(result, reference_rms_norm(x, weight, EPS), rtol=2e-6, atol=2e-6)
    assert same is x


def test_a_norm_of_a_sum_is_the_references(library, x, weight, generator):
    residual = torch.randn(x.shape, generator=generator)
    result, total = library.rms_norm(x, residual, weight, EPS)
    expected = reference_add_rms_norm(x, residual, weight, EPS)
    torch.testing.assert_close(result, expected[0], rtol=2e-6, atol=2e-6)
    assert total.equal(expected[1])


def test_heads_inside_longer_rows_are_taken(library, generator):
    heads = torch.randn(3, 512, generator=generator)[:, 128:384].unflatten(-1, (-1, 64))
    weight = torch.ones(64)
    result, _ = library.rms_norm(heads, None, weight, EPS)
    torch.testing.assert_close(result, reference_rms_norm(heads, weight, EPS), rtol=2e-6, atol=2e-6)


def test_a_rows_bits_do_not_depend_on_the_rows_beside_it(library, generator):
    x, weight = torch.randn(40, 96, generator=generator), torch.ones(96)
    together, _ = library.rms_norm(x, None, weight, EPS)
    alone = [library.rms_norm(row[None], None, weight, EPS)[0] for row in x]
    assert together.equal(torch.cat(alone))
