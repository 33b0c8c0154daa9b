"""What the host does in a step of the engine: microseconds a step with a model of no layers.

    OMP_NUM_THREADS=1 python tests/bench/host.py [--seqs 1,64,256] [--steps 400] [--out FILE]

Greedy, and sampled at temperature 0.8. `a step` and `a sequence` are of the straight line through
the first and the last size.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from engine.batch import Batch
from engine.config import EngineConfig, ModelConfig, SamplingParams
from engine.engine import Engine
from engine.messages import SequenceRequest
from kernels.cpu.native.bindings import load_library
from tests.bench.report import report

VOCAB_SIZE = 256
PROMPT_TOKENS = 64


class NoLayers:
    """A model of no layers: hidden states and logits are there already."""

    def __init__(self, max_tokens: int) -> None:
        self.hidden = torch.zeros(max_tokens, 1)
        generator = torch.Generator().manual_seed(0)
        self.rows = torch.randn(max_tokens, VOCAB_SIZE, generator=generator)

    def forward(self, batch: Batch, kv_cache: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        return self.hidden[: batch.token_ids.shape[0]]

    def logits(self, hidden: Tensor) -> Tensor:
        return self.rows[: hidden.shape[0]]


def make_engine(num_seqs: int, num_steps: int) -> Engine:
    """An engine that can hold `num_seqs` sequences for `num_steps` steps."""
    length = PROMPT_TOKENS + num_steps + 16
    model_config = ModelConfig(
        architecture="NoLayers",
        vocab_size=VOCAB_SIZE,
        hidden_size=1,
        intermediate_size=1,
        num_layers=0,
        num_heads=1,
        num_kv_heads=1,
        head_dim=1,
        context_length=length,
    )
    budget = max(2048, num_seqs * PROMPT_TOKENS)
    config = EngineConfig(max_seqs=num_seqs, max_num_batched_tokens=budget)
    device = torch.device("cpu")
    return Engine(NoLayers(budget), model_config, config, device=device, dtype=torch.float32)


def measure(num_seqs: int, num_steps: int, is_sampled: bool) -> list[float]:
    """The seconds of each of `num_steps` steps in which everyone decodes."""
    engine = make_engine(num_seqs, num_steps)
    for i in range(num_seqs):
        params = SamplingParams(
            max_tokens=num_steps + 10,
            seed=i,
            temperature=0.8 if is_sampled else 0.0,
            ignore_eos=True,
        )
        prompt = [(i * 7 + j) % VOCAB_SIZE for j in range(PROMPT_TOKENS)]
        engine.add(SequenceRequest(id=str(i), prompt_ids=prompt, params=params))
    for _ in range(5):
        engine.step()
    times = []
    for _ in range(num_steps):
        start = time.perf_counter()
        outputs = engine.step()
        times.append(time.perf_counter() - start)
        assert len(outputs) == num_seqs
    return times


def figures(sizes: Sequence[int], num_steps: int, name: str) -> dict[str, float]:
    """The medians of some sizes in microseconds, and the straight line through them."""
    medians = [1e6 * statistics.median(measure(n, num_steps, name == "sampled")) for n in sizes]
    slope = (medians[-1] - medians[0]) / (sizes[-1] - sizes[0])
    found = {f"{name}, step of {n}": us for n, us in zip(sizes, medians, strict=True)}
    return found | {f"{name}, a step": medians[0] - slope * sizes[0], f"{name}, a sequence": slope}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seqs", default="1,64,256", help="numbers of running sequences")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", default="", help="add the figures to this file")
    options = parser.parse_args()
    sizes = [int(size) for size in options.seqs.split(",")]
    load_library()
    # As load_engine does: a collection in a step sees what the requests made, not all of torch.
    gc.collect()
    gc.freeze()
    result: dict[str, float] = {}
    for name in ("greedy", "sampled"):
        result |= figures(sizes, options.steps, name)
    targets = {f"{name}, a step": "<= 60" for name in ("greedy", "sampled")}
    targets |= {f"{name}, a sequence": "<= 3" for name in ("greedy", "sampled")}
    report("host", result, targets, options)


if __name__ == "__main__":
    main()
