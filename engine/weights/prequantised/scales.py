"""Scales of whole matrices, of rows, of groups in rows and of blocks, all as one grid."""

from typing import NamedTuple

import torch
from torch import Tensor

from engine.weights.prequantised.parts import Parts, damaged


class Grid(NamedTuple):
    """float32 [R, G]: one for `block_rows` rows and `group` columns, the last perhaps of fewer."""

    scales: Tensor
    block_rows: int
    group: int


def make_grid(
    scales: Tensor, shape: tuple[int, int], block: tuple[int, int] | None, parts: Parts, word: str
) -> Grid:
    """The scales of a matrix of `shape`, whichever way they are stored.

    One number, one a row ([R] or [R, 1]), one a group of neighbours of a row [R, G], or one a
    `block`. Raises LoadError for others.
    """
    num_rows, num_columns = shape
    values = scales.float()
    if values.numel() == 1:
        return Grid(values.view(1, 1), num_rows, num_columns)
    if values.dim() == 1:
        values = values.unsqueeze(1)
    if block and values.shape == (-(-num_rows // block[0]), -(-num_columns // block[1])):
        return Grid(values, *block)
    if values.dim() == 2 and len(values) == num_rows and _is_whole(num_columns, values.shape[1]):
        return Grid(values, 1, num_columns // values.shape[1])
    raise damaged(
        parts, word, f"has the shape {list(scales.shape)}, which is none for a matrix {list(shape)}"
    )


def column_groups(
    group_of: Tensor, num_groups: int, parts: Parts, word: str
) -> tuple[int, Tensor | None]:
    """How many neighbours share a scale, by the group of each column [columns], the part `word`.

    Where groups are not of neighbours, 1 and `group_of`. Raises LoadError for a group that is none.
    """
    group_of = group_of.long()
    if not len(group_of) or int(group_of.min()) < 0 or int(group_of.max()) >= num_groups:
        raise damaged(parts, word, f"names groups that are none of the {num_groups} there are")
    size = max(1, int((group_of == 0).sum()))
    is_in_order = torch.equal(group_of, torch.arange(len(group_of)) // size)
    return (size, None) if is_in_order else (1, group_of)


def _is_whole(num_columns: int, num_groups: int) -> bool:
    """Whether columns are a whole number of groups."""
    return num_groups > 0 and num_columns % num_groups == 0
