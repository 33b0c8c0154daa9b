"""A layer's MLP and attention with packed weights in one call each, against their references."""

import pytest
import torch
from gguf import GGMLQuantizationType as Type

from kernels import ops
from kernels.cpu.native.bindings import Library, load_library
from kernels.packed import Projection
from kernels.reference.packed_attention import packed_attention as reference_packed_attention
from kernels.reference.packed_mlp import packed_mlp as reference_packed_mlp
from tests.kernels.packed_blocks import random_matrix, tiled

Pair = tuple[Projection, Projection]

HIDDEN, INNER = 256, 512
HEADS, KV_HEADS, SIZE = 8, 2, 32


@pytest.fixture(scope="module")
def library():
    found = load_library()
    if found is None:
        pytest.skip("no compiler")
    return found


def pair(library, kinds, rows, columns, bias=None, is_exact=True):
    """A projection as a file has it, and in tiles."""
    shapes = enumerate(zip(kinds, rows, strict=True))
    plain = [random_matrix(kind, count, columns, seed) for seed, (kind, count) in shapes]
    in_tiles = tuple(tiled(library, matrix) for matrix in plain)
    return Projection(tuple(plain), bias, is_exact), Projection(in_tiles, bias, is_exact)


def error(actual, expected):
    return float((actual - expected).square().mean().sqrt() / expected.square().mean().sqrt())


def mlps(library: Library, *, has_bias: bool = False, is_exact: bool = True) -> list[Pair]:
    biases = (torch.randn(2 * INNER), torch.randn(HIDDEN)) if has_bias else (None, None)
    kinds, rows = (Type.Q4_0, Type.Q6_K), (INNER, INNER)
    gate_up = pair(library, kinds, rows, HIDDEN, biases[0], is_exact)
    down = pair(library, (Type.Q8_0,), (HIDDEN,), INNER, biases[1], is_exact)
    return [(gate_up[0], down[0]), (gate_up[1], down[1])]


@pytest.mark.parametrize("num_rows", [1, 7, 300])
@pytest.mark.parametrize("is_gelu", [False, True], ids=["silu", "gelu"])
@pytest.mark.parametrize("has_bias", [False, True], ids=["plain", "bias"])
def test_an_mlp_is_the_references(library, num_rows, is_gelu, has_bias, generator):
    plain, in_tiles = mlps(library, has_bias=has_bias)
    x = torch.randn(num_rows, HIDDEN, generator=generator)
    expected = reference_packed_mlp(x, *plain, is_gelu)
    assert error(ops.packed_mlp(x, *in_tiles, is_gelu), expected) < 1e-5


def test_an_mlp_of_no_rows_gives_none(library):
    _, in_tiles = mlps(library)
    assert ops.packed_mlp(torch.empty(0, HIDDEN), *in_tiles, False).shape == (0, HIDDEN)


def test_an_mlp_with_int8_activations_is_near_the_reference(library, generator):
    plain, in_tiles = mlps(library, is_exact=False)
    x = torch.randn(20, HIDDEN, generator=generator)
    assert (
        error(
            ops.packed_mlp(x, *in_tiles, False),
            reference_packed_mlp(x, *plain, False),
        )
        < 0.03
    )


def test_a_row_of_an_mlp_is_the_same_bits_alone_and_in_pieces(library, generator):
    _, in_tiles = mlps(library, has_bias=True, is_exact=False)
    x = torch.randn(300, HIDDEN, generator=generator)
    together = ops.packed_mlp(x, *in_tiles, False)
    for row in (0, 100, 255, 256, 299):
        assert ops.packed_mlp(x[row : row + 1], *in_tiles, False).equal(together[row : row + 1])


def test_half_size_types_go_through_packed_products(library, generator):
    plain, in_tiles = mlps(library, has_bias=True)
    halves = [
        Projection(p.matrices, p.bias.bfloat16(), True) for p in in_tiles if p.bias is not None
    ]
    x = torch.randn(3, HIDDEN, generator=generator).bfloat16()
    result = ops.packed_mlp(x, halves[0], halves[1], False)
    assert result.dtype == torch.bfloat16
    assert error(result.float(), reference_packed_mlp(x.float(), *plain, False)) < 0.02


def attention_of(library, lengths, generator, *, is_exact=True):
    """Both pairs of projections, the input, and the other arguments for a decode of `lengths`."""
    rows = (HEADS * SIZE, KV_HEADS * SIZE, KV_HEADS * SIZE)
    bias = torch.randn(sum(rows), generator=generator)
    kinds = (Type.Q4_K, Type.Q4_K, Type.Q6_K)
    qkv = pair(library, kinds, rows, HIDDEN, bias, is_exact)
    output = pair(library, (Type.Q4_0,), (HIDDEN,), HEADS * SIZE, None, is_exact)
    x = torch.randn(len(lengths), HIDDEN, generator=generator)
    blocks = -(-max(lengths) // 16)
    caches = torch.randn(2, len(lengths) * blocks, 16, KV_HEADS, SIZE, generator=generator)
    tables = torch.arange(len(lengths) * blocks).view(len(lengths), blocks).int()
    slots = torch.tensor([s * blocks * 16 + n - 1 for s, n in enumerate(lengths)])
    angles = torch.randn(len(lengths), SIZE // 2, generator=generator)
    norms = torch.rand(2, SIZE, generator=generator)
    way = (
        *((norms[0], norms[1]), 1e-6, (angles.cos(), angles.sin()), caches[0], caches[1]),
        *(slots, tables, torch.arange(len(lengths) + 1).int(), torch.tensor(lengths).int()),
        SIZE**-0.5,
    )
    return [(qkv[i], output[i]) for i in range(2)], x, way


def test_an_attention_is_the_references(library, generator):
    (plain, in_tiles), x, way = attention_of(library, [5, 1, 200], generator)
    expected = reference_packed_attention(x, *plain, *way)
    result = ops.packed_attention(x, *in_tiles, *way)
    assert error(result, expected) < 1e-5


def test_an_attention_is_what_its_parts_make(library, generator):
    (_, (qkv, output)), x, way = attention_of(library, [5, 1, 200], generator, is_exact=False)
    inner = library.linear(x, qkv.matrices, False) + qkv.bias
    parts = library.linear(ops.cached_attention(inner, *way), output.matrices, False)
    assert ops.packed_attention(x, qkv, output, *way).equal(parts)
