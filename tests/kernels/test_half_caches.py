"""Float32 attention over keys and values in float16: both CPU paths against the reference."""

import pytest
import torch

from kernels import ops
from kernels.cpu.native.bindings import load_library
from kernels.reference.cached_attention import cached_attention as reference_cached_attention
from tests.kernels.test_cached_attention import CASES, build, copied


def with_half_caches(arguments):
    head, rest = arguments[:4], arguments[6:]
    return (*head, arguments[4].half(), arguments[5].half(), *rest)


@pytest.fixture(params=["native", "in-torch"])
def attention(request, monkeypatch):
    """The operation in one call of the library and, without it, made of others."""
    library = load_library() if request.param == "native" else None
    if request.param == "native" and library is None:
        pytest.skip("no compiler")
    for file in ("cached_attention", "paged_attention", "rms_norm"):
        monkeypatch.setattr(f"kernels.cpu.{file}.loaded_library", lambda: library)
    return ops.cached_attention


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_both_ways_equal_the_reference(attention, case, generator):
    arguments = with_half_caches(build(case, generator))
    expected, actual = copied(arguments), copied(arguments)
    result, truth = attention(*actual), reference_cached_attention(*expected)
    assert result.dtype == torch.float32
    # A key that falls between two of float16 may go to either, after norms and turns.
    torch.testing.assert_close(result, truth, rtol=1e-3, atol=2e-4)
    for cache, true_cache in zip(actual[4:6], expected[4:6], strict=True):
        torch.testing.assert_close(cache, true_cache, rtol=1e-3, atol=1e-6, equal_nan=True)


def test_what_is_stored_is_rounded_as_torch_rounds(attention, generator):
    case = CASES["no-norms"]
    arguments = list(with_half_caches(build(case, generator)))
    qkv, (num_heads, num_kv_heads, size) = arguments[0], (6, 2, 32)
    arguments[3] = None
    bits = torch.randint(0, 1 << 32, qkv.shape, generator=generator).int()
    small = torch.randn(qkv.shape, generator=generator) * 1e-6  # float16 has subnormals there
    qkv.copy_(torch.where(bits % 2 == 0, bits.view(torch.float32), small))
    values = qkv.unflatten(1, (-1, size))[:, num_heads + num_kv_heads :].half()
    attention(*arguments)
    stored = arguments[5].view(-1, num_kv_heads, size)[arguments[6]]
    torch.testing.assert_close(stored, values, rtol=0, atol=0, equal_nan=True)


def test_a_sequences_bits_do_not_depend_on_its_neighbours(attention, generator):
    arguments = with_half_caches(build(CASES["mixed"], generator))
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


def test_numbers_in_both_caches_give_what_float32_ones_give(generator):
    library = load_library()
    if library is None:
        pytest.skip("no compiler")
    halves = with_half_caches(build(CASES["window-softcap"], generator))
    halves[6].fill_(-1)  # nothing is stored: what is there was float16 before
    halves = (*halves[:4], halves[4].nan_to_num(), halves[5].nan_to_num(), *halves[6:])
    wide = (*halves[:4], halves[4].float(), halves[5].float(), *halves[6:])
    assert ops.cached_attention(*copied(halves)).equal(ops.cached_attention(*copied(wide)))
