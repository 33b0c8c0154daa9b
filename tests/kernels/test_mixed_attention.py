"""Batches that prefill and decode: a row that is its sequence's only one is split over the keys."""

import pytest
import torch

from kernels.reference.paged_attention import paged_attention as reference_paged_attention
from tests.kernels.attention_cases import Case, assert_near, build, plain_attention

# In float32 a tile has 16 keys, in bfloat16 64: contexts of 8 tiles and more are split.
LONG = [(1, 300), (9, 30), (1, 1), (0, 0), (1, 140), (3, 170)]
CASES = {
    "decodes-and-chunks": Case(LONG, (4, 2, 64)),
    "dim-80-block-7": Case(LONG, (2, 2, 80), block_size=7),
    "odd-groups-block-1": Case([(1, 200), (12, 40)], (7, 1, 24), block_size=1),
    "many-groups": Case([(5, 150), (1, 140)], (40, 2, 16)),
    "a-chunk-of-many-tiles": Case([(1, 180), (80, 150), (1, 20)], (2, 1, 16)),
    "no-decode": Case([(2, 160), (30, 30)], (2, 1, 16)),
    "wide-window": Case(LONG, (4, 2, 32), window=130),
    "softcap": Case(LONG, (4, 2, 32), softcap=5.0),
}
WHOLE = {
    "one-sequence": Case([(20, 300)], (2, 1, 16)),
    "decodes-only": Case([(1, 300), (1, 20)], (2, 1, 16)),
    "short-contexts": Case([(1, 60), (20, 20)], (2, 1, 16)),
    "narrow-window": Case([(1, 300), (20, 20)], (2, 1, 16), window=16),
    "a-full-gpu": Case([(1, 130)] * 35 + [(2, 2)], (8, 8, 16)),
}


@pytest.fixture
def placed(device):
    """The arguments of paged_attention, where launchers take them."""
    return lambda inputs: [
        part.to(device) if torch.is_tensor(part) else part for part in inputs.arguments
    ]


@pytest.fixture
def split(launcher, placed, device):
    """`split(inputs)`: whether single rows were attended, and an output NaN in all others."""
    attend = launcher("decode_attention", "attend_single_rows")

    def run(inputs):
        query, keys, values, tables, starts, lengths, *rest = placed(inputs)
        output = torch.full_like(query, torch.nan)
        return attend(query, keys, values, tables, starts, lengths, output, *rest), output.cpu()

    return run


def is_single(case):
    return torch.cat([torch.full((rows,), rows == 1) for rows, _ in case.sequences])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_single_rows_are_attention_in_float64_and_no_others_are_touched(case, generator, split):
    inputs = build(case, torch.float32, generator)
    is_split, output = split(inputs)
    single = is_single(case)
    assert is_split
    assert output[~single].isnan().all()
    if single.any():
        assert_near(output[single], plain_attention(case, inputs)[single], torch.float32)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_kernels_and_reference_are_attention_in_float64(case, generator, placed, launcher):
    inputs = build(case, torch.float32, generator)
    expected = plain_attention(case, inputs)
    result = launcher("paged_attention")(*placed(inputs)).cpu()
    assert_near(result, expected, torch.float32)
    assert_near(reference_paged_attention(*inputs.arguments), expected, torch.float32)


@pytest.mark.parametrize("cache_dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=["bf16", "e4m3"])
def test_half_precision_is_split_as_well(cache_dtype, generator, split, placed, launcher):
    case = Case([(1, 530), (5, 70), (1, 90)], (4, 2, 32))
    inputs = build(case, torch.bfloat16, generator, cache_dtype=cache_dtype)
    assert split(inputs)[0]
    result = launcher("paged_attention")(*placed(inputs)).cpu()
    assert_near(result, plain_attention(case, inputs), torch.bfloat16)


@pytest.mark.parametrize("case", WHOLE.values(), ids=WHOLE.keys())
def test_what_two_launches_would_not_pay_for_is_left_to_one(case, generator, split):
    is_split, output = split(build(case, torch.float32, generator))
    assert not is_split
    assert output.isnan().all()


def test_a_rows_bits_depend_on_shapes_but_on_no_length_beside_it(generator, placed, launcher):
    inputs = build(Case(LONG, (4, 2, 64)), torch.float32, generator)
    arguments = placed(inputs)
    whole = launcher("paged_attention")(*arguments)
    arguments[5] = arguments[5].clone()
    arguments[5][4] = 77
    other = launcher("paged_attention")(*arguments)
    rows = torch.arange(len(whole)) != 11  # that of the sequence whose length was changed
    assert other[rows].equal(whole[rows])
    assert not other[~rows].equal(whole[~rows])
