"""The process of every rank but the first: loads its part, then runs the steps that it is told.

python -m engine.parallel.follower     # its order on stdin, a line of JSON; its end ends it too
"""

import logging
import os
import sys
import threading
from pathlib import Path
from typing import NoReturn

import msgspec
import torch

from engine.config import EngineConfig
from engine.errors import LoadError
from engine.kv_cache import KVCache
from engine.layers.decoder import Decoder
from engine.parallel.group import Group
from engine.parallel.part import Part, device_of
from engine.parallel.shard import Shard
from engine.parallel.steps import ALLOCATE, receive_batch, receive_order
from engine.paths import decode_path
from engine.shortage import is_shortage
from engine.weights.files import ModelFiles

log = logging.getLogger(__name__)

NO_MEMORY = 12  # exit code of one whose memory did not suffice; Linux' ENOMEM


class Order(msgspec.Struct, frozen=True):
    """What a follower is started with. `folder` is where the group meets."""

    shard: Shard
    folder: Path
    files: ModelFiles
    config: EngineConfig


_decoder = msgspec.json.Decoder(Order, dec_hook=decode_path)


def follow(order: Order) -> str:
    """Load and run as long as the process lives; returns why nothing came of it."""
    group = Group(order.shard, order.folder, device_of(order.config, order.shard))
    try:
        part = Part(order.files, order.config, order.shard)
        model = part.load(group)
    except LoadError as error:
        return group.settle(str(error))
    if error_of_another := group.settle(""):
        return error_of_another
    _run(part, model, group)


@torch.inference_mode()
def _run(part: Part, model: Decoder, group: Group) -> NoReturn:
    cache: KVCache = []
    while True:
        kind, numbers = receive_order(group)
        if kind == ALLOCATE:
            cache.clear()  # before there is another one: two may not fit
            cache = part.allocate(*numbers[:2])
        else:
            model.forward(receive_batch(group, numbers), cache)


def _end_with_stdin() -> None:
    """The first process holds the other end, and lets go of it however it ends."""
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> int:
    """Read the order and follow it."""
    order = _decoder.decode(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        log.error("%s", follow(order))
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        log.error("process %d has not enough memory: %s", order.shard.rank, error)
        return NO_MEMORY
    return 1


if __name__ == "__main__":
    sys.exit(main())
