"""Which tiles a GPU gets."""

import pytest
from gguf import GGMLQuantizationType as Type

from kernels.packed import CODED_16
from kernels.planes.tiles import (
    TABLES,
    few_tiles,
    grouped_tiles,
    many_tiles,
    num_splits,
    parts_tiles,
    table_of,
)

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


def test_kinds_that_would_spill_have_more_registers_or_fewer_inputs():
    assert few_tiles(TABLES[80], Type.Q5_1, 16).max_registers == 168
    assert few_tiles(TABLES[90], Type.Q5_1, 16) == TABLES[90].several
    assert few_tiles(TABLES[90], Type.MXFP4, 8).max_registers == 168
    assert many_tiles(TABLES[80], CODED_16, 2).inputs < TABLES[80].many.inputs
    assert many_tiles(TABLES[90], CODED_16, 2) == TABLES[90].many
    assert grouped_tiles(TABLES[80], CODED_16, 99, 2, 2) == TABLES[80].grouped
    assert grouped_tiles(TABLES[80], Type.Q4_K, 64, 2, 2) == TABLES[80].grouped
    assert grouped_tiles(TABLES[80], Type.Q4_K, 65, 2, 2) == TABLES[80].grouped_many


@pytest.mark.parametrize("table", TABLES.values(), ids=map(str, TABLES))
def test_float32_has_tiles_of_its_own(table):
    assert many_tiles(table, Type.Q4_K, 4) is table.floats
    assert grouped_tiles(table, Type.Q4_K, 999, 2, 4) is table.floats
    assert parts_tiles(table, 1, 4).rows == table.floats.rows
