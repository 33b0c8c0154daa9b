"""Paged attention: the reference against plain attention in float64, both fast paths against it."""

from typing import Any

import pytest
import torch

from kernels import ops
from kernels.cpu.native.bindings import load_library
from kernels.cpu.paged_attention import _padded, paged_attention as cpu_paged_attention
from kernels.reference.paged_attention import paged_attention as reference_paged_attention
from tests.kernels.attention_cases import Case, assert_near, build, plain_attention

CASES = {
    "one-token": Case([(1, 1)], (2, 1, 16)),
    "decode": Case([(1, 33), (1, 1), (1, 200), (1, 97)], (4, 2, 64)),
    "prefill": Case([(70, 70)], (4, 2, 64)),
    "mixed": Case([(1, 50), (13, 40), (1, 1), (9, 9), (2, 71)], (8, 2, 32)),
    "empty-among": Case([(0, 0), (1, 20), (0, 5), (3, 7), (0, 0)], (2, 2, 32)),
    "dim-80": Case([(1, 37), (5, 20)], (2, 2, 80)),
    "dim-96-block-7": Case([(1, 37), (5, 20)], (4, 2, 96), block_size=7),
    "odd-groups": Case([(1, 70), (12, 40)], (7, 1, 24), block_size=1),
    "many-groups": Case([(1, 40), (3, 12)], (40, 2, 16)),
    "window": Case([(1, 150), (40, 90), (1, 3), (6, 6)], (4, 2, 32), window=24),
    "window-1": Case([(1, 20), (5, 9)], (2, 1, 16), window=1),
    "wide-window": Case([(1, 20), (5, 9)], (2, 1, 16), window=1000),
    "softcap": Case([(1, 40), (6, 30)], (4, 2, 32), softcap=5.0),
    "window-softcap": Case([(1, 90), (30, 50)], (4, 4, 32), block_size=5, window=17, softcap=2.0),
    "block-larger-than-context": Case([(1, 9), (4, 4)], (2, 1, 32), block_size=128),
}


@pytest.fixture(params=["torch", "native"])
def cpu_attention(request, monkeypatch):
    """The CPU path without the library and with it."""
    library = load_library() if request.param == "native" else None
    if request.param == "native" and library is None:
        pytest.skip("no compiler")
    monkeypatch.setattr("kernels.cpu.paged_attention.loaded_library", lambda: library)
    return cpu_paged_attention


@pytest.fixture(params=list(CASES.values()), ids=list(CASES))
def case(request):
    return request.param


def test_reference_is_plain_attention_in_float64(case, dtype, generator):
    inputs = build(case, dtype, generator)
    expected = plain_attention(case, inputs)
    assert_near(reference_paged_attention(*inputs.arguments), expected, dtype)


def test_cpu_path_equals_reference(cpu_attention, case, dtype, generator):
    inputs = build(case, dtype, generator)
    expected = reference_paged_attention(*inputs.arguments)
    assert_near(cpu_attention(*inputs.arguments), expected, dtype)


@pytest.mark.parametrize("sequences", [[(300, 700)], [(600, 600)], [(1, 1500)]], ids=str)
@pytest.mark.parametrize("window", [0, 100], ids=["all", "window"])
def test_cpu_path_cuts_long_chunks_without_a_seam(cpu_attention, sequences, window, generator):
    inputs = build(Case(sequences, (2, 1, 16), window=window), torch.float32, generator)
    expected = reference_paged_attention(*inputs.arguments)
    assert_near(cpu_attention(*inputs.arguments), expected, torch.float32)


def test_kernel_equals_reference(case, dtype, generator, device, launcher):
    inputs = build(case, dtype, generator)
    expected = reference_paged_attention(*inputs.arguments)
    placed = [part.to(device) if torch.is_tensor(part) else part for part in inputs.arguments]
    assert_near(launcher("paged_attention")(*placed).cpu(), expected, dtype)


@pytest.mark.parametrize("name", ["mixed", "dim-80", "window-softcap", "empty-among"])
def test_kernel_and_reference_take_a_cache_in_e4m3(name, generator, device, launcher):
    inputs = build(CASES[name], torch.bfloat16, generator, cache_dtype=torch.float8_e4m3fn)
    expected = plain_attention(CASES[name], inputs)
    placed = [part.to(device) if torch.is_tensor(part) else part for part in inputs.arguments]
    assert_near(launcher("paged_attention")(*placed).cpu(), expected, torch.bfloat16)
    assert_near(reference_paged_attention(*inputs.arguments), expected, torch.bfloat16)
    assert_near(ops.paged_attention(*inputs.arguments), expected, torch.bfloat16)


@pytest.mark.parametrize("window", [0, 100], ids=["all", "window"])
def test_kernel_meets_edges_and_tiles_that_all_rows_see_whole(window, generator, device, launcher):
    case = Case([(40, 300), (17, 17), (1, 257), (90, 200)], (2, 1, 16), window=window)
    inputs = build(case, torch.bfloat16, generator)
    placed = [part.to(device) if torch.is_tensor(part) else part for part in inputs.arguments]
    expected = plain_attention(case, inputs)
    assert_near(launcher("paged_attention")(*placed).cpu(), expected, torch.bfloat16)


