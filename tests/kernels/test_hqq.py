"""HQQ matrices: products and rows against what engine/quant/hqq.py unpacks."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from engine.quant.hqq import HQQ4, HQQ8
from engine.quant.memory_form import memory_form
from engine.quant.tensor_format import PackedTensor
from kernels import ops
from kernels.cpu.native.bindings import load_library
from kernels.cpu.native.hqq import HqqLibrary, load_hqq
from kernels.hqq_parts import hqq_matrix
from kernels.packed import HQQ4 as HQQ4_KIND, HQQ8 as HQQ8_KIND
from kernels.packing import pack_hqq
from tests.kernels.packed_blocks import random_matrix, tiled

NUM_COLUMNS = 416
EXACT, INT8 = 2e-6, 0.02  # root mean square error, relative to the results' own
FORMS = {4: (HQQ4, HQQ4_KIND), 8: (HQQ8, HQQ8_KIND)}

both = pytest.mark.parametrize("bits", [4, 8], ids=["HQQ4", "HQQ8"])


@pytest.fixture(scope="module")
def library() -> HqqLibrary:
    found = load_hqq()
    if found is None:
        pytest.skip("no compiler")
    return found


@pytest.fixture
def inputs(generator):
    return torch.randn(150, NUM_COLUMNS, generator=generator)


def random_tensor(bits, num_rows=192, num_columns=NUM_COLUMNS):
    generator = torch.Generator().manual_seed(bits)
    groups = num_rows * num_columns // 64
    codes = torch.randint(0, 256, (8 * bits, groups), generator=generator).to(torch.uint8)
    scales = torch.rand(groups, generator=generator) + 0.1
    zeros = (0.3 + 0.4 * torch.rand(groups, generator=generator)) * 2**bits
    return PackedTensor(codes, scales, zeros, (num_rows, num_columns))


def untiled(bits, packed):
    assert packed.zeros is not None
    return hqq_matrix(FORMS[bits][1], packed.codes, packed.scales, packed.zeros, *packed.shape)


def matrix_of(packed):
    return pack_hqq(untiled(len(packed.codes) // 8, packed))


def weights_of(bits, packed):
    return FORMS[bits][0].dequantize(packed)


def error(actual, expected):
    difference = actual.double() - expected
    return float(difference.square().mean().sqrt() / expected.square().mean().sqrt())


@both
def test_rows_are_the_weights_to_the_bit(bits, library):
    packed = random_tensor(bits)
    matrix, indices = matrix_of(packed), torch.tensor([191, 0, 3, 3, 64])
    assert matrix.is_tiled
    expected = weights_of(bits, packed)[indices]
    assert ops.packed_rows(matrix, indices).equal(expected)
    assert ops.packed_rows(untiled(bits, packed), indices).equal(expected)


@both
def test_products_are_those_of_the_weights(bits, inputs, library):
    packed = random_tensor(bits)
    expected = inputs.double() @ weights_of(bits, packed).double().T
    assert error(ops.packed_linear(inputs, [untiled(bits, packed)]), expected) < EXACT
    matrix = matrix_of(packed)
    for count in (1, 2, 3, 8, 64, 65, 150):
        for is_exact, most in ((True, EXACT), (False, INT8)):
            result = ops.packed_linear(inputs[:count], [matrix], is_exact)
            assert error(result, expected[:count]) < most


@both
def test_inputs_that_are_all_above_zero_lose_nothing(bits, inputs, library):
    packed = random_tensor(bits)
    inputs = inputs.abs() + 1
    expected = inputs.double() @ weights_of(bits, packed).double().T
    matrix = matrix_of(packed)
    assert error(ops.packed_linear(inputs, [matrix], True), expected) < EXACT
    assert error(ops.packed_linear(inputs, [matrix], False), expected) < INT8


@pytest.mark.parametrize("is_exact", [True, False], ids=["float", "int8"])
@both
def test_a_rows_bits_do_not_depend_on_the_rows_beside_it_or_the_threads(
    bits, is_exact, inputs, library
):
    matrix = matrix_of(random_tensor(bits))
    alone = torch.cat([library.linear(row[None], matrix, is_exact) for row in inputs])
    before = torch.get_num_threads()
    try:
        for count, threads in ((2, 1), (13, 3), (150, 2)):
            torch.set_num_threads(threads)
            assert library.linear(inputs[:count], matrix, is_exact).equal(alone[:count])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")], ids=str)
@pytest.mark.parametrize("is_exact", [True, False], ids=["float", "int8"])
@both
def test_a_damaged_scale_spoils_the_rows_of_its_group_only(bits, is_exact, bad, inputs, library):
    packed = random_tensor(bits)
    packed.scales[5 + NUM_COLUMNS] = bad  # rows 1, 4, 7 ... of 192
    result = ops.packed_linear(inputs, [matrix_of(packed)], is_exact)
    is_spoilt = torch.arange(192) % 3 == 1
    assert not result[:, is_spoilt].isfinite().any()
    expected = inputs.double() @ weights_of(bits, packed).double().T
    good = ~is_spoilt
    assert error(result[:, good], expected[:, good]) < (EXACT if is_exact else INT8)


@both
def test_rows_under_hostile_scales_are_the_weights_to_the_bit(bits, library):
    packed = random_tensor(bits)
    packed.scales[:6] = torch.tensor([float("inf"), float("nan"), 1e-45, -0.0, 3e38, -1.0])
    packed.zeros[:3] = torch.tensor([1e-45, float("inf"), 3.0])
    matrix = matrix_of(packed)
    rows = ops.packed_rows(matrix, torch.arange(192)).numpy()
    np.testing.assert_array_equal(rows, weights_of(bits, packed).numpy())


def test_hqq_and_other_kinds_stand_side_by_side(inputs, library):
    packed, other = random_tensor(4), random_matrix(Type.Q4_1, 37, NUM_COLUMNS)
    known = load_library()
    assert known is not None
    assert known is not None
    matrix = matrix_of(packed)
    result = ops.packed_linear(inputs, [matrix, tiled(known, other), matrix])
    assert result.shape == (150, 192 + 37 + 192)
    assert result[:, :192].equal(result[:, -192:])
    assert result[:, 192:-192].equal(ops.packed_linear(inputs, [tiled(known, other)]))


def test_no_input_makes_no_output(library):
    assert ops.packed_linear(torch.empty(0, 416), [matrix_of(random_tensor(8))]).shape == (0, 192)


@pytest.mark.parametrize("shape", [(96, 64), (64, 48)], ids=str)
def test_a_shape_that_is_no_whole_number_of_parts_is_no_matrix(shape):
    assert memory_form(HQQ4, *shape) is None


def test_quantised_weights_come_back_from_a_matrix():
    weights = torch.randn(128, 64, generator=torch.Generator().manual_seed(1))
    packed = HQQ4.quantize(weights)
    rows = ops.packed_rows(matrix_of(packed), torch.arange(128))
    assert rows.equal(HQQ4.dequantize(packed))
