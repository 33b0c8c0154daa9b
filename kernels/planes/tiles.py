"""How large the tiles of products with packed weights are, by GPU. Nothing is tuned at run time.

Each entry compiles without spilled registers and fits into shared memory, as `make kernels` says,
but for 2 to 16 inputs of MXFP4, AFFINE8_32 (sm_90) and Q5_1 (sm_80): 3 to 6 instructions spill.
None has been timed yet: crossovers and splits are estimates.
"""

from typing import NamedTuple


class Tiles(NamedTuple):
    """Rows of weights and inputs of a program."""

    rows: int
    inputs: int
    num_warps: int
    num_stages: int
    max_registers: int | None = None  # said where ptxas would else spill for more programs

    def options(self) -> dict[str, int | None]:
        """Of a launch."""
        registers = {"maxnreg": self.max_registers} if self.max_registers else {}
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, **registers}


class Table(NamedTuple):
    """One GPU generation's. `num_programs` fill it; more inputs than `max_fused` are multiplied by
    weights that are unpacked first.
    """

    num_programs: int
    max_fused: int
    vector: Tiles
    few: Tiles  # 2 to 8
    several: Tiles  # 9 to 16
    many: Tiles
    grouped: Tiles  # of few rows each
    grouped_many: Tiles


MAX_FEW = 16
_WIDE = Table(
    num_programs=264,
    max_fused=384,
    vector=Tiles(128, 1, num_warps=4, num_stages=3),
    few=Tiles(64, 8, num_warps=4, num_stages=2),
    several=Tiles(32, 16, num_warps=4, num_stages=2),
    many=Tiles(128, 64, num_warps=8, num_stages=2, max_registers=255),
    grouped=Tiles(64, 16, num_warps=4, num_stages=2, max_registers=255),
    grouped_many=Tiles(128, 64, num_warps=8, num_stages=2, max_registers=255),
)
# 99 KB of shared memory instead of 163 or 227.
_NARROW = _WIDE._replace(
    vector=Tiles(64, 1, num_warps=4, num_stages=2),
    many=Tiles(64, 64, num_warps=4, num_stages=2),
    grouped_many=Tiles(64, 32, num_warps=4, num_stages=2),
)
# By compute capability: A100, consumer Ampere, Ada, Hopper.
TABLES = {
    80: _WIDE._replace(num_programs=216),
    86: _NARROW._replace(num_programs=168),
    89: _NARROW._replace(num_programs=256),
    90: _WIDE,
}


def table_of(capability: int) -> Table:
    """The entry of a compute capability, 10 times major plus minor: the nearest below it."""
    return TABLES[max((known for known in TABLES if known <= capability), default=min(TABLES))]


def num_splits(table: Table, num_programs: int, num_blocks: int) -> int:
    """Into how many parts to cut the columns, so that `num_programs` rows of tiles fill the GPU."""
    wanted = -(-table.num_programs // num_programs)
    return max(1, min(wanted, num_blocks // 2, 16))
