"""Every block format against gguf-py, or, where it has none, against a formula in numpy."""

import numpy as np
import pytest
import torch
from gguf import quants
from gguf.constants import GGMLQuantizationType

from engine.quant.registry import ROW_FORMATS

BY_NAME = {kind.name: kind for kind in ROW_FORMATS}
IN_GGUF_PY = [name for name in BY_NAME if name not in ("Q8_1", "Q8_K")]
SIMPLE = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"]
HALF_SCALES_AT = {
    **{"Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q8_1": (0,)},
    **{"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)},
}
HOSTILE = np.array(
    [np.inf, -np.inf, np.nan, 0.0, -0.0, 6e-8, -6e-8, 6e-5, 65504.0, -65504.0], np.float16
)


def random_blocks(kind, num):
    return np.random.default_rng(num).integers(0, 256, (num, kind.num_bytes), np.uint8)


def hostile_blocks(kind):
    """Random codes under every pair of hostile scales; MXFP4's exponents are hostile by nature."""
    first, second = (axis.ravel() for axis in np.meshgrid(HOSTILE, HOSTILE))
    blocks = random_blocks(kind, len(first))
    for place, scales in zip(HALF_SCALES_AT.get(kind.name, ()), (first, second), strict=False):
        blocks[:, place : place + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks


def assert_same_bits(ours, theirs):
    """Equal to the last bit and the sign of zeros; one NaN is as good as another."""
    is_nan = np.isnan(theirs)
    assert np.array_equal(np.isnan(ours), is_nan)
    one, other = (np.where(is_nan, np.float32(0), a).view(np.uint32) for a in (ours, theirs))
    assert np.array_equal(one, other)


def by_gguf_py(blocks, name):
    with np.errstate(all="ignore"):
        return quants.dequantize(blocks, GGMLQuantizationType[name])


@pytest.mark.parametrize("name", IN_GGUF_PY)
def test_random_blocks_unpack_bit_for_bit_as_in_gguf_py(name):
    blocks = random_blocks(BY_NAME[name], 10_000)
    ours = BY_NAME[name].dequantize(torch.from_numpy(blocks))
    assert_same_bits(ours.numpy(), by_gguf_py(blocks, name))


@pytest.mark.parametrize("name", IN_GGUF_PY)
def test_hostile_scales_unpack_bit_for_bit_as_in_gguf_py(name):
    blocks = hostile_blocks(BY_NAME[name])
    ours = BY_NAME[name].dequantize(torch.from_numpy(blocks))
    assert_same_bits(ours.numpy(), by_gguf_py(blocks, name))


def test_every_exponent_of_mxfp4_unpacks_as_in_gguf_py():
    blocks = random_blocks(BY_NAME["MXFP4"], 256)
    blocks[:, 0] = np.arange(256)
    ours = BY_NAME["MXFP4"].dequantize(torch.from_numpy(blocks))
    assert_same_bits(ours.numpy(), by_gguf_py(blocks, "MXFP4"))


@pytest.mark.parametrize("make", [lambda kind: random_blocks(kind, 10_000), hostile_blocks])
def test_q8_1_is_its_scale_times_its_codes(make):
    blocks = make(BY_NAME["Q8_1"])
    scales = blocks[:, :2].copy().view("<f2").astype(np.float32)
    with np.errstate(all="ignore"):
        expected = scales * blocks[:, 4:].view(np.int8).astype(np.float32)
    assert_same_bits(BY_NAME["Q8_1"].dequantize(torch.from_numpy(blocks)).numpy(), expected)


def test_q8_k_is_its_scale_times_its_codes():
    blocks = random_blocks(BY_NAME["Q8_K"], 10_000)
    scales = np.array([np.inf, -np.inf, np.nan, 1e-45, -0.0], "<f4")
    blocks[:5, :4] = scales.view(np.uint8).reshape(-1, 4)
    with np.errstate(all="ignore"):
        expected = blocks[:, :4].copy().view("<f4") * blocks[:, 4:260].view(np.int8)
    ours = BY_NAME["Q8_K"].dequantize(torch.from_numpy(blocks))
    assert_same_bits(ours.numpy(), expected.astype(np.float32))


@pytest.mark.parametrize("name", BY_NAME)
def test_codes_scales_and_mins_are_the_weights_exactly(name):
    kind = BY_NAME[name]
    blocks = torch.from_numpy(random_blocks(kind, 200))
    codes, scales, mins = kind.unpack(blocks)
    assert codes.dtype == torch.int8
    group = kind.num_weights // scales.shape[1]
    weights = scales.repeat_interleave(group, 1) * codes
    if mins is not None:
        weights = weights - mins.repeat_interleave(group, 1)
    assert_same_bits(kind.dequantize(blocks).numpy(), weights.numpy())


def sample_rows(num_rows=64):
    """Weights of all sizes, with rows of zeros, of one value and of one sign."""
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((num_rows, 512)) * 10.0 ** rng.integers(-6, 3, (num_rows, 1))
    rows[0] = 0
    rows[1] = -0.25
    rows[2] = np.abs(rows[2])
    rows[3] = -np.abs(rows[3])
    rows[4] = 0
    rows[4, ::37] = 2.0
    rows[5] = np.round(rows[5] / np.abs(rows[5]).max() * 30) / 2  # many in the middle of two codes
    return rows.astype(np.float32)


@pytest.mark.parametrize("name", SIMPLE)
def test_weights_pack_bit_for_bit_as_in_gguf_py(name):
    rows = sample_rows()
    ours = BY_NAME[name].quantize(torch.from_numpy(rows))
    assert np.array_equal(ours.numpy(), quants.quantize(rows, GGMLQuantizationType[name]))


def test_mxfp4_packs_powers_of_two_and_their_neighbours_as_gguf_py():
    powers = 2.0 ** np.arange(-20, 20, dtype=np.float32)
    largest = np.concatenate([powers, np.nextafter(powers, 0), np.nextafter(powers, 1e9)])
    rows = (largest[:, None] * np.linspace(-1, 1, 32, dtype=np.float32)).astype(np.float32)
    ours = BY_NAME["MXFP4"].quantize(torch.from_numpy(rows))
    assert np.array_equal(ours.numpy(), quants.quantize(rows, GGMLQuantizationType.MXFP4))


def test_q8_1_keeps_the_sum_of_its_weights():
    rows = sample_rows()
    blocks = BY_NAME["Q8_1"].quantize(torch.from_numpy(rows)).view(-1, 36).numpy()
    scale = (np.abs(rows.reshape(-1, 32)).max(1) / 127).astype(np.float32)
    sums = blocks[:, 2:4].copy().view("<f2")[:, 0]
    codes = blocks[:, 4:].view(np.int8)
    assert np.array_equal(blocks[:, :2].copy().view("<f2")[:, 0], scale.astype(np.float16))
    assert np.array_equal(sums, (codes.sum(1) * scale).astype(np.float16))
    off = np.abs(codes * scale[:, None] - rows.reshape(-1, 32))
    assert (off <= scale[:, None] * 0.5001).all()


def test_q8_k_keeps_the_sums_of_its_codes_by_sixteens():
    rows = sample_rows()
    packed = BY_NAME["Q8_K"].quantize(torch.from_numpy(rows))
    blocks = packed.view(-1, 292).numpy()
    codes = blocks[:, 4:260].view(np.int8).astype(int)
    sums = blocks[:, 260:].copy().view("<i2")
    assert np.array_equal(sums, codes.reshape(-1, 16, 16).sum(2))
    largest = np.abs(rows.reshape(-1, 256)).max(1, keepdims=True)
    off = np.abs(
        BY_NAME["Q8_K"].dequantize(packed).numpy().reshape(-1, 256) - rows.reshape(-1, 256)
    )
    assert (off <= largest / 127 * 0.5001).all()


@pytest.mark.parametrize("name", BY_NAME)
def test_rows_keep_their_shape_and_their_neighbours_do_not_matter(name):
    kind = BY_NAME[name]
    rows = torch.from_numpy(sample_rows())
    packed = kind.quantize(rows.view(4, 16, 512))
    assert packed.shape == (4, 16, 512 // kind.num_weights * kind.num_bytes)
    assert torch.equal(packed[1, 3], kind.quantize(rows[19]))
    assert kind.dequantize(packed).shape == (4, 16, 512)


@pytest.mark.parametrize("name", BY_NAME)
def test_many_rows_pack_as_few_do(name):
    rows = torch.from_numpy(sample_rows(600))
    packed = BY_NAME[name].quantize(rows)
    assert torch.equal(packed[-7:], BY_NAME[name].quantize(rows[-7:]))
    weights = BY_NAME[name].dequantize(packed)
    assert torch.equal(weights[-7:], BY_NAME[name].dequantize(packed[-7:]))


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_pack_as_the_same_numbers_in_float32(name, dtype):
    rows = torch.from_numpy(sample_rows(8)).to(dtype)
    assert torch.equal(BY_NAME[name].quantize(rows), BY_NAME[name].quantize(rows.float()))


@pytest.mark.parametrize("name", BY_NAME)
def test_rows_of_no_whole_number_of_blocks_are_refused(name):
    kind = BY_NAME[name]
    with pytest.raises(ValueError, match="no whole number of"):
        kind.quantize(torch.zeros(2, kind.num_weights + 16))
    with pytest.raises(ValueError, match="no whole number of"):
        kind.dequantize(torch.zeros(2, kind.num_bytes + 1, dtype=torch.uint8))


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_finite_numbers_are_refused(name, bad):
    rows = torch.zeros(2, 256)
    rows[1, 100] = bad
    with pytest.raises(ValueError, match="infinite or not a number"):
        BY_NAME[name].quantize(rows)
