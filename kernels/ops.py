"""The engine's one door to the kernels: Triton for CUDA tensors, torch for all others.

Contracts are in kernels/reference/. Importing this file loads no Triton and asks nothing of a GPU;
a launcher is imported when the first CUDA tensor comes in.
"""

from collections.abc import Sequence

from torch import Tensor

from kernels.cpu import (
    add_rms_norm as cpu_add_rms_norm,
    cached_attention as cpu_cached_attention,
    gelu_mul as cpu_gelu_mul,
    grouped_linear as cpu_grouped_linear,
    packed_attention as cpu_packed_attention,
    packed_layers as cpu_packed_layers,
    packed_linear as cpu_packed_linear,
    packed_mlp as cpu_packed_mlp,
    packed_rows as cpu_packed_rows,
    paged_attention as cpu_paged_attention,
    philox as cpu_philox,
    rms_norm as cpu_rms_norm,
    rotary as cpu_rotary,
    silu_mul as cpu_silu_mul,
    uniform_quads as cpu_uniform_quads,
    varlen_attention as cpu_varlen_attention,
    write_kv as cpu_write_kv,
)
from kernels.packed import PackedMatrix, PackedStack, Projection
from kernels.reference import (
    decode_attention as reference_decode_attention,
    lora_expand as reference_lora_expand,
    lora_shrink as reference_lora_shrink,
    packed_grouped_linear as reference_packed_grouped_linear,
    sample as reference_sample,
)


def _takes_kernel(x: Tensor) -> bool:
    """Whether the way is through Triton; tests let CPU tensors through to the interpreter."""
    return x.is_cuda


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last dimension of x [T, D] or [T, H, D]; weight [D]."""
    if _takes_kernel(x):
        from kernels.rms_norm import rms_norm as launch

        return launch(x, weight, eps)
    return cpu_rms_norm.rms_norm(x, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`h = x + residual`, all [T, D] (x may come in parts); returns (RMSNorm of h, h)."""
    if _takes_kernel(x):
        from kernels.add_rms_norm import add_rms_norm as launch

        return launch(x, residual, weight, eps)
    return cpu_add_rms_norm.add_rms_norm(x, residual, weight, eps)


