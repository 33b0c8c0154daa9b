"""How large the tiles of attention are, by GPU. Nothing is tuned at run time.

Each entry compiles without spilled registers and fits into shared memory. None has been timed yet:
the numbers of splits are estimates.
"""

from collections.abc import Mapping
from typing import NamedTuple

_MAX_SPLITS = 64
# Shorter contexts of a batch that prefills too take as long as the two launches that split them.
MIN_MIXED_TILES = 8
FLOAT32 = 0  # a key of tables beside the head sizes: such products are not a tensor core's


class Tile(NamedTuple):
    """Query rows and keys of a pass of the loop, and how they are computed."""

    rows: int
    keys: int
    num_warps: int
    num_stages: int


class Table(NamedTuple):
    """One GPU generation's, by what a head's dimension is padded to.

    A decoding sequence is split until `num_programs` run. `short` is of a batch with few rows a
    sequence, `long` of one with long chunks; both take any batch.
    """

    num_programs: int
    decode: Mapping[int, Tile]
    short: Mapping[int, Tile]
    long: Mapping[int, Tile]


_PLAIN = Tile(16, 16, num_warps=4, num_stages=2)
_FEW = {
    FLOAT32: _PLAIN,
    64: Tile(16, 64, num_warps=4, num_stages=3),
    128: Tile(16, 64, num_warps=4, num_stages=3),
    256: Tile(16, 32, num_warps=4, num_stages=3),
}
_MANY = {
    FLOAT32: _PLAIN,
    64: Tile(64, 64, num_warps=4, num_stages=2),
    128: Tile(64, 64, num_warps=8, num_stages=2),
    256: Tile(32, 32, num_warps=4, num_stages=2),
}
_HOPPER_FEW = _FEW | {256: Tile(16, 32, 4, 2)}
_HOPPER_MANY = _MANY | {64: Tile(128, 64, 8, 2), 128: Tile(128, 64, 8, 2), 256: Tile(64, 32, 8, 2)}
# There the plain tile spills for some sizes of heads.
_ADA_FEW, _ADA_MANY = (tiles | {FLOAT32: Tile(16, 32, 8, 2)} for tiles in (_FEW, _MANY))
# By compute capability: A100, consumer Ampere, Ada, Hopper; two programs a multiprocessor.
TABLES = {
    80: Table(num_programs=216, decode=_FEW, short=_FEW, long=_MANY),
    86: Table(num_programs=168, decode=_FEW, short=_ADA_FEW, long=_ADA_MANY),
    89: Table(num_programs=256, decode=_FEW, short=_ADA_FEW, long=_ADA_MANY),
    90: Table(num_programs=264, decode=_FEW, short=_HOPPER_FEW, long=_HOPPER_MANY),
}


def table_of(capability: int) -> Table:
    """The entry of a compute capability, 10 times major plus minor: the nearest below it."""
    return TABLES[max((known for known in TABLES if known <= capability), default=min(TABLES))]


def tile_of(tiles: Mapping[int, Tile], dim_block: int, element_bytes: int) -> Tile:
    """The tile for heads padded to `dim_block` of elements of so many bytes."""
    if element_bytes == 4:
        return tiles[FLOAT32]
    wanted = min(dim_block, max(tiles))
    return tiles[min(size for size in tiles if size >= wanted and size != FLOAT32)]


def num_splits_of(table: Table, num_programs: int, num_tiles: int) -> int:
    """Into how many parts to cut each of `num_programs` contexts of at most `num_tiles` tiles."""
    wanted = -(-table.num_programs // num_programs)
    return max(1, min(_MAX_SPLITS, wanted, num_tiles))
