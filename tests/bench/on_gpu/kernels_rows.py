"""Probes of kernels that go through rows of numbers: norms, gates, heads, adapters, sampling."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.add_rms_norm import add_rms_norm
from kernels.gelu_mul import gelu_mul
from kernels.lora_expand import lora_expand
from kernels.lora_shrink import lora_shrink
from kernels.philox import uniform
from kernels.reference import (
    philox as reference_philox,
    sample as reference_sample,
    uniform_quads as reference_uniform_quads,
)
from kernels.rms_norm import rms_norm
from kernels.rotary import rotary
from kernels.sample import sample
from kernels.silu_mul import silu_mul
from kernels.uniform_quads import uniform_quads
from kernels.write_heads import write_heads
from kernels.write_kv import write_kv
from tests.bench.on_gpu.probe import Probe, judged, num_bytes, share_of_others
from tests.bench.on_gpu.row import Row
from tests.bench.on_gpu.setting import Case, Setting

EPS = 1e-5
BLOCK = 16
# temperature, top_k, top_p, min_p
DRAWS = {"greedy": (0.0, 0, 1.0, 0.0), "plain": (1.0, 0, 1.0, 0.0), "filtered": (0.8, 50, 0.9, 0.0)}


def cases(setting: Setting) -> list[Case]:
    """By kernel and number of tokens."""
    counts = setting.of_scale((1, 32, 2048), (2,))
    found = [
        Case(f"{name}, {count} tokens", partial(_run, setting, name, make, count))
        for name, make in _BY_TOKENS.items()
        for count in counts
    ]
    rows = setting.of_scale((1, 32), (3,))
    for name in DRAWS:
        for count in rows:
            label = f"sample, {name}, {count} rows"
            found.append(Case(label, partial(_sampled, setting, label, name, count)))
    return found


def _run(setting: Setting, name: str, make: Any, count: int) -> Iterator[Row]:
    yield judged(setting, f"{name}, {count} tokens", make(setting, count))


def _normalised(x: Tensor, weight: Tensor) -> Tensor:
    wide = x.double()
    return wide * (wide.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight.double()


def _rms_norm(setting: Setting, count: int) -> Probe:
    x, weight = setting.normal(count, setting.sizes.hidden), setting.normal(setting.sizes.hidden)
    arguments = (x, weight, EPS)
    return Probe(rms_norm, arguments, partial(_normalised, x, weight), num_bytes(x, x, weight))


def _add_rms_norm(setting: Setting, count: int) -> Probe:
    x, residual = (setting.normal(count, setting.sizes.hidden) for _ in range(2))
    weight = setting.normal(setting.sizes.hidden)

    def expected() -> Tensor:
        total = x.double() + residual.double()
        return torch.stack([_normalised(total, weight), total])

    moved = num_bytes(x, residual, weight, x, residual)
    return Probe(add_rms_norm, (x, residual, weight, EPS), expected, moved, picked=torch.stack)


def _gate(launch: Any, activation: Any, setting: Setting, count: int) -> Probe:
    both = setting.normal(count, 2 * setting.sizes.inner)

    def expected() -> Tensor:
        gate, up = both.double().chunk(2, dim=1)
        result: Tensor = activation(gate) * up
        return result

    return Probe(launch, (both,), expected, num_bytes(both) * 3 // 2)


def _angles(setting: Setting, count: int) -> tuple[Tensor, Tensor]:
    angles = torch.rand(count, setting.sizes.head_dim // 2, device=setting.device) * 6
    return angles.cos(), angles.sin()


def _turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Both halves of each head [T, H, D] turned against each other."""
    low, high = heads.double().chunk(2, dim=-1)
    wide_cos, wide_sin = cos.double()[:, None], sin.double()[:, None]
    return torch.cat([low * wide_cos - high * wide_sin, high * wide_cos + low * wide_sin], dim=-1)


def _rotary(setting: Setting, count: int) -> Probe:
    sizes = setting.sizes
    query = setting.normal(count, sizes.num_heads, sizes.head_dim)
    key = setting.normal(count, sizes.num_kv_heads, sizes.head_dim)
    turn = _angles(setting, count)

    def expected() -> Tensor:
        return torch.cat([_turned(query, *turn), _turned(key, *turn)], dim=1)

    moved = 2 * num_bytes(query, key) + num_bytes(turn)
    picked = partial(torch.cat, dim=1)
    return Probe(rotary, (query, key, *turn), expected, moved, picked=picked)


