"""The layers of a decoder with packed weights: the truth for kernels/cpu/packed_layers.py."""

from collections.abc import Sequence

from torch import Tensor

from kernels.packed import PackedStack
from kernels.reference.packed_attention import packed_attention
from kernels.reference.packed_mlp import packed_mlp
from kernels.reference.rms_norm import rms_norm


def packed_layers(
    x: Tensor,
    stack: PackedStack,
    rotations: Sequence[tuple[Tensor, Tensor]],
    caches: Sequence[tuple[Tensor, Tensor]],
    slots: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lengths: Tensor,
) -> tuple[Tensor, Tensor]:
    """x [T, I] through all layers: (what the last one adds [T, I], the sum of all before that).

    A layer adds its attention of the normalised sum, then its MLP of the sum normalised again.
    rotations: cosines and sines [T, R/2], of which a layer names one; caches: keys and values
    [N, B, Hkv, D] of each layer, a sequence that is not to be changed; the rest as in
    packed_attention.py.
    """
    total, added = x, x.new_zeros(x.shape)
    sequences = (slots, block_tables, query_starts, context_lengths)
    for layer, cache in zip(stack.layers, caches, strict=True):
        total = total + added
        turn = None if layer.rotation is None else rotations[layer.rotation]
        way = (layer.head_norms, layer.eps, turn, *cache, *sequences)
        sight = (layer.scale, layer.window, layer.softcap)
        normed = rms_norm(total, layer.input_norm, layer.eps)
        total = total + packed_attention(normed, layer.qkv, layer.output, *way, *sight)
        normed = rms_norm(total, layer.post_norm, layer.eps)
        added = packed_mlp(normed, layer.gate_up, layer.down, layer.is_gelu)
    return added, total
