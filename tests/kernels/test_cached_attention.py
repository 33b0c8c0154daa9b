"""From projections to attended heads: reference against float64, both CPU paths against it."""

from typing import NamedTuple

import pytest
import torch

from kernels import ops
from kernels.cpu.native.bindings import load_library
from kernels.reference.cached_attention import cached_attention as reference_cached_attention

EPS = 1e-5
BLOCK = 4
HEADS = (6, 2, 32)  # query heads, KV heads, head size


class Case(NamedTuple):
    """Sequences as (rows, context length); what happens to a head; how it attends."""

    sequences: list[tuple[int, int]]
    has_norms: bool = True
    num_turned: int = 32
    window: int = 0
    softcap: float = 0.0


CASES = {
    "decode": Case([(1, 9), (1, 1), (1, 300)]),
    "prefill": Case([(40, 40)]),
    "mixed": Case([(1, 20), (7, 7), (0, 0), (1, 2), (3, 70)]),
    "no-norms": Case([(1, 20), (7, 7)], has_norms=False),
    "half-turned": Case([(1, 20), (7, 7)], num_turned=16),
    "not-turned": Case([(1, 20), (7, 7)], num_turned=0),
    "window-softcap": Case([(1, 50), (30, 41)], window=9, softcap=3.0),
}


def build(case, generator, dtype=torch.float32):
    """The arguments. The cache holds NaN where no token lives."""
    num_heads, num_kv_heads, size = HEADS
    rows, lengths = zip(*case.sequences, strict=True)
    width = -(-max(lengths) // BLOCK)
    tables = torch.randperm(len(rows) * width, generator=generator).view(len(rows), width).int()
    places = [
        tables[s, positions // BLOCK].long() * BLOCK + positions % BLOCK
        for s, positions in enumerate(map(torch.arange, lengths))
    ]
    caches = torch.full((2, tables.numel() * BLOCK, num_kv_heads, size), torch.nan).to(dtype)
    for there, num_rows in zip(places, rows, strict=True):
        before = there[: len(there) - num_rows]
        caches[:, before] = torch.randn(2, len(before), *HEADS[1:], generator=generator).to(dtype)
    slots = torch.cat([p[len(p) - n :] for p, n in zip(places, rows, strict=True)])
    caches = caches.view(2, -1, BLOCK, num_kv_heads, size)
    qkv = torch.randn(sum(rows), (num_heads + 2 * num_kv_heads) * size, generator=generator)
    angles = torch.randn(sum(rows), case.num_turned // 2, generator=generator)
    norms = 1 + 0.1 * torch.randn(2, size, generator=generator).to(dtype)
    return (
        *(qkv.to(dtype), (norms[0], norms[1]) if case.has_norms else None, EPS),
        (angles.cos(), angles.sin()) if case.num_turned else None,
        *(caches[0], caches[1], slots, tables),
        torch.tensor([0, *rows]).cumsum(0).int(),
        torch.tensor(lengths).int(),
        *(size**-0.5, case.window, case.softcap),
    )


def copied(arguments):
    """What the operation may write, written once only."""
    qkv, norms, eps, rotation, keys, values, *rest = arguments
    return (qkv.clone(), norms, eps, rotation, keys.clone(), values.clone(), *rest)


@pytest.fixture(params=["native", "composed"])
def attention(request, monkeypatch):
    """The operation in one call of the library and, without it, made of others."""
    library = load_library() if request.param == "native" else None
    if request.param == "native" and library is None:
        pytest.skip("no compiler")
    for file in ("cached_attention", "paged_attention", "rms_norm"):
        monkeypatch.setattr(f"kernels.cpu.{file}.loaded_library", lambda: library)
    return ops.cached_attention


@pytest.fixture(params=list(CASES.values()), ids=list(CASES))
def case(request):
    return request.param


@pytest.fixture
def poisoned():
    """What `torch.empty` returns holds NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def test_reference_is_the_formula_in_float64(generator):
    qkv, norms, eps, (cos, sin), keys, values, *rest = build(Case([(1, 1)]), generator)
    result = reference_cached_attention(qkv, norms, eps, (cos, sin), keys, values, *rest)
    # One token attends to itself alone: its value comes out, for each query head of a KV head.
    heads = qkv.double().view(10, 32)
    torch.testing.assert_close(result.view(6, 32).double(), heads[8:].repeat_interleave(3, 0))
    key = heads[6:8] / (heads[6:8].square().mean(-1, keepdim=True) + eps).sqrt()
    key = torch.view_as_complex((key * norms[1].double()).view(2, 2, 16).mT.contiguous())
    turned = torch.view_as_real(key * torch.complex(cos, sin).to(torch.complex128))
    stored = keys.view(-1, 2, 32)[rest[0][0]]
    torch.testing.assert_close(stored.double(), turned.mT.reshape(2, 32), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("poisoned")
def test_both_ways_equal_the_reference(attention, case, generator):
    arguments = build(case, generator)
    expected, actual = copied(arguments), copied(arguments)
    result, truth = attention(*actual), reference_cached_attention(*expected)
    torch.testing.assert_close(result, truth, rtol=2e-5, atol=2e-6)
    for cache, true_cache in zip(actual[4:6], expected[4:6], strict=True):
        torch.testing.assert_close(cache, true_cache, rtol=2e-5, atol=2e-6, equal_nan=True)


def test_half_size_types_are_composed(generator):
    arguments = build(CASES["mixed"], generator, torch.bfloat16)
    result = ops.cached_attention(*copied(arguments))
    truth = reference_cached_attention(*copied(arguments))
    torch.testing.assert_close(result, truth, rtol=2e-2, atol=2e-2)


def test_a_token_without_a_slot_is_not_stored(attention, generator):
    arguments = list(build(Case([(1, 9), (1, 5)]), generator))
    arguments[6] = torch.tensor([-1, int(arguments[6][1])])
    arguments[4].nan_to_num_(), arguments[5].nan_to_num_()
    before = arguments[4].clone()
    attention(*arguments)
    changed = (arguments[4] != before).flatten(2).any(-1).flatten().nonzero().flatten()
    assert changed.tolist() == [int(arguments[6][1])]


def test_a_sequences_bits_do_not_depend_on_its_neighbours(attention, generator):
    arguments = build(CASES["mixed"], generator)
    together = attention(*copied(arguments))
    qkv, norms, eps, rotation, keys, values, slots, tables, starts, lengths, *rest = arguments
    for s in range(len(lengths)):
        rows = slice(int(starts[s]), int(starts[s + 1]))
        turn = (rotation[0][rows], rotation[1][rows])
        one = (slots[rows], tables[s : s + 1], torch.tensor([0, rows.stop - rows.start]).int())
        alone = attention(
            *copied((qkv[rows], norms, eps, turn, keys, values, *one, lengths[s : s + 1], *rest))
        )
        assert alone.equal(together[rows])


def test_a_cache_in_e4m3_is_written_and_read(generator):
    arguments = list(build(CASES["mixed"], generator))
    arguments[4:6] = [cache.to(torch.float8_e4m3fn) for cache in arguments[4:6]]
    actual, expected = copied(arguments), copied(arguments)
    result, truth = ops.cached_attention(*actual), reference_cached_attention(*expected)
    torch.testing.assert_close(result, truth, rtol=1e-3, atol=1e-3)
    for cache, true_cache in zip(actual[4:6], expected[4:6], strict=True):
        assert (cache.view(torch.uint8) == true_cache.view(torch.uint8)).float().mean() > 0.99
