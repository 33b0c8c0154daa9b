"""Which files make one GGUF model, by the keys that llama.cpp's gguf-split writes. Torch-free."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engine.errors import LoadError

_COUNT, _NUMBER, _TENSORS = "split.count", "split.no", "split.tensors.count"


class Split(NamedTuple):
    """A file that may be one of several."""

    path: Path
    metadata: Mapping[str, Any]
    num_tensors: int


def order_of_splits(splits: Sequence[Split]) -> list[int]:
    """Indices of `splits` in the model's order, or as they are if none says that it is one.

    Raises LoadError if a split is missing, twice there, or of another model.
    """
    if not any(_COUNT in split.metadata for split in splits):
        return list(range(len(splits)))
    numbers = [_number(split, len(splits)) for split in splits]
    if len(set(numbers)) < len(numbers):
        raise LoadError(f"{splits[0].path} and the other splits given hold one split twice.")
    order = sorted(range(len(splits)), key=numbers.__getitem__)
    _check_tensors(splits, splits[order[0]].metadata.get(_TENSORS))
    return order


def _number(split: Split, num_splits: int) -> int:
    count, number = split.metadata.get(_COUNT, 1), split.metadata.get(_NUMBER, 0)
    if type(count) is not int or type(number) is not int or not 0 <= number < count:
        raise LoadError(f"{split.path} is damaged: {_COUNT} and {_NUMBER} make no sense.")
    if count != num_splits:
        raise LoadError(
            f"{split.path} is one of {count} splits and {num_splits} are given; name the first "
            "split, or all of them."
        )
    return number


def _check_tensors(splits: Sequence[Split], expected: object) -> None:
    found = sum(split.num_tensors for split in splits)
    if type(expected) is int and found != expected:
        raise LoadError(
            f"{splits[0].path} and the other splits have {found} tensors together and should have "
            f"{expected}; they do not belong together."
        )