def test_kernel_takes_caches_of_any_strides(generator, device, launcher):
    inputs = build(Case([(1, 37), (5, 20)], (4, 2, 32)), torch.float32, generator)
    expected = reference_paged_attention(*inputs.arguments)
    query, keys, values, *rest = [
        part.to(device) if torch.is_tensor(part) else part for part in inputs.arguments
    ]
    keys = torch.nn.functional.pad(keys, (0, 3, 0, 1), value=torch.nan)[:, :, :2, :32]
    values = values.transpose(0, 1).contiguous().transpose(0, 1)
    result = launcher("paged_attention")(query, keys, values, *rest)
    assert_near(result.cpu(), expected, torch.float32)


def test_large_scores_overflow_nothing(cpu_attention, device, launcher, generator):
    case = Case([(1, 30), (4, 20)], (2, 1, 16), softcap=3.0)
    for capped in (case, case._replace(softcap=0.0)):
        inputs = build(capped, torch.float32, generator, scale=1000.0)
        expected = reference_paged_attention(*inputs.arguments)
        placed = [part.to(device) if torch.is_tensor(part) else part for part in inputs.arguments]
        torch.testing.assert_close(launcher("paged_attention")(*placed).cpu(), expected)
        torch.testing.assert_close(cpu_attention(*inputs.arguments), expected)


@pytest.mark.parametrize("window", [0, 24], ids=["all", "window"])
def test_cpu_path_gives_a_sequence_the_same_bits_whatever_its_neighbours(
    cpu_attention, window, generator
):
    sequences = [(1, 50), (13, 40), (1, 49), (1, 300), (1, 51), (1, 1), (30, 30)]
    inputs = build(Case(sequences, (4, 2, 64), window=window), torch.float32, generator)
    query, keys, values, tables, starts, lengths, *rest = inputs.arguments
    together = cpu_attention(*inputs.arguments)
    for sequence in range(len(sequences)):
        rows = slice(int(starts[sequence]), int(starts[sequence + 1]))
        alone = cpu_attention(
            *(query[rows], keys, values, tables[sequence : sequence + 1]),
            torch.tensor([0, rows.stop - rows.start]).int(),
            lengths[sequence : sequence + 1],
            *rest,
        )
        assert torch.equal(alone, together[rows])


def test_cpu_path_splits_a_large_batch_without_a_trace(cpu_attention, generator):
    sequences = [(1, 40 + index % 9) for index in range(64)]  # 1 KiB a key: more than 2 MiB
    inputs = build(Case(sequences, (4, 4, 64)), torch.float32, generator)
    whole = cpu_attention(*inputs.arguments)
    assert_near(whole, reference_paged_attention(*inputs.arguments), torch.float32)
    query, keys, values, tables, _, lengths, *rest = inputs.arguments
    start = torch.tensor([0, 1]).int()
    for index in range(0, 64, 7):
        one = slice(index, index + 1)
        alone = cpu_attention(query[one], keys, values, tables[one], start, lengths[one], *rest)
        assert torch.equal(alone, whole[one])


@pytest.mark.parametrize("length", [1, 15, 16, 17, 100, 129, 511, 512, 513, 4000, 4097], ids=str)
def test_cpu_path_pads_by_a_quarter_at_most(length):
    assert length <= _padded(length) <= max(16 * -(-length // 16), length * 1.25)


@pytest.mark.parametrize(
    ("position", "wrong", "complaint"),
    [
        (0, torch.ones(2, 3, 8), "query heads modulo KV heads: got 1, expected 0"),
        (0, torch.ones(2, 4, 9), "head dimension of query: got 9, expected 8"),
        (1, torch.ones(5, 4, 2, 8).half(), "dtype of key_cache: got torch.float16, expected"),
        (1, torch.ones(5, 4, 2, 8).to(torch.float8_e4m3fn), "beside e4m3: got 4, expected 2"),
        (3, torch.ones(3, 2).int(), "rows of block_tables: got 3, expected 1"),
        (4, torch.tensor([0]).int(), r"shape of query_starts: got \(1,\), expected \(2,\)"),
        (5, torch.tensor([2]), "dtype of context_lengths: got torch.int64, expected torch.int32"),
    ],
    ids=["groups", "head-dim", "dtype", "e4m3", "tables", "starts", "lengths"],
)
def test_launcher_names_what_it_got_and_expected(position, wrong, complaint, launcher):
    cache = torch.ones(5, 4, 2, 8)
    arguments: list[Any] = [torch.ones(2, 4, 8), cache, cache, torch.ones(1, 2).int()]
    arguments += [torch.tensor([0, 2]).int(), torch.tensor([2]).int(), 1.0]
    arguments[position] = wrong
    with pytest.raises(ValueError, match=complaint):
        launcher("paged_attention")(*arguments)
