"""The layers of a decoder in one call, against their reference and the calls they replace."""

from typing import NamedTuple

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from kernels import ops
from kernels.cpu import packed_layers as cpu_packed_layers
from kernels.cpu.native.bindings import load_library
from kernels.packed import PackedLayer, PackedStack, Projection
from kernels.reference.packed_layers import packed_layers as reference_packed_layers
from tests.kernels.packed_blocks import random_matrix, tiled

HIDDEN, INNER, HEADS, KV_HEADS, SIZE, BLOCK = 256, 512, 8, 2, 32, 16
NUM_LAYERS = 3


class Stacks(NamedTuple):
    """The same layers as a file has them and in tiles."""

    plain: PackedStack
    tiled: PackedStack


@pytest.fixture(scope="module")
def library():
    found = load_library()
    if found is None:
        pytest.skip("no compiler")
    return found


def projection(library, kind, rows, columns, seed, *, in_tiles):
    """One of a single matrix, exact."""
    matrix = random_matrix(kind, rows, columns, seed)
    matrix = tiled(library, matrix) if in_tiles else matrix
    return Projection((matrix,), None, True)


def layer_of(library, index, *, in_tiles):
    """One that turns its heads or not, sees all or a window, has norms of heads or none."""
    torch.manual_seed(index)
    head_norms = (torch.rand(SIZE), torch.rand(SIZE))
    shapes = [
        (Type.Q4_K, (HEADS + 2 * KV_HEADS) * SIZE, HIDDEN),
        (Type.Q4_0, HIDDEN, HEADS * SIZE),
        (Type.Q8_0, 2 * INNER, HIDDEN),
        (Type.Q6_K, HIDDEN, INNER),
    ]
    qkv, output, gate_up, down = (
        projection(library, *shape, 7 * index + place, in_tiles=in_tiles)
        for place, shape in enumerate(shapes)
    )
    return PackedLayer(
        *(torch.rand(HIDDEN), qkv, head_norms if index != 1 else None, output),
        *(torch.rand(HIDDEN), gate_up, down, index == 2),
        eps=1e-6,
        rotation=(0, None, 1)[index],
        scale=SIZE**-0.5,
        window=(0, 20, 0)[index],
        softcap=(0.0, 0.0, 30.0)[index],
    )


@pytest.fixture(scope="module")
def stacks(library):
    return Stacks(
        *(
            PackedStack([layer_of(library, i, in_tiles=in_tiles) for i in range(NUM_LAYERS)])
            for in_tiles in (False, True)
        )
    )


def build(batch, generator, dtype=torch.float32):
    """Input, rotations, caches and where tokens lie, of sequences as (rows, context length)."""
    rows, lengths = batch
    num_rows, width = sum(rows), -(-max(lengths) // BLOCK)
    x = torch.randn(num_rows, HIDDEN, generator=generator)
    angles = torch.randn(2, num_rows, SIZE // 2, generator=generator)
    shape = (NUM_LAYERS, 2, len(rows) * width, BLOCK, KV_HEADS, SIZE)
    caches = [(k, v) for k, v in torch.randn(shape, generator=generator).to(dtype)]
    tables = torch.arange(len(rows) * width).view(len(rows), width).int()
    slots = torch.cat(
        [
            torch.arange(length - count, length) + s * width * BLOCK
            for s, (count, length) in enumerate(zip(rows, lengths, strict=True))
        ]
    )
    starts = torch.tensor([0, *rows]).cumsum(0).int()
    turns = [(turn.cos(), turn.sin()) for turn in angles]
    return x, turns, caches, (slots, tables, starts, torch.tensor(lengths).int())


def copies(caches):
    return [(keys.clone(), values.clone()) for keys, values in caches]


BATCHES: dict[str, tuple[list[int], list[int]]] = {
    "decode": ([1, 1, 1], [5, 1, 200]),
    "mixed": ([1, 7, 40], [20, 7, 70]),
}


@pytest.mark.parametrize("batch", BATCHES.values(), ids=list(BATCHES))
def test_layers_are_the_references(stacks, batch, generator):
    x, turns, caches, sequences = build(batch, generator)
    expected, actual = copies(caches), copies(caches)
    truth = reference_packed_layers(x, stacks.plain, turns, expected, *sequences)
    result = ops.packed_layers(x, stacks.tiled, turns, actual, *sequences)
    for ours, theirs in zip(result, truth, strict=True):
        assert (ours - theirs).norm() < 1e-4 * theirs.norm()
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("batch", BATCHES.values(), ids=list(BATCHES))
def test_one_call_has_the_bits_of_many(stacks, batch, dtype, generator, monkeypatch):
    x, turns, caches, sequences = build(batch, generator, dtype)
    parts, whole, before = copies(caches), copies(caches), x.clone()
    assert cpu_packed_layers.is_native(x, stacks.tiled, whole)
    result = ops.packed_layers(x, stacks.tiled, turns, whole, *sequences)
    monkeypatch.setattr(cpu_packed_layers, "is_native", lambda *_: False)
    expected = ops.packed_layers(x, stacks.tiled, turns, parts, *sequences)
    assert all(ours.equal(theirs) for ours, theirs in zip(result, expected, strict=True))
    for ours, theirs in zip(whole, parts, strict=True):
        assert ours[0].equal(theirs[0])
        assert ours[1].equal(theirs[1])
    assert x.equal(before)


def test_other_caches_are_written_to_when_they_are_given(stacks, generator):
    x, turns, caches, sequences = build(BATCHES["decode"], generator)
    first, second = copies(caches), copies(caches)
    results = [
        ops.packed_layers(x, stacks.tiled, turns, each, *sequences) for each in (first, second)
    ]
    assert results[0][0].equal(results[1][0])
    assert all(a[0].equal(b[0]) for a, b in zip(first, second, strict=True))
    assert not any(a[0].equal(b[0]) for a, b in zip(first, caches, strict=True))


def test_what_the_library_does_not_take_is_composed(stacks, generator):
    x, turns, caches, sequences = build(BATCHES["decode"], generator)
    assert not cpu_packed_layers.is_native(x, stacks.plain, caches)
    assert not cpu_packed_layers.is_native(x.bfloat16(), stacks.tiled, caches)
    result = ops.packed_layers(x, stacks.plain, turns, copies(caches), *sequences)
    truth = reference_packed_layers(x, stacks.plain, turns, copies(caches), *sequences)
    for ours, theirs in zip(result, truth, strict=True):
        assert (ours - theirs).norm() < 1e-4 * theirs.norm()