def rotary(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotated copies of query [T, Hq, D] and key [T, Hkv, D]; cos, sin [T, R/2]."""
    if _takes_kernel(query):
        from kernels.rotary import rotary as launch

        return launch(query, key, cos, sin)
    return cpu_rotary.rotary(query, key, cos, sin)


def silu_mul(gate_up: Tensor) -> Tensor:
    """`silu(gate) * up` of gate_up [T, 2I]; returns [T, I]."""
    if _takes_kernel(gate_up):
        from kernels.silu_mul import silu_mul as launch

        return launch(gate_up)
    return cpu_silu_mul.silu_mul(gate_up)


def grouped_linear(x: Tensor, weight: Tensor, starts: Tensor) -> Tensor:
    """Rows `starts[e]:starts[e + 1]` of x [R, I] by weight[e] of [E, O, I]; returns [R, O]."""
    if _takes_kernel(x):
        from kernels.grouped_linear import grouped_linear as launch

        return launch(x, weight, starts)
    return cpu_grouped_linear.grouped_linear(x, weight, starts)


def lora_shrink(x: Tensor, down: Tensor, adapters: Tensor) -> Tensor:
    """`down[adapters[t]] @ x[t]` of x [T, I], down [A, R, I]; returns [T, R] float32, 0 for -1."""
    if _takes_kernel(x):
        from kernels.lora_shrink import lora_shrink as launch

        return launch(x, down, adapters)
    return reference_lora_shrink.lora_shrink(x, down, adapters)


def lora_expand(
    output: Tensor, shrunk: Tensor, up: Tensor, adapters: Tensor, scales: Tensor
) -> Tensor:
    """`output[t] + scales[a] * (up[a] @ shrunk[t])`, a = adapters[t]; up [A, O, R]; like output."""
    if _takes_kernel(output):
        from kernels.lora_expand import lora_expand as launch

        return launch(output, shrunk, up, adapters, scales)
    return reference_lora_expand.lora_expand(output, shrunk, up, adapters, scales)


def packed_linear(x: Tensor, weights: Sequence[PackedMatrix], is_exact: bool = True) -> Tensor:
    """x [T, I] by packed matrices [O, I], side by side; returns [T, sum of O]."""
    if weights[0].planes is not None:
        from kernels.packed_linear import packed_linear as launch

        return launch(x, weights, is_exact)
    return cpu_packed_linear.packed_linear(x, weights, is_exact)


def packed_grouped_linear(x: Tensor, weight: PackedMatrix, starts: Tensor) -> Tensor:
    """Rows `starts[e]:starts[e + 1]` of x [R, I] by part e of packed [E * O, I]; returns [R, O]."""
    if weight.planes is not None:
        from kernels.packed_grouped_linear import packed_grouped_linear as launch

        return launch(x, weight, starts)
    return reference_packed_grouped_linear.packed_grouped_linear(x, weight, starts)


def packed_mlp(x: Tensor, gate_up: Projection, down: Projection, is_gelu: bool) -> Tensor:
    """`down(act(gate(x)) * up(x))` of x [T, I]; SiLU, or GELU by tanh."""
    if cpu_packed_mlp.is_native(x, gate_up, down):
        return cpu_packed_mlp.packed_mlp(x, gate_up, down, is_gelu)
    gate = gelu_mul if is_gelu else silu_mul
    return _project(gate(_project(x, gate_up)), down)


def packed_attention(
    x: Tensor,
    qkv: Projection,
    output: Projection,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    rotation: tuple[Tensor, Tensor] | None,
    key_cache: Tensor,
    value_cache: Tensor,
    slots: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lengths: Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    """`cached_attention` of qkv(x), through `output`: [T, I] to [T, O]."""
    heads = (norms, eps, rotation, key_cache, value_cache, slots)
    sequences = (block_tables, query_starts, context_lengths)
    way = (*heads, *sequences, scale, window, softcap)
    if cpu_packed_attention.is_native(x, qkv, output, (key_cache, value_cache)):
        return cpu_packed_attention.packed_attention(x, qkv, output, *way)
    return _project(cached_attention(_project(x, qkv), *way), output)


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
    """x [T, I] through all layers: what the last one adds, the sum before that. On a CPU only."""
    sequences = (slots, block_tables, query_starts, context_lengths)
    if cpu_packed_layers.is_native(x, stack, caches):
        return cpu_packed_layers.packed_layers(x, stack, rotations, caches, *sequences)
    total = None
    for layer, cache in zip(stack.layers, caches, strict=True):
        turn = None if layer.rotation is None else rotations[layer.rotation]
        way = (layer.head_norms, layer.eps, turn, *cache, *sequences)
        sight = (layer.scale, layer.window, layer.softcap)
        if total is None:
            normed, total = rms_norm(x, layer.input_norm, layer.eps), x
        else:
            normed, total = add_rms_norm(x, total, layer.input_norm, layer.eps)
        x = packed_attention(normed, layer.qkv, layer.output, *way, *sight)
        normed, total = add_rms_norm(x, total, layer.post_norm, layer.eps)
        x = packed_mlp(normed, layer.gate_up, layer.down, layer.is_gelu)
    assert total is not None, "a decoder has at least one layer"
    return x, total


def _project(x: Tensor, projection: Projection) -> Tensor:
    product = packed_linear(x, projection.matrices, projection.is_exact)
    return product if projection.bias is None else product.add_(projection.bias)


def packed_rows(matrix: PackedMatrix, indices: Tensor) -> Tensor:
    """Rows `indices` [N] int64 of a packed matrix [O, I]; returns [N, I] float32."""
    if matrix.planes is not None:
        from kernels.packed_rows import packed_rows as launch

        return launch(matrix, indices)
    return cpu_packed_rows.packed_rows(matrix, indices)


def gelu_mul(gate_up: Tensor) -> Tensor:
    """`gelu(gate) * up` of gate_up [T, 2I], GELU by tanh; returns [T, I]."""
    if _takes_kernel(gate_up):
        from kernels.gelu_mul import gelu_mul as launch

        return launch(gate_up)
    return cpu_gelu_mul.gelu_mul(gate_up)


def write_kv(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor
) -> None:
    """Store key and value [T, Hkv, D] at slots [T] int64 of caches [N, B, Hkv, D]; -1 skips."""
    if _takes_kernel(key):
        from kernels.write_kv import write_kv as launch

        return launch(key, value, key_cache, value_cache, slots)
    return cpu_write_kv.write_kv(key, value, key_cache, value_cache, slots)


def write_heads(
    qkv: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    rotation: tuple[Tensor, Tensor] | None,
    key_cache: Tensor,
    value_cache: Tensor,
    slots: Tensor,
) -> Tensor:
    """Queries [T, Hq, D] of qkv [T, (Hq + 2 Hkv) * D], normalised and turned; the rest is stored.

    rms_norm, rotary and write_kv: in one kernel on a GPU, one after the other on a CPU.
    """
    if _takes_kernel(qkv):
        from kernels.write_heads import write_heads as launch

        return launch(qkv, norms, eps, rotation, key_cache, value_cache, slots)
    _, _, num_kv_heads, head_dim = key_cache.shape
    heads = qkv.unflatten(1, (-1, head_dim))
    num_heads = heads.shape[1] - 2 * num_kv_heads
    query: Tensor
    query, key, value = heads.split((num_heads, num_kv_heads, num_kv_heads), dim=1)
    if norms is not None:
        query, key = rms_norm(query, norms[0], eps), rms_norm(key, norms[1], eps)
    if rotation is not None:
        query, key = rotary(query, key, *rotation)
    write_kv(key, value, key_cache, value_cache, slots)
    return query


def paged_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lengths: Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    """Causal attention of query [T, Hq, D] over the block cache; contract in the reference."""
    if _takes_kernel(query):
        from kernels.paged_attention import paged_attention as attend
    else:
        attend = cpu_paged_attention.paged_attention
    caches = (key_cache, value_cache)
    sequences = (block_tables, query_starts, context_lengths)
    return attend(query, *caches, *sequences, scale, window, softcap)


def decode_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lengths: Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    """`paged_attention` of query [S, Hq, D] with a row a sequence; a length of 0 gives zeros."""
    sequences = (block_tables, context_lengths)
    if _takes_kernel(query):
        from kernels.decode_attention import decode_attention as launch

        return launch(query, key_cache, value_cache, *sequences, scale, window, softcap)
    return reference_decode_attention.decode_attention(
        query, key_cache, value_cache, *sequences, scale, window, softcap
    )


def cached_attention(
    qkv: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    rotation: tuple[Tensor, Tensor] | None,
    key_cache: Tensor,
    value_cache: Tensor,
    slots: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lengths: Tensor,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    """Projections qkv [T, (Hq + 2 Hkv) * D] to attended heads [T, Hq * D]; qkv may be overwritten.

    write_heads and paged_attention, or decode_attention where sequences have a row each: one after
    the other, or in one call on a CPU.
    """
    sequences = (block_tables, query_starts, context_lengths)
    if not _takes_kernel(qkv) and cpu_cached_attention.is_native(qkv, (key_cache, value_cache)):
        caches = (key_cache, value_cache, slots)
        return cpu_cached_attention.cached_attention(
            qkv, norms, eps, rotation, *caches, *sequences, scale, window, softcap
        )
    query = write_heads(qkv, norms, eps, rotation, key_cache, value_cache, slots)
    way = (key_cache, value_cache, block_tables)
    if _takes_kernel(qkv) and len(query) == len(context_lengths):
        return decode_attention(query, *way, context_lengths, scale, window, softcap).flatten(1)
    lengths = (query_starts, context_lengths)
    return paged_attention(query, *way, *lengths, scale, window, softcap).flatten(1)


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    scale: float,
    window: int = 0,
    biases: Tensor | None = None,
) -> Tensor:
    """Attention both ways of whole sequences [T, Hq, D], each by itself; S + 1 `starts`."""
    if _takes_kernel(query):
        from kernels.varlen_attention import varlen_attention as launch

        return launch(query, key, value, starts, scale, window, biases)
    return cpu_varlen_attention.varlen_attention(query, key, value, starts, scale, window, biases)


def uniform(seeds: Tensor, choices: Tensor, positions: Tensor, num: int) -> Tensor:
    """Uniforms in (0, 1) [S, num] float32, a function of seed, choice and position [S] int64."""
    if _takes_kernel(seeds):
        from kernels.philox import uniform as launch

        return launch(seeds, choices, positions, num)
    return cpu_philox.uniform(seeds, choices, positions, num)


def uniform_quads(
    seeds: Tensor, choices: Tensor, positions: Tensor, rows: Tensor, quads: Tensor
) -> Tensor:
    """Elements 4q to 4q + 3 of a row of `uniform`, for each of `rows`, `quads` [N]; [N, 4]."""
    if _takes_kernel(seeds):
        from kernels.uniform_quads import uniform_quads as launch

        return launch(seeds, choices, positions, rows, quads)
    return cpu_uniform_quads.uniform_quads(seeds, choices, positions, rows, quads)


def sample(
    logits: Tensor,
    temperatures: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    choices: Tensor,
    positions: Tensor,
) -> Tensor:
    """The next ids [R] int64 of logits [R, V] float32; the rest [R], contract in the reference."""
    filters, keys = (top_k, top_p, min_p), (seeds, choices, positions)
    if _takes_kernel(logits):
        from kernels.sample import sample as launch

        return launch(logits, temperatures, *filters, *keys)
    return reference_sample.sample(logits, temperatures, *filters, *keys)
