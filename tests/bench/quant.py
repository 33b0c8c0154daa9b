"""How fast one core packs and unpacks weights, in millions a second of its time, type by type.

    python tests/bench/quant.py [--rows 512] [--columns 4096] [--out FILE]

Gaussian float32 weights; the best of three passes, in CPU time, so that other processes count less.
`error` is the root mean square of what packing changes, per thousand of the weights' own.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from engine.quant.registry import NAMES  # noqa: E402
from tests.bench.report import report  # noqa: E402

TARGETS = {f"{name} pack": "> 5" for name in ("Q2K", "Q3K", "Q4K", "Q5K", "Q6K")}


def best_s(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(3):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def measure(name: str, weights: torch.Tensor) -> dict[str, float]:
    kind = NAMES[name]
    packed: Any = kind.quantize(weights)
    unpacked = kind.dequantize(packed)
    error = (unpacked - weights).square().mean().sqrt() / weights.square().mean().sqrt()
    million = weights.numel() / 1e6
    return {
        f"{name} pack": million / best_s(lambda: kind.quantize(weights)),
        f"{name} unpack": million / best_s(lambda: kind.dequantize(packed)),
        f"{name} error": 1000 * error.item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--out", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    weights = torch.randn(options.rows, options.columns, generator=torch.Generator().manual_seed(1))
    result: dict[str, float] = {}
    for name in NAMES:
        if not name.isdigit():
            result |= measure(name, weights)
    report("quant", result, TARGETS, options)


if __name__ == "__main__":
    main()
