"""The tensors that make up a quantised matrix, by name, and checks of them. Knows no method."""

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from engine.errors import LoadError

# Of inputs and of the KV cache, which are not rounded here; they say nothing of the weights.
SCALES_OF_ACTIVATIONS = (
    *("input_scale", "output_scale", "input_zero_point", "output_zero_point"),
    *("q_scale", "k_scale", "v_scale", "kv_scale", "input_scale_ub", "activation_scale"),
)

FLOATS = (torch.float16, torch.bfloat16, torch.float32)

Parts = Mapping[str, str]  # the last word of a name (`qweight`) -> the whole


class Stored(Protocol):
    """The tensors of the files as they are."""

    def names(self) -> frozenset[str]:
        """All of them."""

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape."""

    def tensor(self, name: str) -> Tensor:
        """A tensor, not to be written to.

        The memory of what was looked at goes back to the file at the next call, so a large one is
        asked for again for each look.
        """


def find_parts(names: Collection[str], main: str, others: Iterable[str]) -> dict[str, Parts]:
    """The parts of each matrix by the name `X.weight` that a plain one has.

    There is one wherever a name ends in `main`. Raises LoadError if a plain one is there too.
    """
    found: dict[str, Parts] = {}
    for name in sorted(names):
        stem, _, last = name.rpartition(".")
        if last != main or not stem:
            continue
        plain = f"{stem}.weight"
        if plain != name and plain in names:
            raise LoadError(f"The checkpoint has both {name} and {plain}; it cannot be used.")
        others_there = [word for word in others if f"{stem}.{word}" in names]
        found[plain] = {word: f"{stem}.{word}" for word in (main, *others_there)}
    return found


def take(
    stored: Stored,
    parts: Parts,
    word: str,
    dtypes: Collection[torch.dtype],
    num_dims: int | None = None,
) -> Tensor:
    """A part of a matrix.

    Raises LoadError if it is not there, has another dtype or another number of dimensions.
    """
    if word not in parts:
        one = next(iter(parts.values()))
        raise LoadError(
            f"The checkpoint has {one} but no {one.rpartition('.')[0]}.{word}; download it again."
        )
    tensor = stored.tensor(parts[word])
    if tensor.dtype not in dtypes:
        known = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise LoadError(
            f"{parts[word]} is stored as {str(tensor.dtype).removeprefix('torch.')}, not {known}; "
            "it is a variant that is not supported."
        )
    if num_dims not in (None, tensor.dim()):
        raise damaged(parts, word, f"has {tensor.dim()} dimensions, not {num_dims}")
    return tensor


def check_shape(parts: Parts, word: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """Raise LoadError if a part has not the shape that the others ask for."""
    if tensor.shape != expected:
        raise LoadError(
            f"{parts[word]} has the shape {list(tensor.shape)}, but by the tensors that belong to "
            f"it, it is {list(expected)}; the files do not belong together."
        )


def damaged(parts: Parts, word: str, what: str) -> LoadError:
    """The error for a part whose values cannot be."""
    return LoadError(f"{parts[word]} {what}; it is damaged, download it again.")
