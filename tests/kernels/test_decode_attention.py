"""Attention of one token a sequence: the kernel and its splits against attention in float64."""

from typing import Any

import pytest
import torch

from kernels import ops
from kernels.attention_tiles import TABLES, num_splits_of, table_of
from kernels.reference.decode_attention import decode_attention
from tests.kernels.attention_cases import Case, assert_near, build, plain_attention

# Contexts of many tiles and of one, which is not split.
CASES = {
    "one-token": Case([(1, 1)], (2, 1, 16)),
    "short": Case([(1, 33), (1, 1), (1, 48)], (4, 2, 64)),
    "split": Case([(1, 33), (1, 1), (1, 300), (1, 129)], (4, 2, 64)),
    "dim-80-block-7": Case([(1, 300), (1, 20)], (2, 2, 80), block_size=7),
    "dim-256": Case([(1, 150), (1, 9)], (4, 2, 256)),
    "odd-groups": Case([(1, 270)], (7, 1, 24), block_size=1),
    "many-groups": Case([(1, 140)], (40, 2, 16)),
    "window": Case([(1, 500), (1, 3), (1, 129)], (4, 2, 32), window=130),
    "window-1": Case([(1, 200), (1, 1)], (2, 1, 16), window=1),
    "softcap": Case([(1, 300), (1, 30)], (4, 2, 32), softcap=5.0),
    "window-softcap": Case([(1, 190), (1, 50)], (4, 4, 32), block_size=5, window=77, softcap=2.0),
}


def decoding(case, inputs):
    """The arguments of decode_attention: those of paged_attention without the row starts."""
    assert all(rows == 1 for rows, _ in case.sequences)
    query, keys, values, tables, _, *rest = inputs.arguments
    return (query, keys, values, tables, *rest)


def reference(arguments):
    return decode_attention(*arguments)


@pytest.fixture
def launch(launcher, device):
    def run(arguments):
        placed = [part.to(device) if torch.is_tensor(part) else part for part in arguments]
        return launcher("decode_attention")(*placed).cpu()

    return run


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_kernel_and_reference_are_attention_in_float64(case, generator, launch):
    inputs = build(case, torch.bfloat16, generator)
    expected = plain_attention(case, inputs)
    for attend in (launch, reference):
        assert_near(attend(decoding(case, inputs)), expected, torch.bfloat16)


@pytest.mark.parametrize("heads", [(4, 2, 32), (3, 1, 24)], ids=str)
def test_each_type_has_its_rounding(heads, dtype, generator, launch):
    case = Case([(1, 100), (1, 37)], heads)
    inputs = build(case, dtype, generator)
    assert_near(launch(decoding(case, inputs)), plain_attention(case, inputs), dtype)


@pytest.mark.parametrize("name", ["dim-80-block-7", "window-softcap"])
def test_a_cache_may_be_in_e4m3(name, generator, launch):
    inputs = build(CASES[name], torch.bfloat16, generator, cache_dtype=torch.float8_e4m3fn)
    expected = plain_attention(CASES[name], inputs)
    arguments = decoding(CASES[name], inputs)
    assert_near(launch(arguments), expected, torch.bfloat16)
    assert_near(ops.decode_attention(*arguments), expected, torch.bfloat16)


@pytest.mark.parametrize("length", [20, 300], ids=["whole", "split"])
def test_rows_of_padding_give_zeros_and_disturb_nobody(length, generator, launch):
    case = Case([(1, length), (1, 1), (1, 1)], (4, 2, 32))
    inputs = build(case, torch.float32, generator)
    arguments = list(decoding(case, inputs))
    arguments[4] = torch.tensor([length, 0, 0]).int()
    result = launch(arguments)
    assert_near(result[:1], plain_attention(case, inputs)[:1], torch.float32)
    assert not result[1:].any()
    assert not reference(arguments)[1:].any()


def test_contexts_are_split_until_they_fill_the_gpu_and_as_far_as_they_have_tiles():
    table = table_of(90)
    assert num_splits_of(table, table.num_programs, 100) == 1
    assert num_splits_of(table, table.num_programs - 1, 100) == 2
    assert num_splits_of(table, 8, 100) == 33
    assert num_splits_of(table, 8, 5) == 5
    assert num_splits_of(table, 1, 10_000) == 64
    assert num_splits_of(table, 8, 0) == 1


def test_large_scores_overflow_nothing(generator, launch):
    case = Case([(1, 200)], (2, 1, 16))
    for softcap in (0.0, 3.0):
        capped = case._replace(softcap=softcap)
        inputs = build(capped, torch.float32, generator, scale=1000.0)
        expected = plain_attention(capped, inputs).float()
        torch.testing.assert_close(launch(decoding(capped, inputs)), expected)


def test_tables_have_an_entry_for_the_gpus_between_and_after_those_they_name():
    assert table_of(87) is TABLES[86]
    assert table_of(120) is TABLES[90]
    assert table_of(75) is TABLES[80]


@pytest.mark.parametrize(
    ("position", "wrong", "complaint"),
    [
        (1, torch.ones(5, 4, 2, 8).half(), "dtype of key_cache: got torch.float16, expected"),
        (3, torch.ones(3, 2).int(), "rows of block_tables: got 3, expected 2"),
        (4, torch.tensor([2]).int(), r"shape of context_lengths: got \(1,\), expected \(2,\)"),
    ],
    ids=["dtype", "tables", "lengths"],
)
def test_launcher_names_what_it_got_and_expected(position, wrong, complaint, launch):
    cache = torch.ones(5, 4, 2, 8)
    arguments: list[Any] = [torch.ones(2, 4, 8), cache, cache, torch.ones(2, 2).int()]
    arguments += [torch.tensor([2, 2]).int(), 1.0]
    arguments[position] = wrong
    with pytest.raises(ValueError, match=complaint):
        launch(arguments)
