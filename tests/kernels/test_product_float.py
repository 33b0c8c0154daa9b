"""Products with weights that are floats, F16 and BF16, against float64 and bfloat16 by torch."""

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from kernels import ops
from kernels.cpu.native.bindings import Library, load_library
from kernels.packed import PackedMatrix
from tests.kernels.packed_blocks import random_matrix, tiled

NUM_COLUMNS = 544  # two panels and a bit
DTYPES = {Type.F16: torch.float16, Type.BF16: torch.bfloat16}
EXACT, ROUNDED = 2e-6, 4e-3  # root mean square error, relative to the results' own

both_types = pytest.mark.parametrize("kind", DTYPES, ids=lambda kind: kind.name)
both_ways = pytest.mark.parametrize("is_exact", [True, False], ids=["float", "rounded"])


@pytest.fixture(scope="module")
def library() -> Library:
    found = load_library()
    if found is None:
        pytest.skip("no compiler")
    return found


@pytest.fixture
def inputs(generator):
    return torch.randn(40, NUM_COLUMNS, generator=generator)


def random_floats(kind: Type, num_rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num_rows, NUM_COLUMNS, generator=generator).to(DTYPES[kind])


def packed(kind: Type, weights: Tensor) -> PackedMatrix:
    return PackedMatrix(int(kind), *weights.shape, weights.view(torch.uint8))


def error(actual, expected):
    return float((actual - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.parametrize("num_rows", [1, 16, 37, 64])
@both_types
def test_a_product_of_floats_is_exact_or_rounds_its_input_to_bfloat16(
    kind, num_rows, inputs, library
):
    weights = random_floats(kind, num_rows)
    tiles = tiled(library, packed(kind, weights))
    expected = inputs.double() @ weights.double().T
    for is_exact, most in ((True, EXACT), (False, ROUNDED)):
        for num_inputs in (*range(1, 18), 25, 40):
            actual = library.linear(inputs[:num_inputs], [tiles], is_exact)
            assert error(actual, expected[:num_inputs]) < most


@both_ways
def test_an_input_that_is_bfloat16_is_not_rounded(is_exact, inputs, library):
    weights = random_floats(Type.BF16, 37)
    tiles, inputs = tiled(library, packed(Type.BF16, weights)), inputs.bfloat16()
    expected = inputs.double() @ weights.double().T
    assert error(library.linear(inputs, [tiles], is_exact), expected) < EXACT


@both_ways
@both_types
def test_a_rows_bits_do_not_depend_on_the_rows_beside_it(kind, is_exact, inputs, library):
    tiles = tiled(library, packed(kind, random_floats(kind, 53)))
    alone = torch.cat([library.linear(row[None], [tiles], is_exact) for row in inputs])
    for num_inputs in (2, 5, 13, 16, 40):
        assert library.linear(inputs[:num_inputs], [tiles], is_exact).equal(alone[:num_inputs])


@both_types
def test_rows_are_the_files_to_the_bit(kind, library):
    weights = random_floats(kind, 53)
    weights[17, 3], weights[17, 4], weights[52, 0] = float("inf"), 1e-40, -0.0
    matrix = packed(kind, weights)
    indices = torch.tensor([52, 0, 17, 17])
    expected = weights[indices].float()
    assert ops.packed_rows(tiled(library, matrix), indices).equal(expected)
    assert ops.packed_rows(matrix, indices).equal(expected)


@both_ways
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
@both_types
def test_what_is_no_number_spoils_its_own_row_and_column_only(
    kind, value, is_exact, inputs, library
):
    weights = random_floats(kind, 37)
    good = library.linear(inputs, [tiled(library, packed(kind, weights))], is_exact)
    weights[5, 7] = value
    inputs[2, 77] = value
    result = library.linear(inputs, [tiled(library, packed(kind, weights))], is_exact)
    assert not result[2].isfinite().any()
    assert not result[:, 5].isfinite().any()
    good[2], good[:, 5] = result[2], result[:, 5]
    torch.testing.assert_close(result, good, rtol=0, atol=0, equal_nan=True)


@both_types
def test_floats_and_blocks_stand_side_by_side(kind, inputs, library):
    weights = random_floats(kind, 37)
    blocks = tiled(library, random_matrix(Type.Q8_0, 20, NUM_COLUMNS))
    floats = tiled(library, packed(kind, weights))
    for is_exact in (True, False):
        both = library.linear(inputs, [floats, blocks], is_exact)
        assert both[:, :37].equal(library.linear(inputs, [floats], is_exact))
        assert both[:, 37:].equal(library.linear(inputs, [blocks], is_exact))
