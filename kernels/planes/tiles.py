"""How large the tiles of products with packed weights are, by GPU. Nothing is tuned at run time.

Each entry compiles without spilled registers and fits into shared memory, as `make kernels` says.
None has been timed yet: crossovers and splits are estimates.
"""

from typing import NamedTuple

from gguf.constants import GGMLQuantizationType as Type

from kernels.packed import AFFINE4_32, AFFINE8_32, CODED_16, CODED_32


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
    weights that are unpacked first. For kinds in `roomy` a few inputs take more registers, and
    those in `heavy` have smaller tiles of many, those in `light` of floats.
    """

    num_programs: int
    max_fused: int
    vector: Tiles
    few: Tiles  # 2 to 8
    several: Tiles  # 9 to 16
    floats: Tiles  # any of float32, which no tensor core multiplies
    many: Tiles
    parts: Tiles  # HQQ's, always of 64 rows: to 8 inputs
    several_parts: Tiles
    many_parts: Tiles
    grouped: Tiles  # of few rows each
    grouped_many: Tiles
    roomy: frozenset[int] = frozenset()
    heavy: frozenset[int] = frozenset()
    light: frozenset[int] = frozenset()


MAX_FEW = 16
_ROOM = 168  # registers of three programs of four warps
_SMALL = Tiles(64, 32, num_warps=4, num_stages=2, max_registers=255)
_WIDE = Table(
    num_programs=264,
    max_fused=384,
    vector=Tiles(128, 1, num_warps=4, num_stages=3),
    few=Tiles(64, 8, num_warps=4, num_stages=2),
    several=Tiles(32, 16, num_warps=4, num_stages=2),
    floats=Tiles(32, 16, num_warps=8, num_stages=2, max_registers=255),
    many=Tiles(128, 64, num_warps=8, num_stages=2, max_registers=255),
    parts=Tiles(64, 8, num_warps=4, num_stages=2),
    several_parts=Tiles(64, 16, num_warps=4, num_stages=2),
    many_parts=Tiles(64, 64, num_warps=4, num_stages=2, max_registers=255),
    grouped=Tiles(64, 16, num_warps=4, num_stages=2, max_registers=255),
    grouped_many=Tiles(128, 64, num_warps=8, num_stages=2, max_registers=255),
)
# 99 KB of shared memory instead of 163 or 227.
_NARROW = _WIDE._replace(
    vector=Tiles(64, 1, num_warps=4, num_stages=2),
    many=Tiles(64, 64, num_warps=4, num_stages=2),
    grouped_many=Tiles(64, 32, num_warps=4, num_stages=2),
    heavy=frozenset({int(Type.Q4_1), AFFINE4_32}),
)
# By compute capability: A100, consumer Ampere, Ada, Hopper.
TABLES = {
    80: _WIDE._replace(
        num_programs=216,
        roomy=frozenset({int(Type.Q5_1)}),
        heavy=frozenset({int(Type.Q5_K), CODED_16, CODED_32}),
    ),
    86: _NARROW._replace(num_programs=168),
    89: _NARROW._replace(num_programs=256),
    90: _WIDE._replace(
        roomy=frozenset({int(Type.MXFP4), AFFINE8_32}),
        light=frozenset({int(Type.IQ4_NL), int(Type.IQ4_XS), CODED_32}),
    ),
}


def table_of(capability: int) -> Table:
    """The entry of a compute capability, 10 times major plus minor: the nearest below it."""
    return TABLES[max((known for known in TABLES if known <= capability), default=min(TABLES))]


def few_tiles(table: Table, kind: int, num_inputs: int) -> Tiles:
    """For 2 to MAX_FEW inputs in half precision of a kind of kernels/packed.py."""
    tiles = table.few if num_inputs <= 8 else table.several
    return tiles._replace(max_registers=_ROOM) if kind in table.roomy else tiles


def many_tiles(table: Table, kind: int, element_bytes: int) -> Tiles:
    """For more inputs, and for any in float32."""
    if element_bytes == 4:
        return _float_tiles(table, kind)
    return _SMALL if kind in table.heavy else table.many


def parts_tiles(table: Table, num_inputs: int, element_bytes: int) -> Tiles:
    """For an HQQ matrix and any number of inputs."""
    if element_bytes == 4:
        return table.floats._replace(inputs=8 if num_inputs == 1 else table.floats.inputs)
    if num_inputs <= 8:
        return table.parts
    return table.several_parts if num_inputs <= MAX_FEW else table.many_parts


def grouped_tiles(
    table: Table, kind: int, num_inputs: int, num_groups: int, element_bytes: int
) -> Tiles:
    """For inputs in groups."""
    if element_bytes == 4:
        return _float_tiles(table, kind)
    is_few = num_inputs <= 32 * num_groups or kind in table.heavy
    return table.grouped if is_few else table.grouped_many


def _float_tiles(table: Table, kind: int) -> Tiles:
    return table.floats._replace(rows=16) if kind in table.light else table.floats


def num_splits(table: Table, num_programs: int, num_blocks: int) -> int:
    """Into how many parts to cut the columns, so that `num_programs` rows of tiles fill the GPU."""
    wanted = -(-table.num_programs // num_programs)
    return max(1, min(wanted, num_blocks // 2, 16))
