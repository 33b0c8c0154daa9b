"""The first process of a group: starts the others, and has them run each step with it."""

import logging
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from torch import Tensor

from engine.batch import Batch
from engine.config import EngineConfig
from engine.errors import LoadError, OutOfMemory
from engine.layers.decoder import Decoder
from engine.parallel.follower import NO_MEMORY, Order
from engine.parallel.group import Group
from engine.parallel.part import Part, device_of
from engine.parallel.shard import Shard
from engine.parallel.steps import ALLOCATE, send_batch, send_order
from engine.paths import encode_path
from engine.shortage import is_shortage
from engine.weights.files import ModelFiles
from engine.weights.progress import Progress

log = logging.getLogger(__name__)

_END_S = 2.0  # for a process whose connection broke to be seen as ended
_LOOK_S = 0.05
_NO_MEMORY = (
    "A step does not fit the memory of the devices that share the model; lower "
    "--max-num-batched-tokens or --pa-gpu-mem-usage."
)


class GroupBroken(RuntimeError):
    """A process is gone, and none can go on alone."""


class ParallelModel:
    """Satisfies `Model`: a step runs in every process, the logits are made in this one.

    The other processes end with it.
    """

    def __init__(self, model: Decoder, group: Group, followers: "Followers") -> None:
        self._model = model
        self._group = group
        self._followers = followers
        self._shape: tuple[int, ...] = ()
        weakref.finalize(self, followers.kill)

    def forward(self, batch: Batch, kv_cache: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """As `Decoder` has it. Raises GroupBroken.

        OutOfMemory too: the others are in the middle of a step, so that none can follow.
        """
        self._followers.check()
        try:
            return self._forward(batch, kv_cache)
        except (RuntimeError, MemoryError) as error:
            self._followers.check(_END_S)
            if is_shortage(error):
                raise OutOfMemory(_NO_MEMORY) from error
            raise

    def _forward(self, batch: Batch, kv_cache: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        shape = tuple(kv_cache[0][0].shape[:2])
        if shape != self._shape:
            send_order(self._group, ALLOCATE, *shape)
            self._shape = shape
        send_batch(self._group, batch)
        return self._model.forward(batch, kv_cache)

    def logits(self, hidden: Tensor) -> Tensor:
        """As `Decoder` has it."""
        return self._model.logits(hidden)


class Followers:
    """The processes of the other ranks. They end when this one does."""

    def __init__(self, files: ModelFiles, config: EngineConfig, folder: Path) -> None:
        """Start them; each loads its part once all have met in `folder`."""
        self._processes: list[subprocess.Popen[bytes]] = []
        for rank in range(1, config.tensor_parallel):
            order = Order(Shard(rank, config.tensor_parallel), folder, files, config)
            process = subprocess.Popen(
                [sys.executable, "-m", "engine.parallel.follower"], stdin=subprocess.PIPE
            )
            assert process.stdin is not None
            self._processes.append(process)
            process.stdin.write(msgspec.json.encode(order, enc_hook=encode_path) + b"\n")
            process.stdin.flush()

    def check(self, wait_s: float = 0.0) -> None:
        """Raises GroupBroken if one has ended, or does in `wait_s`: its own words are on stderr.

        OutOfMemory if it ended for that.
        """
        deadline_s = time.monotonic() + wait_s
        while not any(process.poll() is not None for process in self._processes):
            if time.monotonic() >= deadline_s:
                return
            time.sleep(_LOOK_S)
        for rank, process in enumerate(self._processes, start=1):
            if (code := process.poll()) == NO_MEMORY:
                raise OutOfMemory(_NO_MEMORY)
            if code is not None:
                raise GroupBroken(f"process {rank} of --tensor-parallel ended with code {code}")

    def kill(self) -> None:
        """End them at once."""
        for process in self._processes:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


def load_parallel(
    files: ModelFiles, config: EngineConfig, progress: Progress | None = None
) -> tuple[ParallelModel, Part]:
    """A model over `config.tensor_parallel` processes. Raises LoadError."""
    for rank in range(config.tensor_parallel):
        device_of(config, Shard(rank, config.tensor_parallel))
    part = Part(files, config, Shard(0, config.tensor_parallel))
    with tempfile.TemporaryDirectory(prefix="tramontane-parallel-") as name:
        followers = Followers(files, config, Path(name))
        try:
            group = Group(part.shard, Path(name), part.device)
            model = _load(part, group, followers.check, progress)
        except BaseException:
            followers.kill()
            raise
    log.info("the model is shared by %d processes", config.tensor_parallel)
    return ParallelModel(model, group, followers), part


def _load(
    part: Part, group: Group, check: Callable[[], None], progress: Progress | None
) -> Decoder:
    """This process' part, once all have theirs."""
    error, model = "", None
    try:
        model = part.load(group, progress)
    except LoadError as caught:
        error = str(caught)
    try:
        error = group.settle(error, check)
    except RuntimeError as broken:  # GroupBroken, or what torch says of a broken connection
        raise LoadError(f"{broken} while it loaded; see its words above.") from broken
    if error:
        raise LoadError(error)
    assert model is not None, "nobody had an error"
    return model


def no_reload(_isq: str) -> Decoder:
    """In the place of `reload`."""
    raise LoadError(
        "The weights cannot be quantised anew while several processes share them; start the worker "
        "with --isq."
    )
