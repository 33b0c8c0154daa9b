"""HQQ matrices in planes: nothing is lost, and products are those of the weights in float64."""

import pytest
import torch

from engine.quant.hqq import HQQ4, HQQ8
from engine.quant.tensor_format import PackedTensor
from kernels import ops
from kernels.hqq_parts import hqq_matrix
from kernels.packed import HQQ4 as HQQ4_KIND, HQQ8 as HQQ8_KIND
from kernels.packing import bytes_in_planes, has_planes, pack_in_planes

FORMS = {4: (HQQ4, HQQ4_KIND), 8: (HQQ8, HQQ8_KIND)}
# Root mean square error, relative to the results' own: of float32 sums; of half-precision pieces,
# before results are rounded; of results rounded to bfloat16; and of weights rounded to it besides.
SUMS, PIECES, RESULTS, WEIGHTS = 1e-6, 2e-5, 3e-3, 4e-3
COUNTS = {"one": 1, "few": 5, "several": 13, "many": 40, "unpacked": 400}

both = pytest.mark.parametrize("bits", [4, 8], ids=["HQQ4", "HQQ8"])
every_count = pytest.mark.parametrize("count", COUNTS.values(), ids=COUNTS)


def random_tensor(bits, num_rows, num_columns):
    generator = torch.Generator().manual_seed(bits)
    groups = num_rows * num_columns // 64
    codes = torch.randint(0, 256, (8 * bits, groups), generator=generator).to(torch.uint8)
    scales = torch.rand(groups, generator=generator) + 0.1
    zeros = (0.3 + 0.4 * torch.rand(groups, generator=generator)) * 2**bits
    return PackedTensor(codes, scales, zeros, (num_rows, num_columns))


def in_planes(bits, packed, device):
    kind = FORMS[bits][1]
    matrix = hqq_matrix(kind, packed.codes, packed.scales, packed.zeros, *packed.shape)
    return pack_in_planes(kind, matrix.num_rows, matrix.num_columns, [matrix.data], device)


def inputs_of(count, num_columns, generator, dtype):
    return torch.randn(count, num_columns + 8, generator=generator).to(dtype)[:, :num_columns]


def error(actual, expected):
    difference = actual.cpu().double() - expected
    return float(difference.square().mean().sqrt() / expected.square().mean().sqrt())


def in_float64(bits, x, packed):
    return x.double() @ FORMS[bits][0].dequantize(packed).double().T


@pytest.mark.parametrize("shape", [(192, 512), (64, 416), (128, 32)], ids=str)
@both
def test_rows_are_the_weights_to_the_bit(bits, shape, device, launcher):
    packed = random_tensor(bits, *shape)
    planes = in_planes(bits, packed, device)
    indices = torch.tensor([shape[0] - 1, 0, 7, 7, 63])
    rows = launcher("packed_rows")(planes, indices.to(device))
    assert rows.cpu().equal(FORMS[bits][0].dequantize(packed)[indices])
    assert ops.packed_rows(planes, indices.to(device)).equal(rows)


@every_count
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@both
def test_products_are_those_of_the_weights(bits, dtype, count, device, launcher, generator):
    packed = random_tensor(bits, 192, 416)
    x = inputs_of(count, 416, generator, dtype)
    result = launcher("packed_linear")(x.to(device), [in_planes(bits, packed, device)])
    assert result.dtype == dtype
    most = SUMS if dtype == torch.float32 else RESULTS if count <= 16 else WEIGHTS
    assert error(result, in_float64(bits, x, packed)) < most


@pytest.mark.parametrize("count", [1, 13])
@both
def test_a_few_inputs_in_half_precision_lose_nothing_before_the_result_is_rounded(
    bits, count, device, launcher, generator
):
    launcher("packed_linear")
    from kernels.planes.hqq_products import multiply_hqq
    from kernels.planes.tiles import table_of

    packed = random_tensor(bits, 128, 512)
    packed.scales.mul_(1e-6)  # float16 would hold little of them
    for dtype in (torch.bfloat16, torch.float16):
        x = inputs_of(count, 512, generator, dtype)
        wide = torch.empty(count, 128, device=device)
        multiply_hqq(x.to(device), in_planes(bits, packed, device), wide, table_of(90))
        assert error(wide, in_float64(bits, x, packed)) < PIECES


@both
def test_float16_is_rounded_once(bits, device, launcher, generator):
    packed = random_tensor(bits, 64, 256)
    for count in COUNTS.values():
        x = inputs_of(count, 256, generator, torch.float16)
        result = launcher("packed_linear")(x.to(device), [in_planes(bits, packed, device)])
        assert error(result, in_float64(bits, x, packed)) < 1e-3


@pytest.mark.parametrize("count", [1, 5, 40])
@both
def test_a_damaged_scale_spoils_the_rows_of_its_group_only(
    bits, count, device, launcher, generator
):
    packed = random_tensor(bits, 192, 416)
    packed.scales[5 + 416] = torch.nan  # rows 1, 4, 7 ... of 192
    x = inputs_of(count, 416, generator, torch.float32)
    result = launcher("packed_linear")(x.to(device), [in_planes(bits, packed, device)]).cpu()
    is_spoilt = torch.arange(192) % 3 == 1
    assert not result[:, is_spoilt].isfinite().any()
    expected = in_float64(bits, x, packed)[:, ~is_spoilt]
    assert error(result[:, ~is_spoilt], expected) < SUMS


@pytest.mark.parametrize("count", [1, 13, 40])
def test_matrices_stand_side_by_side(count, device, launcher, generator):
    tensors = {4: random_tensor(4, 64, 512), 8: random_tensor(8, 192, 512)}
    x = inputs_of(count, 512, generator, torch.float32)
    matrices = [in_planes(bits, packed, device) for bits, packed in tensors.items()]
    result = launcher("packed_linear")(x.to(device), matrices)
    expected = torch.cat([in_float64(b, x, packed) for b, packed in tensors.items()], dim=1)
    assert error(result, expected) < SUMS


@both
def test_planes_take_what_is_foreseen_and_no_more_than_the_parts(bits, device):
    packed = random_tensor(bits, 192, 512)
    planes = in_planes(bits, packed, device)
    assert has_planes(planes.kind)
    assert planes.num_bytes == bytes_in_planes(planes.kind, 192, 512)
    assert planes.num_bytes == packed.codes.nbytes + 2 * packed.scales.nbytes
