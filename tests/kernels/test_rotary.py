"""Rotary embedding: reference against complex multiplication, kernel against the reference."""

import pytest
import torch

from kernels.cpu.rotary import rotary as cpu_rotary
from kernels.reference.rotary import rotary as reference_rotary

# query heads, KV heads, head dimension, rotated dimensions
SHAPES = {
    "pow2": (4, 2, 64, 64),
    "odd-heads": (7, 1, 32, 32),
    "dim-80": (2, 2, 80, 80),
    "partial": (3, 3, 80, 20),
}


@pytest.fixture(params=list(SHAPES.values()), ids=list(SHAPES))
def heads(request, dtype, generator):
    """(query, key, cos, sin) of five tokens; query and key are views of one fused projection."""
    num_heads, num_kv_heads, dim, rotated = request.param
    fused = torch.randn(5, num_heads + 2 * num_kv_heads, dim, generator=generator).to(dtype)
    query, key, _ = fused.split([num_heads, num_kv_heads, num_kv_heads], dim=1)
    angles = 100 * torch.rand(5, rotated // 2, generator=generator)
    return query, key, angles.cos(), angles.sin()


def test_reference_multiplies_by_a_complex_unit(heads, tolerance):
    *states, cos, sin = heads
    unit = torch.complex(cos.double(), sin.double())[:, None]
    half = cos.shape[1]
    for state, turned in zip(states, reference_rotary(*heads), strict=True):
        wide = state.double()
        exact = torch.complex(wide[..., :half], wide[..., half : 2 * half]) * unit
        expected = torch.cat([exact.real, exact.imag, wide[..., 2 * half :]], dim=-1)
        torch.testing.assert_close(turned.double(), expected, **tolerance)


def test_kernel_equals_reference(heads, tolerance, device, launcher):
    results = launcher("rotary")(*(tensor.to(device) for tensor in heads))
    for result, expected in zip(results, reference_rotary(*heads), strict=True):
        torch.testing.assert_close(result.cpu(), expected, **tolerance)


def test_cpu_path_equals_reference_and_leaves_its_arguments_alone(heads, tolerance):
    before = [tensor.clone() for tensor in heads]
    for result, expected in zip(cpu_rotary(*heads), reference_rotary(*heads), strict=True):
        torch.testing.assert_close(result, expected, **tolerance)
    assert all(torch.equal(*pair) for pair in zip(before, heads, strict=True))


def test_angle_zero_changes_nothing(device, launcher):
    query, key = torch.randn(1, 2, 16, device=device), torch.randn(1, 1, 16, device=device)
    results = launcher("rotary")(
        query, key, torch.ones(1, 8, device=device), torch.zeros(1, 8, device=device)
    )
    assert torch.equal(results[0], query)
    assert torch.equal(results[1], key)


def test_no_tokens_is_no_work(device, launcher):
    empty, angles = torch.ones(0, 2, 16, device=device), torch.ones(0, 8, device=device)
    assert launcher("rotary")(empty, empty, angles, angles)[0].shape == (0, 2, 16)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"key": torch.ones(3, 1, 16)}, r"shape of key: got \(3, 1, 16\), expected \(2, 1, 16\)"),
        ({"sin": torch.ones(2, 7)}, r"shape of sin: got \(2, 7\), expected \(2, 8\)"),
        ({"query": torch.ones(2, 2, 8), "key": torch.ones(2, 1, 8)}, "got 16, expected <= 8"),
    ],
    ids=["key", "sin", "rotated"],
)
def test_launcher_names_what_it_got_and_expected(change, complaint, launcher):
    arguments = {
        "query": torch.ones(2, 2, 16),
        "key": torch.ones(2, 1, 16),
        "cos": torch.ones(2, 8),
        "sin": torch.ones(2, 8),
    }
    with pytest.raises(ValueError, match=complaint):
        launcher("rotary")(*(arguments | change).values())
