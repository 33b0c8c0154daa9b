"""The C++ product of one weight, by type and number of rows: Gop/s and GB/s of one thread.

    python tests/bench/products.py [--types …] [--rows …] [--shape 3072x1024] [--against OLD.so]

A multiplication and an addition are two operations. The weights of `--copies` matrices are more
than the caches hold; a figure is of the least CPU time a call, of many in turns with the library
`--against`, which was built before (they lie in ~/.cache/tramontane/kernels).
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from gguf import GGMLQuantizationType as Type

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from kernels.cpu.native.bindings import Library, load_library  # noqa: E402
from kernels.packed import PackedMatrix  # noqa: E402
from tests.kernels.packed_blocks import random_matrix, tiled  # noqa: E402

FLOATS = {Type.F16: torch.float16, Type.BF16: torch.bfloat16}
FEW_ROWS = 16  # so many and fewer take all copies


def make_matrix(kind: Type, num_rows: int, num_columns: int) -> PackedMatrix:
    """Random weights in rows as a file has them."""
    if kind not in FLOATS:
        return random_matrix(kind, num_rows, num_columns)
    weights = torch.randn(num_rows, num_columns).to(FLOATS[kind]).view(torch.uint8)
    return PackedMatrix(int(kind), num_rows, num_columns, weights)


def measure(
    libraries: Sequence[Library],
    tiles: Sequence[Sequence[PackedMatrix]],
    x: torch.Tensor,
    args: argparse.Namespace,
) -> list[float]:
    """Seconds of a call by each library."""
    least = [float("inf")] * len(libraries)
    num_calls = args.copies if len(x) <= FEW_ROWS else max(1, 4 * FEW_ROWS // len(x))
    for _ in range(args.repeats):
        for index, library in enumerate(libraries):
            start = time.process_time()
            for matrix in tiles[index][:num_calls]:
                library.linear(x, [matrix], args.exact)
            least[index] = min(least[index], (time.process_time() - start) / num_calls)
    return least


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--types", default="Q4_0,Q4_K,Q6_K,Q8_0,BF16,F16")
    parser.add_argument("--rows", default="1,2,4,8,16,64,512")
    parser.add_argument("--shape", default="3072x1024", help="outputs x inputs")
    parser.add_argument("--copies", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--exact", action="store_true", help="float activations")
    parser.add_argument("--against", type=Path, help="an older library")
    args = parser.parse_args()
    torch.set_num_threads(1)
    library = load_library()
    assert library is not None, "there is a compiler"
    libraries = [library, Library(args.against)] if args.against else [library]
    outputs, inputs = map(int, args.shape.split("x"))
    for name in args.types.split(","):
        matrix = make_matrix(Type[name], outputs, inputs)
        known = [each for each in libraries if each.tiles_bytes(matrix.kind, outputs, inputs)]
        tiles = [[tiled(each, matrix) for _ in range(args.copies)] for each in known]
        for rows in map(int, args.rows.split(",")):
            seconds = measure(known, tiles, torch.randn(rows, inputs), args)
            figures = "   ".join(
                f"{1e6 * s:8.0f} us {2e-9 * rows * outputs * inputs / s:6.0f} Gop/s "
                f"{1e-9 * matrix.data.nbytes / s:5.1f} GB/s"
                for s in seconds
            )
            ratio = f"   {seconds[1] / seconds[0]:.2f}" if len(seconds) > 1 else ""
            print(f"{name:5} {rows:4} {figures}{ratio}", flush=True)


if __name__ == "__main__":
    main()
