"""Which tiles a GPU gets."""

import pytest

from kernels.planes.tiles import TABLES, num_splits, table_of

NEAREST = [(80, 80), (87, 86), (90, 90), (120, 90), (75, 80)]


@pytest.mark.parametrize(("capability", "known"), NEAREST)
def test_a_gpu_gets_the_nearest_table_below_it(capability, known):
    assert table_of(capability) is TABLES[known]


def test_few_rows_are_split_until_the_gpu_is_full():
    table = table_of(90)
    assert num_splits(table, table.num_programs, 64) == 1
    assert num_splits(table, 32, 64) == -(-table.num_programs // 32)
    assert num_splits(table, 1, 64) == 16
    assert num_splits(table, 1, 1) == 1
