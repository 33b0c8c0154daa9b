"""The real engine with the built-in model, on a machine whose memory runs out by order.

The environment orders: SHORT_STEPS (the numbers of the forwards that fail), SHORT_ABOVE (forwards
of more tokens than that fail), SHORT_FILE (all fail while it exists), SHORT_LOGPROBS (the
log-probabilities of who wants so many beside each token never fit). A file SHORT_SEEN tells that it
has happened.
"""

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from engine import careful
from engine.config import EngineConfig
from engine.engine import load_generator
from engine.messages import EngineLike
from engine.weights.files import ModelFiles

FACTORY = "tests.workers.short_engine:load_engine"


def load_engine(
    files: ModelFiles, config: EngineConfig, progress: Callable[[int, int], None] | None = None
) -> EngineLike:
    """The factory for TRAMONTANE_ENGINE."""
    engine: Any = load_generator(files, config, progress)
    careful.PAUSES_S = (0.01,) * 4
    _limit_forwards(engine._runner.model)
    _limit_logprobs(int(os.environ.get("SHORT_LOGPROBS", "-1")))
    return engine  # type: ignore[no-any-return]


def _fail() -> None:
    Path(os.environ["SHORT_SEEN"]).touch()
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def _limit_forwards(model: Any) -> None:
    steps = {int(step) for step in os.environ.get("SHORT_STEPS", "").split(",") if step}
    above = int(os.environ.get("SHORT_ABOVE", "1000000"))
    file = Path(os.environ.get("SHORT_FILE", "/nonexistent"))
    forward, num_forwards = model.forward, 0

    def limited(batch: Any, kv_cache: Any) -> Any:
        nonlocal num_forwards
        num_forwards += 1
        hidden = forward(batch, kv_cache)
        if num_forwards in steps or len(batch.token_ids) > above or file.exists():
            for layer in kv_cache:  # half a step has written rubbish
                for cache in layer:
                    cache.flatten(0, 1)[batch.slots[batch.slots >= 0]] = 777.0
            _fail()
        return hidden

    model.forward = limited


def _limit_logprobs(num: int) -> None:
    runner: Any = importlib.import_module("engine.runner")
    describe = runner.describe_samples

    def limited(wanted: Any, token_ids: Any) -> Any:
        if num in wanted.nums_top:
            _fail()
        return describe(wanted, token_ids)

    runner.describe_samples = limited
