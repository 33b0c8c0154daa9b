"""Triton kernels for packed weights against float64 on the weights unpacked, and the reference."""

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from kernels import ops
from kernels.planes.packing import pack_planes
from kernels.reference.packed_grouped_linear import (
    packed_grouped_linear as reference_packed_grouped_linear,
)
from tests.kernels.packed_blocks import KINDS, name_of, random_matrix, unpacked, with_scale

# Root mean square error, relative to the results' own: of float32 sums; of results rounded to
# bfloat16; and of weights rounded to it besides.
SUMS, RESULTS, WEIGHTS = 1e-6, 3e-3, 4e-3
SMALL_BLOCKS = (Type.Q5_1, 2032)
ONE, FEW, SEVERAL, MANY, UNPACKED = 1, 5, 13, 40, 400

every_kind = pytest.mark.parametrize("kind", KINDS, ids=name_of)


def in_planes(matrix, device):
    pieces = matrix.data.split(16)
    return pack_planes(matrix.kind, matrix.num_rows, matrix.num_columns, pieces, device)


def inputs_of(num_inputs, num_columns, generator, dtype):
    x = torch.randn(num_inputs, num_columns + 8, generator=generator)
    return x.to(dtype)[:, :num_columns]


def error(actual, expected):
    difference = actual.cpu().double() - expected
    return float(difference.square().mean().sqrt() / expected.square().mean().sqrt())


def in_float64(x, matrix):
    return x.double() @ unpacked(matrix).double().T


@every_kind
def test_rows_are_the_weights_to_the_bit(kind, device, launcher):
    matrix = random_matrix(kind, 37, 512)
    indices = torch.tensor([36, 0, 7, 7])
    rows = launcher("packed_rows")(in_planes(matrix, device), indices.to(device))
    assert rows.cpu().equal(unpacked(matrix)[indices])


@pytest.mark.parametrize("num_inputs", [ONE, FEW, MANY])
@every_kind
def test_products_are_those_of_the_weights(kind, num_inputs, device, launcher, generator):
    matrix = random_matrix(kind, 21, 256)
    x = inputs_of(num_inputs, 256, generator, torch.bfloat16)
    result = launcher("packed_linear")(x.to(device), [in_planes(matrix, device)])
    assert result.dtype == torch.bfloat16
    most = RESULTS if num_inputs <= FEW else WEIGHTS
    assert error(result, in_float64(x, matrix)) < most


