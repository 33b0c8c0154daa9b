"""AFFINE and FP8 rows against a loop over weights in numpy."""

import numpy as np
import pytest
import torch

from engine.quant.scaled_rows import AFFINE4_ROWS, AFFINE8_ROWS, FP8_ROWS, rows_format
from kernels import ops, packed
from kernels.packed import PackedMatrix

AFFINE = [*AFFINE4_ROWS.values(), *AFFINE8_ROWS.values()]
FP8 = [*FP8_ROWS.values()]
every_format = pytest.mark.parametrize("kind", [*AFFINE, *FP8], ids=lambda kind: kind.name)
HOSTILE = torch.tensor([[float("inf"), float("nan"), -0.0, 1e-45], [1e38, -1e-40, 0.0, 3.0]])


def sample(kind, num_rows=5, groups=3):
    """Codes [R, C], scales and zeros [R, C / G]."""
    generator = torch.Generator().manual_seed(kind.kind)
    shape = (num_rows, groups * kind.num_weights)
    codes = torch.randint(0, 1 << kind.bits, shape, generator=generator).to(torch.uint8)
    scales = torch.randn(num_rows, groups, generator=generator)
    zeros = torch.randn(num_rows, groups, generator=generator) + 2 ** (kind.bits - 1)
    return codes, scales, zeros if kind.has_zeros else None


def e4m3(code):
    """A number of torch.float8_e4m3fn by its definition."""
    sign, exponent, mantissa = code >> 7, code >> 3 & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    size = mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return -size if sign else size


def weights_of(kind, codes, scales, zeros):
    """Float32 operation by operation."""
    group = codes.shape[1] // scales.shape[1]
    scales = scales.repeat_interleave(group, 1).numpy()
    with np.errstate(all="ignore"):
        if zeros is None:
            numbers = np.array([e4m3(code) for code in range(256)], dtype=np.float32)
            return numbers[codes.numpy()] * scales
        return (
            codes.numpy().astype(np.float32) - zeros.repeat_interleave(group, 1).numpy()
        ) * scales


@every_format
def test_packed_rows_unpack_to_the_formula(kind):
    parts = sample(kind)
    rows = kind.pack(*parts)
    assert rows.shape == (5, 3 * kind.num_bytes)
    np.testing.assert_array_equal(kind.dequantize(rows).numpy(), weights_of(kind, *parts))


@every_format
def test_hostile_scales_unpack_to_the_formula(kind):
    codes, _, zeros = sample(kind, 2, 4)
    rows = kind.pack(codes, HOSTILE, zeros)
    expected = weights_of(kind, codes, HOSTILE, zeros)
    np.testing.assert_array_equal(kind.dequantize(rows).numpy(), expected)


@every_format
def test_a_scale_may_stand_for_several_blocks(kind):
    codes, scales, zeros = sample(kind, 3, 4)
    few = [None if numbers is None else numbers[:, ::2] for numbers in (scales, zeros)]
    expected = weights_of(kind, codes, *few)
    np.testing.assert_array_equal(kind.dequantize(kind.pack(codes, *few)).numpy(), expected)


@every_format
def test_the_kernels_know_the_rows_by_their_number(kind):
    assert getattr(packed, kind.name) == kind.kind
    rows = kind.pack(*sample(kind))
    matrix = PackedMatrix(kind.kind, 5, 3 * kind.num_weights, rows)
    indices = torch.tensor([4, 0, 4])
    expected = kind.dequantize(rows)[indices].numpy()
    np.testing.assert_array_equal(ops.packed_rows(matrix, indices).numpy(), expected)


def test_every_e4m3_number_is_held():
    codes = torch.arange(256, dtype=torch.uint8).view(1, 256)
    scales = torch.ones(1, 2)
    unpacked = FP8_ROWS[128].dequantize(FP8_ROWS[128].pack(codes, scales))
    np.testing.assert_array_equal(unpacked.numpy()[0], [e4m3(code) for code in range(256)])


def test_codes_may_come_as_float8():
    codes = torch.randn(2, 64).to(torch.float8_e4m3fn)
    rows = FP8_ROWS[64].pack(codes, torch.ones(2, 1))
    assert FP8_ROWS[64].dequantize(rows).equal(codes.float())


@pytest.mark.parametrize(
    ("group", "size"), [(128, 128), (1024, 128), (96, 32), (64, 64), (16, None), (0, None)]
)
def test_the_largest_blocks_that_fit_a_group_are_chosen(group, size):
    assert rows_format(AFFINE4_ROWS, group) == (None if size is None else AFFINE4_ROWS[size])


def test_what_does_not_fit_is_refused():
    kind = AFFINE4_ROWS[64]
    codes, scales, zeros = sample(kind)
    with pytest.raises(ValueError, match="has zeros"):
        kind.pack(codes, scales)
    with pytest.raises(ValueError, match="has no zeros"):
        FP8_ROWS[64].pack(codes, scales, zeros)
    with pytest.raises(ValueError, match=r"\[5, 2\] scales or zeros do not fit codes \[5, 192\]"):
        kind.pack(codes, scales[:, :2], zeros)
    with pytest.raises(ValueError, match="codes above 15"):
        kind.pack(codes + 16, scales, zeros)
    with pytest.raises(ValueError, match="no whole number of AFFINE4_64 blocks"):
        kind.dequantize(torch.zeros(2, 41, dtype=torch.uint8))
