"""Times the CPU attention path, in torch and in C++, against its reference; prints a table.

Run from the checkout: `OMP_NUM_THREADS=1 PYTHONPATH=. python tests/kernels/measure_attention.py`.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from kernels.cpu.native.bindings import load_library
from kernels.cpu.paged_attention import paged_attention
from kernels.reference.paged_attention import paged_attention as reference_paged_attention

MIN_S, MIN_RUNS = 1.0, 5


def batch(
    sequences: list[tuple[int, int]],
    heads: tuple[int, int, int] = (9, 3, 64),
    dtype: torch.dtype = torch.float32,
) -> tuple[Any, ...]:
    """Random arguments of paged_attention for (query rows, context length) and (Hq, Hkv, D)."""
    num_heads, num_kv_heads, dim = heads
    rows, lengths = (torch.tensor(column) for column in zip(*sequences, strict=True))
    num_blocks = -(-int(lengths.max()) // 16)
    shape = (2, num_blocks * len(lengths), 16, num_kv_heads, dim)
    keys, values = torch.randn(shape).to(dtype)
    tables = torch.randperm(shape[1]).view(len(lengths), num_blocks).int()
    starts = torch.cat([torch.tensor([0]), rows.cumsum(0)]).int()
    query = torch.randn(int(rows.sum()), num_heads, dim).to(dtype)
    return query, keys, values, tables, starts, lengths.int(), dim**-0.5


def mixed(num: int, longest: int) -> list[tuple[int, int]]:
    """Decode rows whose contexts are spread evenly up to `longest` tokens."""
    return [(1, 1 + index * longest // num) for index in range(num)]


CASES: dict[str, tuple[Any, ...]] = {
    "decode, 1 of 256": batch([(1, 256)]),
    "decode, 1 of 2048": batch([(1, 2048)]),
    "decode, 8 up to 1024": batch(mixed(8, 1024)),
    "decode, 64 up to 1024": batch(mixed(64, 1024)),
    "decode, 256 up to 512": batch(mixed(256, 512)),
    "decode, 64 up to 1024, bf16": batch(mixed(64, 1024), dtype=torch.bfloat16),
    "decode, 64 up to 1024, window 256": (*batch(mixed(64, 1024)), 256),
    "decode, 64 up to 1024, softcap": (*batch(mixed(64, 1024)), 0, 30.0),
    "decode, 256 up to 256, 4/2x32": batch(mixed(256, 256), (4, 2, 32)),
    "decode, 32 up to 1024, 8/2x128": batch(mixed(32, 1024), (8, 2, 128)),
    "prefill, 16 of 32": batch([(32, 32)] * 16),
    "prefill, 1 of 512": batch([(512, 512)]),
    "prefill, 1 of 2048": batch([(2048, 2048)]),
    "chunk, 512 of 4096": batch([(512, 4096)]),
    "mixed, 256 rows and 63 decodes": batch([(256, 256), *mixed(63, 1024)]),
}


def best_ms(attend: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    """The least CPU time of a call: what other processes take from the machine is not in it."""
    attend(*arguments)
    times: list[float] = []
    deadline = time.monotonic() + MIN_S
    while len(times) < MIN_RUNS or time.monotonic() < deadline:
        start = time.process_time()
        attend(*arguments)
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def main() -> None:
    torch.set_num_threads(1)
    attends = (reference_paged_attention, paged_attention)
    figures = {
        name: [best_ms(attend, arguments) for attend in attends]
        for name, arguments in CASES.items()
    }
    if load_library() is None:  # from here on, what it can do is done in C++
        sys.exit("no compiler")
    for name, arguments in CASES.items():
        slow, in_torch = figures[name]
        fast = best_ms(paged_attention, arguments)
        line = f"{name:36} {slow:9.2f} ms {in_torch:9.2f} ms {fast:9.2f} ms {slow / fast:6.1f}"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