@pytest.mark.parametrize("num_inputs", [ONE, FEW, SEVERAL, MANY, UNPACKED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["f32", "f16"])
@pytest.mark.parametrize("kind", [Type.Q4_K, 5016], ids=name_of)
def test_other_inputs_are_not_rounded(kind, num_inputs, dtype, device, launcher, generator):
    matrix = random_matrix(kind, 21, 512)
    x = inputs_of(num_inputs, 512, generator, dtype)
    result = launcher("packed_linear")(x.to(device), [in_planes(matrix, device)])
    assert error(result, in_float64(x, matrix)) < (SUMS if dtype == torch.float32 else 1e-3)


@pytest.mark.parametrize("num_inputs", [ONE, FEW, MANY])
@pytest.mark.parametrize("kind", SMALL_BLOCKS, ids=name_of)
def test_a_row_may_end_within_a_block(kind, num_inputs, device, launcher, generator):
    matrix = random_matrix(kind, 70, 288)
    x = inputs_of(num_inputs, 288, generator, torch.float32)
    result = launcher("packed_linear")(x.to(device), [in_planes(matrix, device)])
    assert error(result, in_float64(x, matrix)) < SUMS


@pytest.mark.parametrize("num_inputs", [ONE, MANY])
def test_matrices_of_several_kinds_stand_side_by_side(num_inputs, device, launcher, generator):
    kinds = (Type.Q4_K, Type.Q6_K, Type.Q8_0)
    matrices = [random_matrix(kind, 20 + int(kind), 512) for kind in kinds]
    x = inputs_of(num_inputs, 512, generator, torch.float32)
    result = launcher("packed_linear")(x.to(device), [in_planes(m, device) for m in matrices])
    expected = torch.cat([in_float64(x, matrix) for matrix in matrices], dim=1)
    assert error(result, expected) < SUMS


@pytest.mark.parametrize("num_inputs", [ONE, FEW, MANY])
def test_a_damaged_scale_spoils_its_own_row_only(num_inputs, device, launcher, generator):
    matrix = with_scale(random_matrix(Type.Q4_K, 37, 512), 5, float("nan"))
    x = inputs_of(num_inputs, 512, generator, torch.float32)
    result = launcher("packed_linear")(x.to(device), [in_planes(matrix, device)]).cpu()
    is_good = torch.arange(37) != 5
    assert result[:, 5].isnan().all()
    assert error(result[:, is_good], in_float64(x, matrix)[:, is_good]) < SUMS


def test_the_same_inputs_give_the_same_bits(device, launcher, generator):
    planes = in_planes(random_matrix(Type.Q6_K, 37, 1024), device)
    x = inputs_of(FEW, 1024, generator, torch.bfloat16).to(device)
    first = launcher("packed_linear")(x, [planes])
    assert first.equal(launcher("packed_linear")(x, [planes]))


def test_no_input_makes_no_output(device, launcher):
    planes = in_planes(random_matrix(Type.Q4_0, 20, 256), device)
    assert launcher("packed_linear")(torch.empty(0, 256, device=device), [planes]).shape == (0, 20)
    none = torch.empty(0, dtype=torch.int64, device=device)
    assert launcher("packed_rows")(planes, none).shape == (0, 256)


# Rows of each group.
GROUPS = {
    "one": [1],
    "odd": [3, 1, 5],
    "empty-groups": [0, 4, 0, 0, 2, 0],
    "tiles": [17, 0, 40, 16, 1],
    "many-rows": [150, 131],
    "no-rows": [0, 0],
}


@pytest.mark.parametrize("sizes", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("kind", [Type.Q4_K, 1064], ids=name_of)
def test_groups_have_matrices_of_their_own(kind, sizes, device, launcher, generator):
    matrix = random_matrix(kind, len(sizes) * 21, 256)
    starts = torch.tensor([0, *sizes]).cumsum(0).to(torch.int32)
    x = inputs_of(sum(sizes), 256, generator, torch.float32)
    planes = in_planes(matrix, device)
    result = launcher("packed_grouped_linear")(x.to(device), planes, starts.to(device)).cpu()
    weights = unpacked(matrix).double().view(len(sizes), 21, 256)
    groups = zip(x.double().split(sizes), weights, strict=True)
    expected = torch.cat([rows @ weight.T for rows, weight in groups])
    assert result.shape == expected.shape
    reference = reference_packed_grouped_linear(x, matrix, starts)
    for actual in (result, reference):
        assert not sum(sizes) or error(actual, expected) < SUMS


def test_the_door_launches_for_planes_wherever_they_lie(device, launcher, generator):
    launcher("packed_linear")
    matrix = random_matrix(Type.Q5_K, 42, 256)
    planes = in_planes(matrix, device)
    x = inputs_of(FEW, 256, generator, torch.float32)
    assert error(ops.packed_linear(x.to(device), [planes]), in_float64(x, matrix)) < SUMS
    rows = ops.packed_rows(planes, torch.tensor([3], device=device)).cpu()
    assert rows.equal(unpacked(matrix)[3:4])
    starts = torch.tensor([0, 2, FEW], dtype=torch.int32)
    result = ops.packed_grouped_linear(x.to(device), planes, starts.to(device))
    expected = ops.packed_grouped_linear(x, matrix, starts).double()
    assert error(result, expected) < SUMS


def test_groups_that_do_not_divide_the_rows_are_refused(device, launcher):
    planes = in_planes(random_matrix(Type.Q4_0, 20, 256), device)
    starts = torch.tensor([0, 1, 1, 2], dtype=torch.int32, device=device)
    with pytest.raises(ValueError, match="rows of weight beyond those of all groups: got 2"):
        launcher("packed_grouped_linear")(torch.ones(2, 256, device=device), planes, starts)


def test_inputs_of_another_width_are_refused(device, launcher):
    planes = in_planes(random_matrix(Type.Q4_0, 20, 256), device)
    with pytest.raises(ValueError, match=r"shape of x: got \(2, 128\), expected \(2, 256\)"):
        launcher("packed_linear")(torch.ones(2, 128, device=device), [planes])
