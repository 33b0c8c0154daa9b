"""Products with packed weights: reference and C++ against float64 on the weights unpacked."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from kernels import ops
from kernels.cpu.native.bindings import Library, load_library
from kernels.cpu.native.build import build
from kernels.reference.packed_linear import packed_linear as reference_packed_linear
from tests.kernels.packed_blocks import (
    E4M3,
    KINDS,
    name_of,
    random_matrix,
    tiled,
    unpacked,
    with_scale,
)

NUM_COLUMNS = 512
EXACT, INT8 = 2e-6, 0.02  # root mean square error, relative to the results' own

every_kind = pytest.mark.parametrize("kind", KINDS, ids=name_of)
every_kind_with_float_scales = pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind != Type.MXFP4], ids=name_of
)


@pytest.fixture(scope="module")
def library() -> Library:
    found = load_library()
    if found is None:
        pytest.skip("no compiler")
    return found


@pytest.fixture
def inputs(generator):
    return torch.randn(40, NUM_COLUMNS, generator=generator)


def in_float64(x, *matrices):
    return x.double() @ torch.cat([unpacked(matrix) for matrix in matrices]).double().T


def error(actual, expected):
    """Of the first rows of what is expected, if there are not all."""
    difference = actual.double() - expected[: len(actual)]
    return float(difference.square().mean().sqrt() / expected.square().mean().sqrt())


@every_kind
def test_reference_is_the_formula_in_float64(kind, inputs):
    matrix = random_matrix(kind, 37, NUM_COLUMNS)
    assert error(reference_packed_linear(inputs, [matrix]), in_float64(inputs, matrix)) < EXACT


def check_product(library, kind, num_rows, inputs):
    matrix = random_matrix(kind, num_rows, NUM_COLUMNS)
    tiles, expected = tiled(library, matrix), in_float64(inputs, matrix)
    for is_exact, most in ((True, EXACT), (False, INT8)):
        for num_inputs in (*range(1, 17), 25, 40):
            actual = library.linear(inputs[:num_inputs], [tiles], is_exact)
            assert error(actual, expected) < most


@pytest.mark.parametrize("num_rows", [1, 16, 37])
@every_kind
def test_tiles_have_the_product_of_their_weights(kind, num_rows, inputs, library):
    check_product(library, kind, num_rows, inputs)


@pytest.mark.nightly
@pytest.mark.timeout(1200)  # it compiles
def test_the_portable_path_has_it_too(tmp_path, inputs):
    library = Library(build(tmp_path, defines=["-DTR_PORTABLE"]))
    assert library.path == "portable"
    for kind in KINDS:
        check_product(library, kind, 37, inputs)


@every_kind
def test_rows_out_of_tiles_are_the_weights_to_the_bit(kind, library):
    matrix = random_matrix(kind, 53, NUM_COLUMNS)
    indices = torch.tensor([52, 0, 17, 17])
    expected = unpacked(matrix)[indices]
    assert ops.packed_rows(tiled(library, matrix), indices).equal(expected)
    assert ops.packed_rows(matrix, indices).equal(expected)


@pytest.mark.parametrize("is_exact", [True, False], ids=["float", "int8"])
@every_kind
def test_a_rows_bits_do_not_depend_on_the_rows_beside_it(kind, is_exact, inputs, library):
    tiles = tiled(library, random_matrix(kind, 37, NUM_COLUMNS))
    alone = torch.cat([library.linear(row[None], [tiles], is_exact) for row in inputs])
    for num_inputs in (2, 5, 13, 40):
        assert library.linear(inputs[:num_inputs], [tiles], is_exact).equal(alone[:num_inputs])


@pytest.mark.parametrize("is_exact", [True, False], ids=["float", "int8"])
def test_the_bits_do_not_depend_on_the_number_of_threads(is_exact, inputs, library):
    tiles = tiled(library, random_matrix(Type.Q4_K, 37, NUM_COLUMNS))
    before = torch.get_num_threads()
    results = []
    for num_threads in (1, 3):
        torch.set_num_threads(num_threads)
        results.append(library.linear(inputs, [tiles], is_exact))
    torch.set_num_threads(before)
    assert results[0].equal(results[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
def test_matrices_of_several_types_stand_side_by_side(dtype, inputs, library):
    kinds = (Type.Q4_K, Type.Q6_K, Type.Q8_0)
    matrices = [random_matrix(kind, 20 + int(kind), NUM_COLUMNS) for kind in kinds]
    result = ops.packed_linear(inputs.to(dtype), [tiled(library, m) for m in matrices])
    assert result.dtype == dtype
    expected = in_float64(inputs.to(dtype), *matrices)
    assert error(result, expected) < (EXACT if dtype == torch.float32 else 4e-3)


def test_no_input_makes_no_output(library):
    tiles = tiled(library, random_matrix(Type.Q4_0, 20, NUM_COLUMNS))
    assert library.linear(torch.empty(0, NUM_COLUMNS), [tiles], False).shape == (0, 20)


def test_rows_written_some_at_a_time_are_the_same_tiles(library):
    matrix = random_matrix(Type.Q5_K, 53, NUM_COLUMNS)
    tiles = library.empty(matrix.kind, 53, NUM_COLUMNS)
    for start in (0, 16, 48):
        library.repack(tiles, start, matrix.data[start : {0: 16, 16: 48, 48: 53}[start]])
    assert tiles.data.equal(tiled(library, matrix).data)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("is_exact", [True, False], ids=["float", "int8"])
@every_kind_with_float_scales
def test_a_damaged_scale_spoils_its_own_row_only(kind, is_exact, scale, inputs, library):
    matrix = with_scale(random_matrix(kind, 37, NUM_COLUMNS), 5, scale)
    result = library.linear(inputs, [tiled(library, matrix)], is_exact)
    is_good = torch.arange(37) != 5
    assert not result[:, 5].isfinite().any()
    expected = in_float64(inputs, matrix)[:, is_good]
    assert error(result[:, is_good], expected) < (EXACT if is_exact else INT8)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38], ids=str)
def test_an_input_that_is_no_number_does_not_become_one(value, inputs, library):
    tiles = tiled(library, random_matrix(Type.Q4_0, 20, NUM_COLUMNS))
    good = library.linear(inputs[:4], [tiles], False)
    inputs[2, 77] = value
    result = library.linear(inputs[:4], [tiles], False)
    assert not result[2].isfinite().any() or value == 1e38
    for row in (0, 1, 3):
        assert result[row].equal(good[row])


def test_inputs_that_are_nearly_zero_give_nearly_zero(library):
    tiles = tiled(library, random_matrix(Type.Q4_0, 20, NUM_COLUMNS))
    result = library.linear(torch.full((1, NUM_COLUMNS), 1e-40), [tiles], False)
    assert result.abs().max() < 1e-30


def test_a_type_or_width_without_tiles_is_known_as_such(library):
    assert library.tiles_bytes(int(Type.IQ2_XS), 16, 256) == 0
    assert library.tiles_bytes(int(Type.Q4_K), 16, 128) == 0


@pytest.mark.parametrize("scale", [1e-45, -3e-39, 3e38, -0.0, float("inf"), float("nan")], ids=str)
@every_kind_with_float_scales
def test_rows_under_hostile_scales_are_the_weights_to_the_bit(kind, scale, library):
    with np.errstate(over="ignore"):
        matrix = with_scale(random_matrix(kind, 5, NUM_COLUMNS), 3, scale)
    rows = ops.packed_rows(tiled(library, matrix), torch.arange(5))
    np.testing.assert_array_equal(rows.numpy(), unpacked(matrix).numpy())


def test_every_scale_of_mxfp4_is_known(inputs, library):
    matrix = random_matrix(Type.MXFP4, 256, NUM_COLUMNS)
    matrix.data[:, ::17] = torch.arange(256, dtype=torch.uint8)[:, None]
    tiles, weights = tiled(library, matrix), unpacked(matrix)
    assert ops.packed_rows(tiles, torch.arange(256)).equal(weights)
    is_plain = torch.arange(256).sub(120).abs() < 100
    for is_exact, most in ((True, EXACT), (False, INT8)):
        result = library.linear(inputs, [tiles], is_exact)
        expected = inputs.double() @ weights.double().T
        off = (result.double() - expected).square().mean(0).sqrt()
        assert (off / expected.square().mean(0).sqrt())[is_plain].max() < most


@pytest.mark.parametrize("kind", E4M3, ids=name_of)
def test_every_e4m3_number_is_known(kind, library):
    matrix = random_matrix(kind, 19, 256)
    group = kind - 3000
    for block in range(256 // group):
        start = block * (group + 4)
        codes = torch.arange(block * group, (block + 1) * group, dtype=torch.uint8)
        matrix.data[7, start + 4 : start + 4 + group] = codes
    tiles = tiled(library, matrix)
    rows = ops.packed_rows(tiles, torch.arange(19))
    np.testing.assert_array_equal(rows.numpy(), unpacked(matrix).numpy())
    one_by_one = library.linear(torch.eye(256)[:127], [tiles], False)
    assert one_by_one[:, 7].isnan().all()  # for 0 times what is no number is none
    others = torch.arange(19) != 7
    expected = unpacked(matrix).T[:127, others]
    torch.testing.assert_close(one_by_one[:, others], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", E4M3, ids=name_of)
def test_e4m3_weights_take_inputs_rounded_to_bfloat16_at_most(kind, inputs, library):
    matrix = random_matrix(kind, 37, NUM_COLUMNS)
    result = library.linear(inputs, [tiled(library, matrix)], False)
    assert error(result, in_float64(inputs, matrix)) < 4e-3
    inputs = inputs.bfloat16().float()
    result = library.linear(inputs, [tiled(library, matrix)], False)
    assert error(result, in_float64(inputs, matrix)) < EXACT
