"""Heads made ready for attention: the kernel and the door against arithmetic in float64."""

from typing import NamedTuple

import pytest
import torch

from kernels import ops
from kernels.reference.write_heads import write_heads as reference_write_heads

EPS = 1e-5
NUM_BLOCKS, BLOCK_SIZE = 4, 6
SLOTS = [17, -1, 0, 9, 23]


class Case(NamedTuple):
    """Query heads, KV heads and their size; what happens to them."""

    heads: tuple[int, int, int] = (6, 2, 32)
    num_turned: int = 32
    has_norms: bool = True
    has_wide_norms: bool = False  # float32 weights beside narrower heads


CASES = {
    "all": Case(),
    "odd-groups": Case((5, 1, 24), 24),
    "no-groups": Case((3, 3, 16), 16),
    "no-norms": Case(has_norms=False),
    "wide-norms": Case(has_wide_norms=True),
    "half-turned": Case(num_turned=16),
    "few-turned": Case((4, 2, 80), 20),
    "not-turned": Case(num_turned=0),
    "copied": Case(num_turned=0, has_norms=False),
}


def build(case, dtype, generator, cache_dtype=None):
    """The arguments: qkv is a view, the caches are of NaN and not contiguous."""
    num_heads, num_kv_heads, size = case.heads
    columns = (num_heads + 2 * num_kv_heads) * size
    qkv = torch.randn(len(SLOTS), columns + 7, generator=generator).to(dtype)[:, :columns]
    norms = 1 + 0.3 * torch.randn(2, size, generator=generator)
    norms = norms if case.has_wide_norms else norms.to(dtype)
    angles = torch.randn(len(SLOTS), case.num_turned // 2, generator=generator)
    caches = torch.full((NUM_BLOCKS, 2, BLOCK_SIZE, num_kv_heads, size), torch.nan)
    caches = caches.to(cache_dtype or dtype)
    return (
        *(qkv, (norms[0], norms[1]) if case.has_norms else None, EPS),
        (angles.cos(), angles.sin()) if case.num_turned else None,
        *(caches[:, 0], caches[:, 1], torch.tensor(SLOTS)),
    )


def ready_heads(case, arguments):
    """Queries, keys and values [T, H, D] in float64, a pair of dimensions as a complex number."""
    qkv, norms, eps, rotation, *_ = arguments
    num_heads, num_kv_heads, size = case.heads
    heads = qkv.double().unflatten(1, (-1, size))
    heads, value = heads[:, : num_heads + num_kv_heads], heads[:, num_heads + num_kv_heads :]
    if norms is not None:
        weights = [norms[0]] * num_heads + [norms[1]] * num_kv_heads
        heads = heads / (heads.square().mean(-1, keepdim=True) + eps).sqrt()
        heads = heads * torch.stack(weights).double()
    if rotation is not None:
        half = case.num_turned // 2
        turn = torch.complex(rotation[0].double(), rotation[1].double())[:, None]
        turned = torch.complex(heads[..., :half], heads[..., half : 2 * half]) * turn
        heads = torch.cat([turned.real, turned.imag, heads[..., 2 * half :]], dim=-1)
    return heads[:, :num_heads], heads[:, num_heads:], value


def copied(arguments, device="cpu"):
    """The arguments on a device, with caches of their own."""
    *rest, keys, values, slots = arguments
    both = torch.stack([keys, values], dim=1).to(device, copy=True)
    qkv, norms, eps, rotation = rest
    norms, rotation = (
        None if pair is None else (pair[0].to(device), pair[1].to(device))
        for pair in (norms, rotation)
    )
    return (qkv.to(device), norms, eps, rotation, both[:, 0], both[:, 1], slots.to(device))


@pytest.fixture(params=["kernel", "reference", "door"])
def write(request, launcher, device):
    """`write(arguments)`: queries, and the rows of the caches [N * B, Hkv, D]."""
    function = {"reference": reference_write_heads, "door": ops.write_heads}.get(request.param)
    place = "cpu" if function else device

    def run(arguments):
        placed = list(copied(arguments, place))
        if request.param == "door":  # CPU paths want contiguous caches
            placed[4:6] = [cache.contiguous() for cache in placed[4:6]]
        query = (function or launcher("write_heads"))(*placed)
        return query.cpu(), *(cache.cpu().flatten(0, 1) for cache in placed[4:6])

    return run


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_heads_are_normalised_turned_and_stored(write, case, dtype, tolerance, generator):
    arguments = build(case, dtype, generator)
    query, keys, values = write(arguments)
    true_query, true_key, true_value = ready_heads(case, arguments)
    # Norm, weight and rotation are rounded each.
    near = {name: 4 * bound for name, bound in tolerance.items()}
    torch.testing.assert_close(query.double(), true_query, **near)
    kept = [index for index, slot in enumerate(SLOTS) if slot >= 0]
    slots = [slot for slot in SLOTS if slot >= 0]
    torch.testing.assert_close(keys[slots].double(), true_key[kept], **near)
    torch.testing.assert_close(values[slots].double(), true_value[kept], rtol=0, atol=0)
    for cache in (keys, values):
        assert cache.isnan().all(-1).all(-1).sum() == len(cache) - len(slots)


@pytest.mark.parametrize("name", ["all", "few-turned"])
def test_the_kernel_stores_in_e4m3_what_the_reference_stores(name, generator, device, launcher):
    arguments = build(CASES[name], torch.bfloat16, generator, torch.float8_e4m3fn)
    actual, expected = copied(arguments, device), copied(arguments)
    launcher("write_heads")(*actual)
    reference_write_heads(*expected)
    for cache, truth in zip(actual[4:6], expected[4:6], strict=True):
        cache, truth = cache.cpu().float(), truth.float()
        assert cache.isnan().equal(truth.isnan())
        # A key that is rounded otherwise in bfloat16 may fall on the other side of a tie.
        assert (cache == truth).sum() >= 0.98 * (~truth.isnan()).sum()
        torch.testing.assert_close(cache, truth, rtol=0.13, atol=2e-3, equal_nan=True)


@pytest.mark.parametrize(
    ("position", "wrong", "complaint"),
    [
        (0, torch.ones(5, 300), "columns of qkv modulo those of a KV group: got 44, expected 0"),
        (0, torch.ones(5, 64), "columns of qkv: got 64, fewer than keys and values take"),
        (1, (torch.ones(31), torch.ones(32)), r"shape of weight of a norm: got \(31,\), expected"),
        (3, (torch.ones(5, 17), torch.ones(5, 17)), "rotated dimensions: got 34, expected <= 32"),
        (6, torch.zeros(4, dtype=torch.int64), r"shape of slots: got \(4,\), expected \(5,\)"),
    ],
    ids=["columns", "too-few", "norm", "rotation", "slots"],
)
def test_launcher_names_what_it_got_and_expected(position, wrong, complaint, launcher, generator):
    arguments = list(build(Case(), torch.float32, generator))
    arguments[position] = wrong
    with pytest.raises(ValueError, match=complaint):
        launcher("write_heads")(*arguments)
