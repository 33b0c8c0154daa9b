"""A step's batch from the first process to the others. Knows its fields, no model."""

import math
from collections.abc import Iterator

import torch

from engine.batch import Batch
from engine.parallel.group import Group

FORWARD, ALLOCATE = range(2)
_NUM_FIELDS = len(Batch._fields)
_WIDTH = 2 * _NUM_FIELDS + 1  # an order's number and two dimensions for each tensor


def send_order(group: Group, order: int, *numbers: int) -> None:
    """Tell the others what comes next."""
    head = [order, *numbers]
    group.broadcast_ints(head + [0] * (_WIDTH - len(head)), _WIDTH)


def receive_order(group: Group) -> tuple[int, list[int]]:
    """What comes next, and its numbers."""
    order, *numbers = group.broadcast_ints((), _WIDTH)
    return order, numbers


def send_batch(group: Group, batch: Batch) -> None:
    """Have the others run `batch`: two messages, whatever its size."""
    nothing = batch.token_ids.new_empty(0, 0)  # on their device, or they cannot be joined
    tensors = [nothing if field is None else field for field in batch]
    shapes = [(*tensor.shape, -1)[:2] for tensor in tensors]
    send_order(group, FORWARD, *(size for shape in shapes for size in shape))
    group.broadcast(torch.cat([tensor.flatten().long() for tensor in tensors]))


def receive_batch(group: Group, numbers: list[int]) -> Batch:
    """The batch that follows a FORWARD order with these numbers."""
    shapes = list(_shapes(numbers))
    counts = [math.prod(shape) for shape in shapes]
    flat = group.broadcast(torch.empty(sum(counts), dtype=torch.int64, device=group.device))
    parts = [
        part.view(shape) for part, shape in zip(torch.split(flat, counts), shapes, strict=True)
    ]
    fields = dict(zip(Batch._fields, parts, strict=True))
    for name in ("block_tables", "query_starts", "context_lengths"):
        fields[name] = fields[name].int()
    sets = fields.pop("rope_sets")
    return Batch(**fields, rope_sets=sets if sets.numel() else None)


def _shapes(numbers: list[int]) -> Iterator[tuple[int, ...]]:
    for index in range(_NUM_FIELDS):
        rows, columns = numbers[2 * index : 2 * index + 2]
        yield (rows,) if columns < 0 else (rows, columns)