def _caches(setting: Setting, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Both caches, zeros, and a slot for each token, in no order."""
    sizes = setting.sizes
    shape = (-(-count // BLOCK) + 1, BLOCK, sizes.num_kv_heads, sizes.head_dim)
    caches = [torch.zeros(shape, dtype=torch.bfloat16, device=setting.device) for _ in range(2)]
    slots = torch.randperm(shape[0] * BLOCK, device=setting.device)[:count]
    return caches[0], caches[1], slots


def _write_heads(has_norms: bool, setting: Setting, count: int) -> Probe:
    sizes = setting.sizes
    sections = (sizes.num_heads, sizes.num_kv_heads, sizes.num_kv_heads)
    qkv = setting.normal(count, sum(sections) * sizes.head_dim)
    norms = (setting.normal(sizes.head_dim), setting.normal(sizes.head_dim)) if has_norms else None
    turn, (keys, values, slots) = _angles(setting, count), _caches(setting, count)

    def expected() -> Tensor:
        query, key, value = qkv.unflatten(1, (-1, sizes.head_dim)).double().split(sections, dim=1)
        if norms is not None:
            query, key = _normalised(query, norms[0]), _normalised(key, norms[1])
        return torch.cat([_turned(query, *turn), _turned(key, *turn), value], dim=1)

    def picked(query: Tensor) -> Tensor:
        stored = (cache.flatten(0, 1)[slots] for cache in (keys, values))
        return torch.cat([query, *stored], dim=1)

    arguments = (qkv, norms, EPS, turn, keys, values, slots)
    return Probe(write_heads, arguments, expected, 2 * num_bytes(qkv) + num_bytes(turn), 0, picked)


def _write_kv(setting: Setting, count: int) -> Probe:
    sizes = setting.sizes
    key, value = (setting.normal(count, sizes.num_kv_heads, sizes.head_dim) for _ in range(2))
    keys, values, slots = _caches(setting, count)

    def picked(_result: None) -> Tensor:
        return torch.stack([cache.flatten(0, 1)[slots] for cache in (keys, values)])

    arguments = (key, value, keys, values, slots)
    moved = 2 * num_bytes(key, value)
    return Probe(write_kv, arguments, lambda: torch.stack([key, value]).double(), moved, 0, picked)


def _lora(setting: Setting, count: int) -> tuple[Tensor, Tensor, Tensor]:
    index = torch.arange(1, count + 1, device=setting.device, dtype=torch.int32)
    adapters = index % 5 - 1  # every fifth token has none
    down = setting.normal(4, 16, setting.sizes.hidden)
    return adapters, down, setting.normal(4, 2 * setting.sizes.inner, 16)


def _lora_shrink(setting: Setting, count: int) -> Probe:
    x, (adapters, down, _) = setting.normal(count, setting.sizes.hidden), _lora(setting, count)

    def expected() -> Tensor:
        rows = zip(adapters.tolist(), x.double(), strict=True)
        return torch.stack([down[a].double() @ row * (a >= 0) for a, row in rows])

    moved = num_bytes(x, down[: min(count, 4)])
    return Probe(lora_shrink, (x, down, adapters), expected, moved, 2 * count * down[0].numel())


def _lora_expand(setting: Setting, count: int) -> Probe:
    adapters, _, up = _lora(setting, count)
    output = setting.normal(count, 2 * setting.sizes.inner)
    shrunk = setting.normal(count, 16, dtype=torch.float32)
    scales = torch.rand(4, device=setting.device) + 0.5

    def expected() -> Tensor:
        rows = zip(adapters.tolist(), output.double(), shrunk.double(), strict=True)
        return torch.stack(
            [o if a < 0 else o + scales[a].double() * (up[a].double() @ s) for a, o, s in rows]
        )

    moved = num_bytes(output, output, shrunk, up[: min(count, 4)])
    return Probe(lora_expand, (output, shrunk, up, adapters, scales), expected, moved)


def _keys(setting: Setting, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Seeds, choices and positions."""
    index = torch.arange(count, device=setting.device)
    return index * 7919 - 5, index % 3, index * 13 + 2**33


def _uniform(setting: Setting, count: int) -> Probe:
    keys, num = _keys(setting, min(count, 16)), setting.sizes.vocab

    def expected() -> Tensor:
        seeds, choices, positions = (key.cpu() for key in keys)
        return reference_philox.uniform(seeds, choices, positions, num).double()

    moved = 4 * len(keys[0]) * num
    return Probe(uniform, (*keys, num), expected, moved, bound=0.0)


def _uniform_quads(setting: Setting, count: int) -> Probe:
    keys = _keys(setting, 32)
    rows = torch.randint(32, (64 * count,), device=setting.device)
    quads = torch.randint(setting.sizes.vocab // 4, rows.shape, device=setting.device)

    def expected() -> Tensor:
        given = (part.cpu() for part in (*keys, rows, quads))
        return reference_uniform_quads.uniform_quads(*given).double()

    moved = num_bytes(rows, quads) + 16 * len(rows)
    return Probe(uniform_quads, (*keys, rows, quads), expected, moved, bound=0.0)


def _sampled(setting: Setting, label: str, name: str, count: int) -> Iterator[Row]:
    """Ids, not numbers: `error` is the share of rows that drew another one."""
    logits = 3 * setting.normal(count, setting.sizes.vocab, dtype=torch.float32)
    temperature, top_k, top_p, min_p = DRAWS[name]
    floats = [torch.full((count,), v, device=setting.device) for v in (temperature, top_p, min_p)]
    kept = torch.full((count,), top_k, device=setting.device)
    arguments = (logits, floats[0], kept, *floats[1:], *_keys(setting, count))
    moved = num_bytes(logits)

    def expected() -> Tensor:
        return reference_sample.sample(*(part.cpu() for part in arguments))

    # A sum may round the other way where two tokens are as good.
    probe = Probe(sample, arguments, expected, moved, bound=1 / 32, distance=share_of_others)
    yield judged(setting, label, probe)


_BY_TOKENS: dict[str, Any] = {
    "rms_norm": _rms_norm,
    "add_rms_norm": _add_rms_norm,
    "silu_mul": partial(_gate, silu_mul, F.silu),
    "gelu_mul": partial(_gate, gelu_mul, partial(F.gelu, approximate="tanh")),
    "rotary": _rotary,
    "write_heads": partial(_write_heads, False),
    "write_heads with norms": partial(_write_heads, True),
    "write_kv": _write_kv,
    "lora_shrink": _lora_shrink,
    "lora_expand": _lora_expand,
    "uniform": _uniform,
    "uniform_quads": _uniform_quads,
}
