"""Times products with packed weights on one core, kind by kind, and prints a table.

Run from the checkout: `OMP_NUM_THREADS=1 PYTHONPATH=. python tests/kernels/measure_packed.py
[NAME ...]`. The kinds take turns; the least CPU time of many counts, so that what other processes
take from the machine is not in it.
"""

import sys
import time

import torch
from gguf import GGMLQuantizationType as Type

from engine.quant.hqq import HQQ4, HQQ8
from kernels import ops, packed
from kernels.cpu.native.bindings import Library, load_library
from kernels.hqq_parts import hqq_matrix
from kernels.packed import PackedMatrix
from kernels.packing import pack_hqq
from tests.kernels.packed_blocks import KINDS, name_of, random_matrix, tiled

ROWS, COLUMNS = 1024, 3072
MATRICES = 24  # together more than a processor's caches, even of four bits
BATCHES = (1, 16, 512)
NUM_ROUNDS = 7
HQQ = {packed.HQQ4: HQQ4, packed.HQQ8: HQQ8}
BASE = (Type.Q4_0, Type.Q8_0, Type.Q4_K)


def make(library: Library, kind: int) -> PackedMatrix:
    """A random one in tiles."""
    if kind in HQQ:
        codes, scales, zeros, shape = HQQ[kind].quantize(torch.randn(ROWS, COLUMNS))
        assert zeros is not None
        return pack_hqq(hqq_matrix(kind, codes, scales, zeros, *shape))
    return tiled(library, random_matrix(kind, ROWS, COLUMNS))


def matrices(library: Library, kind: int) -> list[PackedMatrix]:
    """As many copies of one as a model has."""
    first = make(library, kind)
    return [first, *(first._replace(data=first.data.clone()) for _ in range(MATRICES - 1))]


def cpu_seconds(weights: list[PackedMatrix], x: torch.Tensor, exact: bool) -> float:
    """For all of them, one after the other."""
    start = time.process_time()
    for weight in weights:
        ops.packed_linear(x, [weight], exact)
    return time.process_time() - start


def main() -> None:
    library = load_library()
    assert library is not None
    torch.set_num_threads(1)
    wanted = sys.argv[1:]
    kinds = [
        kind for kind in (*KINDS, *HQQ) if not wanted or kind in BASE or name_of(kind) in wanted
    ]
    every = {kind: matrices(library, kind) for kind in kinds}
    inputs = {batch: torch.randn(batch, COLUMNS) for batch in BATCHES}
    sys.stdout.write(f"{library.path}\n")
    sys.stdout.write(f"{'kind':12} bits  inputs  GB/s at 1  Gop/s at 1, 16, 512\n")
    best: dict[tuple[int, bool, int], float] = {}
    for batch, x in inputs.items():
        for _ in range(NUM_ROUNDS):
            for kind, weights in every.items():
                few = weights if batch == 1 else weights[: 4 if batch == 16 else 1]
                for exact in (False, True):
                    taken = cpu_seconds(few, x, exact) / len(few)
                    key = kind, exact, batch
                    best[key] = min(taken, best.get(key, taken))
    for kind, weights in every.items():
        size = weights[0].data.nbytes
        for exact in (False, True):
            ops = [2 * ROWS * COLUMNS * b / best[kind, exact, b] / 1e9 for b in BATCHES]
            rates = "".join(f"{rate:7.0f}" for rate in ops)
            speed = size / best[kind, exact, 1] / 1e9
            bits = size * 8 / ROWS / COLUMNS
            form = "float" if exact else "int8"
            sys.stdout.write(f"{name_of(kind):12} {bits:4.2f}  {form:5}   {speed:5.1f}  {rates}\n")


if __name__ == "__main__":
    main()
