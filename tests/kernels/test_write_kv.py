"""KV into the block cache: both twins against a loop, with everything else left untouched."""

import pytest
import torch

from kernels.cpu.write_kv import write_kv as cpu_write_kv
from kernels.reference.write_kv import write_kv as reference_write_kv

SLOTS = {"scattered": [17, -1, 0, 9, 23], "all-skipped": [-1] * 5, "one": [11], "none": []}
NUM_BLOCKS, BLOCK_SIZE = 4, 6


@pytest.fixture(params=[(2, 64), (3, 80), (1, 1)], ids=["pow2", "odd", "one"])
def heads(request):
    return request.param


@pytest.fixture(params=list(SLOTS.values()), ids=list(SLOTS))
def arguments(request, heads, dtype, generator):
    """(key, value, key_cache, value_cache, slots): strided views, caches of NaN."""
    num_heads, dim = heads
    fused = torch.randn(len(request.param), 3 * num_heads, dim + 5, generator=generator).to(dtype)
    _, key, value = fused[..., :dim].chunk(3, dim=1)
    layers = torch.full((NUM_BLOCKS, 2, BLOCK_SIZE, num_heads, dim), torch.nan, dtype=dtype)
    slots = torch.tensor(request.param, dtype=torch.int64)
    return key, value, layers[:, 0], layers[:, 1], slots


def expected_cache(rows, cache, slots):
    cache = cache.clone()
    for row, slot in zip(rows, slots.tolist(), strict=True):
        if slot >= 0:
            cache[slot // BLOCK_SIZE][slot % BLOCK_SIZE] = row
    return cache


def check(write, arguments, device="cpu"):
    key, value, key_cache, value_cache, slots = arguments
    expected = expected_cache(key, key_cache, slots), expected_cache(value, value_cache, slots)
    placed = [tensor.to(device) for tensor in arguments]
    assert write(*placed) is None
    for cache, truth in zip(placed[2:4], expected, strict=True):
        torch.testing.assert_close(cache.cpu(), truth, rtol=0, atol=0, equal_nan=True)


def test_reference_writes_its_slots_and_nothing_else(arguments):
    check(reference_write_kv, arguments)


def test_cpu_path_writes_its_slots_and_nothing_else(arguments):
    key, value, key_cache, value_cache, slots = arguments
    check(cpu_write_kv, (key, value, key_cache.clone(), value_cache.clone(), slots))


def test_a_cache_in_e4m3_gets_the_nearest_that_it_can_hold(dtype, generator, device, launcher):
    rows = 300 * torch.randn(5, 2, 20, generator=generator).to(dtype)
    assert rows.abs().max() > 500
    slots = torch.tensor([17, -1, 0, 9, 23])
    stored = rows.clamp(-448, 448).to(torch.float8_e4m3fn)
    for write, place in (
        (launcher("write_kv"), device),
        (reference_write_kv, "cpu"),
        (cpu_write_kv, "cpu"),
    ):
        caches = torch.full((2, NUM_BLOCKS, BLOCK_SIZE, 2, 20), torch.nan).to(torch.float8_e4m3fn)
        caches = caches.to(place)
        write(rows.to(place), -rows.to(place), caches[0], caches[1], slots.to(place))
        for cache, sign in zip(caches.cpu().float(), (1, -1), strict=True):
            flat = cache.flatten(0, 1)
            assert flat[[17, 0, 9, 23]].equal(sign * stored.float()[[0, 2, 3, 4]])
            assert flat.isnan().all(-1).all(-1).sum() == len(flat) - 4


def test_cpu_path_refuses_a_cache_that_it_could_only_copy():
    key, layers = torch.ones(1, 2, 8), torch.zeros(4, 2, 6, 2, 8)
    with pytest.raises(RuntimeError, match="view"):
        cpu_write_kv(key, key, layers[:, 0], layers[:, 1], torch.tensor([0]))


def test_kernel_writes_its_slots_and_nothing_else(arguments, device, launcher):
    check(launcher("write_kv"), arguments, device)


@pytest.mark.parametrize(
    ("position", "wrong", "complaint"),
    [
        (1, torch.ones(2, 1, 8), r"shape of value: got \(2, 1, 8\), expected \(2, 2, 8\)"),
        (2, torch.ones(4, 6, 2, 9), r"shape of key_cache: got \(4, 6, 2, 9\), expected \(4, 6, 2"),
        (3, torch.ones(4, 6, 2, 8).half(), "dtype of value_cache: got torch.float16, expected"),
        (4, torch.ones(2, dtype=torch.int32), "dtype of slots: got torch.int32, expected torch.i"),
    ],
    ids=["value", "key-cache", "dtype", "slots"],
)
def test_launcher_names_what_it_got_and_expected(position, wrong, complaint, launcher):
    key, cache = torch.ones(2, 2, 8), torch.ones(4, 6, 2, 8)
    arguments = [key, key, cache, cache, torch.tensor([0, 1])]
    arguments[position] = wrong
    with pytest.raises(ValueError, match=complaint):
        launcher("write_kv")(*arguments)
