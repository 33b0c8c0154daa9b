"""What the engine's own loop costs: microseconds a step with a model of no layers.

    OMP_NUM_THREADS=1 python tests/bench/engine_loop.py [--seqs 1,64,256] [--steps 400] [--sampled]

Prints one table. `fit` is the straight line through the first and the last size.
"""

import argparse
import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from engine.batch import Batch
from engine.config import EngineConfig, ModelConfig, SamplingParams
from engine.engine import Engine
from engine.messages import SequenceRequest

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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seqs", default="1,64,256", help="numbers of running sequences")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--sampled", action="store_true", help="temperature 0.8, not greedy")
    args = parser.parse_args()
    sizes = [int(size) for size in args.seqs.split(",")]
    print(f"{'sequences':>10} {'p50 us':>9} {'p99 us':>9} {'max us':>9} {'us/sequence':>12}")
    medians = []
    for size in sizes:
        times = sorted(1e6 * t for t in measure(size, args.steps, args.sampled))
        medians.append(statistics.median(times))
        p99 = times[int(len(times) * 0.99)]
        row = f"{size:>10} {medians[-1]:>9.1f} {p99:>9.1f} {times[-1]:>9.1f}"
        print(f"{row} {medians[-1] / size:>12.2f}")
    if len(sizes) > 1:
        slope = (medians[-1] - medians[0]) / (sizes[-1] - sizes[0])
        print(f"fit: {medians[0] - slope * sizes[0]:.0f} us + {slope:.2f} us per sequence")


if __name__ == "__main__":
    main()
