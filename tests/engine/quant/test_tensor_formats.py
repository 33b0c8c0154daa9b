"""HQQ and FP8, which pack a whole matrix, against plain formulas."""

import numpy as np
import pytest
import torch

from engine.quant.fp8 import FP8
from engine.quant.hqq import HQQ4, HQQ8

KINDS = [HQQ4, HQQ8, FP8]
IDS = [kind.name for kind in KINDS]


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def hqq_in_float64(weights, bits):
    """The algorithm of the paper, whole matrix at once, early stop and all."""
    w = weights.double().numpy().reshape(64, -1)
    top = 2**bits - 1
    scale = np.minimum(top / (w.max(0) - w.min(0)), 2e4)
    zero, beta, best = -w.min(0) * scale, 10.0, 1e4
    for _ in range(10):
        codes = np.clip(np.rint(w * scale + zero), 0, top)
        missing = w - (codes - zero) / scale
        with np.errstate(divide="ignore"):
            shrunk = np.maximum(np.abs(missing) - np.abs(missing) ** -0.3 / beta, 0)
        zero = (codes - (w - np.sign(missing) * shrunk) * scale).mean(0)
        beta *= 1.01
        if np.abs(missing).mean() >= best:
            break
        best = np.abs(missing).mean()
    return np.clip(np.rint(w * scale + zero), 0, top), scale, zero


@pytest.mark.parametrize("kind", [HQQ4, HQQ8], ids=["HQQ4", "HQQ8"])
def test_hqq_finds_the_zeros_of_the_paper_s_algorithm(kind):
    weights = normal(96, 160)
    packed = kind.quantize(weights)
    codes, scale, zero = hqq_in_float64(weights, 4 if kind is HQQ4 else 8)
    np.testing.assert_allclose(packed.scales.numpy(), 1 / scale, rtol=1e-5)
    np.testing.assert_allclose(packed.zeros.numpy(), zero, rtol=1e-3, atol=1e-3)
    expected = ((codes - zero) / scale).reshape(96, 160)
    off = np.abs(kind.dequantize(packed).numpy() - expected)
    assert np.mean(off < 1e-4) > 0.999  # the others sat in the middle between two codes


def test_hqq4_has_the_first_rows_in_the_high_halves():
    packed = HQQ4.quantize(normal(64, 40))
    codes, scales, zeros, _ = packed
    assert codes.shape == (32, 40)
    assert zeros is not None
    weights = HQQ4.dequantize(packed)
    assert torch.equal(weights[3], ((codes[3] >> 4).float() - zeros) * scales)
    assert torch.equal(weights[35], ((codes[3] & 15).float() - zeros) * scales)


def test_a_matrix_of_one_value_comes_back_in_hqq():
    weights = torch.full((8, 64), -0.75)
    for kind in (HQQ4, HQQ8):
        assert torch.allclose(kind.dequantize(kind.quantize(weights)), weights, atol=1e-4)


def test_hqq_does_not_hang_on_how_many_threads_there_are():
    weights = normal(256, 4096)
    packed = HQQ4.quantize(weights)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 2)
        again = HQQ4.quantize(weights)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(packed.codes, again.codes)


def test_fp8_is_the_nearest_e4m3_number_to_every_weight():
    weights = normal(8, 96)
    packed = FP8.quantize(weights)
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    numbers = numbers[numbers.isfinite()] * packed.scales
    nearest = (weights.unsqueeze(-1) - numbers).abs().amin(-1)
    off = (FP8.dequantize(packed) - weights).abs()
    assert torch.allclose(off, nearest, atol=1e-6)
    assert off.flatten()[weights.abs().argmax()] < 1e-6


def test_fp8_of_zeros_is_zeros():
    assert torch.equal(FP8.dequantize(FP8.quantize(torch.zeros(4, 4))), torch.zeros(4, 4))


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_shapes_and_other_dtypes_come_back(kind):
    weights = normal(24, 32).bfloat16()
    unpacked = kind.dequantize(kind.quantize(weights))
    assert unpacked.shape == (24, 32)
    assert unpacked.dtype == torch.float32
    assert (unpacked - weights).abs().max() < 0.3


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_finite_numbers_are_refused(kind, bad):
    weights = normal(8, 64)
    weights[1, 1] = bad
    with pytest.raises(ValueError, match="infinite or not a number"):
        kind.quantize(weights)


def test_hqq_refuses_a_matrix_that_is_no_whole_number_of_groups():
    with pytest.raises(ValueError, match="no whole number of HQQ groups"):
        HQQ4.quantize(normal(3, 11))
