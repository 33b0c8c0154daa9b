"""Times a layer of experts on a CPU against transformers' own block, and prints a table.

Run from the checkout: `OMP_NUM_THREADS=1 PYTHONPATH=. python tests/bench/experts.py`.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.models.mixtral.configuration_mixtral import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from engine.config import ModelConfig
from engine.layers.experts import Experts

MIN_S, MIN_RUNS = 1.0, 3
# Experts, chosen, hidden, inner: a quarter of Mixtral 8x7B's widths, half of Qwen3-30B-A3B's.
SHAPES = {"8 choose 2": (8, 2, 1024, 3584), "128 choose 8": (128, 8, 1024, 384)}


def ours(shape: tuple[int, ...], dtype: torch.dtype) -> Experts:
    """A layer with weights that keep the numbers of order one."""
    num_experts, num_chosen, hidden, inner = shape
    config = ModelConfig(
        architecture="",
        vocab_size=8,
        hidden_size=hidden,
        intermediate_size=inner,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        context_length=8,
        num_experts=num_experts,
        num_experts_per_token=num_chosen,
        expert_intermediate_size=inner,
    )
    block = Experts(config, dtype, torch.device("cpu"))
    for weight in block.parameters():
        weight.normal_(std=weight.shape[-1] ** -0.5)
    return block


def theirs(block: Experts, shape: tuple[int, ...], implementation: str) -> nn.Module:
    """transformers' block with the same weights."""
    num_experts, num_chosen, hidden, inner = shape
    config = MixtralConfig(
        num_local_experts=num_experts,
        num_experts_per_tok=num_chosen,
        hidden_size=hidden,
        intermediate_size=inner,
    )
    config._experts_implementation = implementation
    with torch.device("meta"):
        module: nn.Module = MixtralSparseMoeBlock(config).eval()
    gate: Any = module.gate
    gate.weight = block.router.weight
    experts: Any = module.experts
    experts.gate_up_proj, experts.down_proj = block.gate_up_proj, block.down_proj
    return module


def best_ms(calls: Sequence[Callable[[], Any]]) -> list[float]:
    """The least CPU time of each call, in turns: neither other processes nor the order count."""
    times: list[list[float]] = [[] for _ in calls]
    deadline = time.monotonic() + MIN_S * len(calls)
    while len(times[0]) < MIN_RUNS or time.monotonic() < deadline:
        for call, taken in zip(calls, times, strict=True):
            start = time.process_time()
            call()
            taken.append(time.process_time() - start)
    return [1e3 * min(taken) for taken in times]


@torch.no_grad()
def main() -> None:
    """Every shape, dtype and number of tokens, in milliseconds of one core."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'experts':14} {'dtype':10} {'tokens':>6} {'ours':>9} {'eager':>9} {'grouped_mm':>10}")
    for (name, shape), dtype in [
        (item, dtype) for dtype in (torch.float32, torch.bfloat16) for item in SHAPES.items()
    ]:
        block = ours(shape, dtype)
        others = [theirs(block, shape, way) for way in ("eager", "grouped_mm")]
        for num_tokens in (1, 8, 64, 512):
            x = torch.randn(1, num_tokens, shape[2]).to(dtype)
            assert torch.allclose(block(x[0]), others[0](x)[0], rtol=0.05, atol=0.05)
            calls = [partial(block, x[0]), *(partial(other, x) for other in others)]
            times = best_ms(calls)
            columns = f"{times[0]:9.2f} {times[1]:9.2f} {times[2]:10.2f}"
            print(f"{name:14} {str(dtype)[6:]:10} {num_tokens:6} {columns}", flush=True)


if __name__ == "__main__":
    main()
