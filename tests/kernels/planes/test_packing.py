"""Planes: nothing is lost, whatever the pieces, and how many bytes they take."""

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from kernels.packing import bytes_in_planes, has_planes, pack_in_planes
from kernels.planes.packing import pack_planes
from kernels.recoding import recoding
from tests.kernels.packed_blocks import KINDS, name_of, random_matrix, sizes_of, unpacked

CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_rows_in_pieces_are_the_same_planes(kind):
    matrix = random_matrix(kind, 7, 512)
    whole = pack_planes(kind, 7, 512, [matrix.data], CPU)
    pieces = pack_planes(kind, 7, 512, matrix.data.split(3), CPU)
    assert whole.planes is not None
    assert pieces.planes is not None
    for one, other in zip(whole.planes, pieces.planes, strict=True):
        assert one.dtype == other.dtype
        assert one.view(torch.uint8).equal(other.view(torch.uint8))


@pytest.mark.parametrize("kind", KINDS, ids=name_of)
def test_planes_take_a_sixteenth_more_than_the_file_at_most(kind):
    matrix = random_matrix(kind, 64, 2048)
    planes = pack_planes(kind, 64, 2048, [matrix.data], CPU)
    assert planes.num_bytes == bytes_in_planes(kind, 64, 2048)
    assert planes.num_bytes < matrix.data.nbytes * 1.0625


def test_a_row_that_ends_within_a_block_is_filled_up():
    matrix = random_matrix(Type.Q4_0, 3, 288)
    planes = pack_planes(Type.Q4_0, 3, 288, [matrix.data], CPU).planes
    assert planes is not None
    assert planes.low.shape == (3, 2 * 64)
    assert planes.scales[1, :, 1:].eq(0).all()
    assert planes.low.view(torch.int16)[:, 96:].eq(0).all()


def test_every_type_with_tiles_on_a_cpu_but_floats_has_planes():
    assert all(map(has_planes, (*KINDS, 4004, 4008)))
    assert not any(map(has_planes, (Type.F16, Type.BF16, Type.F32)))


@pytest.mark.parametrize("kind", [Type.IQ2_XS, Type.Q8_1, Type.Q1_0], ids=name_of)
def test_types_without_planes_of_their_own_are_rewritten(kind, launcher):
    form = recoding(kind)
    assert form is not None
    assert has_planes(kind)
    columns = 256
    generator = torch.Generator().manual_seed(0)
    num_bytes = columns // {Type.IQ2_XS: 256, Type.Q8_1: 32, Type.Q1_0: 128}[kind] * form.num_bytes
    rows = torch.randint(0, 60, (5, num_bytes), generator=generator, dtype=torch.uint8)
    planes = pack_in_planes(kind, 5, columns, [rows], CPU)
    rewritten = torch.from_numpy(form.rows(rows.numpy()))
    matrix = planes._replace(kind=form.kind, data=rewritten, planes=None)
    expected = unpacked(matrix)
    assert launcher("packed_rows")(planes, torch.arange(5)).equal(expected)


def test_a_code_that_is_no_number_spoils_its_group_only(launcher):
    kind = 3032
    matrix = random_matrix(kind, 4, 256)
    block = sizes_of(kind)[1]
    matrix.data[2, 3 * block + 9] = 0x7F
    rows = launcher("packed_rows")(pack_planes(kind, 4, 256, [matrix.data], CPU), torch.arange(4))
    assert rows[2, 96:128].isnan().all()
    rows[2, 96:128] = 0
    expected = unpacked(matrix)
    expected[2, 96:128] = 0
    assert rows.equal(expected)
