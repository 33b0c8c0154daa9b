"""The tables of the benches: ratios against the better peer, and what counts as out of order."""

import pytest

from tests.bench.cpu_table import table
from tests.bench.perplexity_rows import Row, problems


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_speeds_are_compared_with_the_faster_peer_and_memory_with_the_smaller():
    result = {
        "m Q4_0 decode 1 ours": 60.0,
        "m Q4_0 decode 1 llama.cpp": 40.0,
        "m Q4_0 decode 1 mistral.rs": 50.0,
        "m Q4_0 memory ours": 1.0,
        "m Q4_0 memory llama.cpp": 1.5,
        "m Q4_0 memory mistral.rs": 3.0,
    }
    _, _, speed, _, memory = table(result, ["m Q4_0"], ["decode 1"]).splitlines()
    assert cells(speed)[2:] == ["60.0", "40.0", "50.0", "1.20", "1.2"]
    assert cells(memory)[2:] == ["1.00", "1.50", "3.00", "1.50", ""]


def test_a_missing_peer_leaves_its_cell_empty_and_the_ratio_to_the_other():
    result = {"m BF16 prefill 512 ours": 300.0, "m BF16 prefill 512 mistral.rs": 200.0}
    line = table(result, ["m BF16"], ["prefill 512"]).splitlines()[2]
    assert cells(line)[2:] == ["300", "", "200", "1.50", "1.5"]
    alone = table({"m BF16 prefill 512 ours": 300.0}, ["m BF16"], ["prefill 512"]).splitlines()[2]
    assert cells(alone)[2:] == ["300", "", "", "", "1.5"]


def test_perplexities_in_order_and_near_llama_cpps_are_no_problem():
    rows = [Row("m", "Q8_0", 8.5, 10.0, 10.01, 10.0, 10.0), Row("m", "Q4_0", 4.5, 10.5)]
    assert problems(rows) == []


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([Row("m", "Q8_0", 8.5, 10.0, 10.2, 10.0)], "over llama.cpp"),
        ([Row("m", "Q8_0", 8.5, 10.0), Row("m", "Q4_0", 4.5, 9.9)], "Q4_0 is better than Q8_0"),
    ],
    ids=["far", "order"],
)
def test_perplexities_that_are_off_are_named(rows, words):
    (problem,) = problems(rows)
    assert words in problem


def test_models_are_not_compared_with_one_another():
    assert not problems([Row("m", "Q8_0", 8.5, 10.0), Row("n", "Q4_0", 4.5, 5.0)])
