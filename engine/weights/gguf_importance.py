"""Which importance each tensor of a GGUF file gets that is to be written. Knows GGUF's names."""

import logging
from collections.abc import Collection, Iterator, Mapping
from math import prod

import torch
from torch import Tensor

from engine.errors import LoadError
from engine.weights.imatrix import read_imatrix

logger = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]


def read_importance(path: str, shapes: Shapes, takers: Collection[str]) -> dict[str, Tensor]:
    """For those of `takers` that the imatrix at `path` has an entry for: [experts or 1, columns].

    `shapes` are those of all tensors. Raises LoadError for a file that was made for another model,
    or if no tensor is of a type that has a use for it.
    """
    if not takers:
        raise LoadError(
            "no tensor is to be of a type that has a use for an imatrix; those are Q2_K to Q6_K."
        )
    entries = read_imatrix(path)
    for name, values in entries.items():
        _check(name, len(values), shapes, path)
    if without := sorted(takers - entries.keys()):
        logger.warning(
            "the imatrix %s has nothing on %d tensors, %s among them; they are quantised without",
            path,
            len(without),
            without[0],
        )
    return {
        name: torch.from_numpy(entries[name]).view(-1, shapes[name][-1])
        for name in takers
        if name in entries
    }


def _check(name: str, num_values: int, shapes: Shapes, path: str) -> None:
    """Root tensors may be missing: a tied output has an entry and no tensor."""
    if name not in shapes:
        if name.startswith("blk."):
            raise LoadError(
                f"the imatrix {path} was made for another model: it has an entry for {name}, "
                "which this one has not."
            )
        return
    *above, _, num_columns = (1, *shapes[name])
    if num_values != prod(above) * num_columns:
        raise LoadError(
            f"the imatrix {path} was made for another model: its entry for {name} has "
            f"{num_values} values, and this one's has {prod(above) * num_columns}."
        )


def with_importance(
    pieces: Iterator[Tensor], importance: Tensor | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The same weights, and the importance [columns] of each: an expert's of a stack is its own."""
    first = 0
    for piece in pieces:
        if importance is None or len(importance) == 1:
            yield piece, None if importance is None else importance[0]
            continue
        for expert, weights in enumerate(piece, first):
            yield weights, importance[expert]
        first += len(piece)
