"""Formats by the guide's names, and what stands in for one that does not fit."""

import pytest

from engine.errors import InvalidInput
from engine.quant.names import ISQ_NAMES, LEVELS as LEVEL_NAMES
from engine.quant.registry import LEVELS, NAMES, find_format, fitting_format, step_up


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("2", "Q2_K"), ("3", "Q3_K"), ("4", "Q4_K"), ("5", "Q5_K"), ("6", "Q6_K"), ("8", "Q8_0")),
        *(("Q4K", "Q4_K"), ("q4k", "Q4_K"), ("Q4_K", "Q4_K"), ("q8_k", "Q8_K"), ("Q8_0", "Q8_0")),
        *(("q5_1", "Q5_1"), ("Q8_1", "Q8_1"), ("hqq8", "HQQ8"), ("HQQ4", "HQQ4"), ("fp8", "FP8")),
        ("mxfp4", "MXFP4"),
    ],
)
def test_a_format_is_found_by_any_of_its_names(name, expected):
    assert find_format(name).name == expected


@pytest.mark.parametrize("name", ["7", "Q4", "Q40", "Q4_K_M", "", "AFQ4", "q4 k"])
def test_an_unknown_name_is_refused_with_the_list(name):
    with pytest.raises(InvalidInput) as error:
        find_format(name)
    assert str(error.value) == (
        f"ISQ type {name} unknown, choose one of `2`, `3`, `4`, `5`, `6`, `8`, `Q4_0`, `Q4_1`, "
        "`Q5_0`, `Q5_1`, `Q8_0`, `Q8_1`, `Q2K`, `Q3K`, `Q4K`, `Q5K`, `Q6K`, `Q8K`, `HQQ8`, "
        "`HQQ4`, `FP8`, `MXFP4`."
    )


@pytest.mark.parametrize(
    ("name", "stand_in"),
    [
        *(("Q2K", "Q4_0"), ("Q3K", "Q4_0"), ("Q4K", "Q4_1")),
        *(("Q5K", "Q5_0"), ("Q6K", "Q5_1"), ("Q8K", "Q8_1")),
    ],
)
def test_rows_of_no_whole_number_of_k_blocks_take_blocks_of_32(name, stand_in):
    assert fitting_format(find_format(name), (8, 512)) is find_format(name)
    assert fitting_format(find_format(name), (8, 96)) is find_format(stand_in)
    assert fitting_format(find_format(name), (8, 100)) is None


def test_hqq_counts_all_weights_of_a_matrix_and_fp8_none():
    assert fitting_format(find_format("HQQ4"), (64, 3)) is find_format("HQQ4")
    assert fitting_format(find_format("HQQ4"), (5, 3)) is None
    assert fitting_format(find_format("FP8"), (5, 3)) is find_format("FP8")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("Q2K", "Q3K", "Q4K", "Q4_0", "Q4_1"), "Q6_K"),
        (("Q5K", "Q6K", "Q8K", "Q5_0", "Q5_1", "Q8_0", "Q8_1"), "Q8_0"),
    ],
)
def test_embeddings_and_output_go_one_step_up(names, expected):
    assert {step_up(find_format(name)).name for name in names} == {expected}


def test_formats_without_a_step_up_stay():
    rest = [NAMES[name] for name in ("HQQ4", "HQQ8", "FP8", "MXFP4")]
    assert [step_up(kind) for kind in rest] == rest


def test_the_names_that_are_known_without_torch_are_all_there_are():
    assert tuple(NAMES) == ISQ_NAMES
    assert tuple(LEVELS) == LEVEL_NAMES
