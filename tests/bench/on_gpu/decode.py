"""The decode step of Llama-3-8B's shape, in three types of weights and three sizes of batch."""

import gc
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.engine import Engine
from engine.layers.decoder import Decoder
from engine.layers.linear import Linear
from tests.bench.on_gpu.agreement import logits_rows
from tests.bench.on_gpu.breakdown import breakdown
from tests.bench.on_gpu.models import KINDS, RandomCheckpoint, kv_bytes, shape_of
from tests.bench.on_gpu.names import step_name
from tests.bench.on_gpu.row import Row
from tests.bench.on_gpu.setting import Case, Setting
from tests.bench.on_gpu.stepping import (
    add_random,
    batch_of,
    cache_dtype,
    caches_for,
    engine_config,
    load,
    make_engine,
)

PART = "decode"
SIZES = (1, 8, 32)
SPARE = 64  # tokens that the first sequences make before the last prompts are through


class Step(NamedTuple):
    """A decode step: how many sequences of how many tokens; `itemsize` of keys and values."""

    size: int
    context: int
    us: float
    itemsize: int


def cases(setting: Setting) -> list[Case]:
    """One for each type of weights."""
    return [Case(name, partial(_measured, setting, name)) for name in KINDS]


def _measured(setting: Setting, name: str) -> Iterator[Row]:
    checks = list(_checks(setting, name))
    yield from checks
    if any(row.state == "wrong" for row in checks):
        return
    config = shape_of("llama-3-8b", is_tiny=setting.is_tiny)
    start = time.perf_counter()
    model = load(RandomCheckpoint(config, KINDS[name], setting.device), setting)
    setting.timer.wait()
    seconds = time.perf_counter() - start
    yield Row(part=PART, name=f"{name}, made", state="measured", value=seconds, unit="s")
    yield from _kernels_alone(setting, name, model)
    yield from _engine(setting, name, model)
    del model
    gc.collect()


def _checks(setting: Setting, name: str) -> Iterator[Row]:
    """The first two layers, with a small vocabulary, against transformers in float32."""
    vocab = setting.of_scale(4096, 512)
    config = shape_of("llama-3-8b", is_tiny=setting.is_tiny, num_layers=2, vocab_size=vocab)
    checkpoint = RandomCheckpoint(config, KINDS[name], setting.device)
    sizes = setting.of_scale((1, 5, 12, 20), (1, 3))
    return logits_rows(PART, f"{name}, logits of two layers", checkpoint, sizes, setting)


def _kernels_alone(setting: Setting, name: str, model: Decoder) -> Iterator[Row]:
    """A step as one graph, greedy sampling included: what the device needs without its host."""
    context = setting.of_scale(1024, 40)
    for size in setting.of_scale(SIZES, SIZES[:2]):
        step = _step(setting, model, size, context)
        label, us = f"{name}, batch {size}, kernels", setting.timer.us([step])
        timed = Step(size, context, us, setting.dtype.itemsize)
        yield _row(setting, f"{label} in a graph", model, timed)
        if size in (SIZES[0], SIZES[-1]):
            yield from breakdown(PART, label, step, setting)


def _step(setting: Setting, model: Decoder, size: int, context: int) -> Callable[[], Tensor]:
    """Token ids by the latest ones, over a cache of random numbers."""
    ids = torch.randint(model.config.vocab_size, (size, 1), device=setting.device)
    batch = batch_of(ids, context - 1)
    caches = caches_for(model, batch, setting)
    for cache in (cache for pair in caches for cache in pair):
        cache.normal_()

    @torch.inference_mode()
    def step() -> Tensor:
        return model.logits(model.forward(batch, caches)).argmax(-1)

    return step


def _engine(setting: Setting, name: str, model: Decoder) -> Iterator[Row]:
    """Steps of an engine in which everyone decodes, from call to call."""
    prompt, num_steps = setting.of_scale((992, 64), (30, 3))
    length = prompt + num_steps + SPARE
    num_bytes = kv_bytes(model.config, length, setting.dtype.itemsize) * (SIZES[-1] + 1)
    wanted = {"max_seqs": SIZES[-1], "max_model_len": length, "kv_cache_bytes": num_bytes}
    config = engine_config(setting, **wanted)
    engine, itemsize = make_engine(model, config, setting), cache_dtype(config, setting).itemsize
    for size in setting.of_scale(SIZES, SIZES[:2]):
        us = step_us(engine, size, prompt, num_steps, setting.timer.wait)
        timed = Step(size, prompt + num_steps // 2, us, itemsize)
        yield _row(setting, step_name(name, size), model, timed)


def step_us(
    engine: Engine, size: int, prompt: int, num_steps: int, wait: Callable[[], None]
) -> float:
    """Microseconds of a step, after all prompts are through."""
    counts = [prompt] * size, [num_steps + SPARE] * size
    ids = add_random(engine, f"batch {size}", *counts, temperature=0.0)
    while _num_tokens(engine) < size:  # some are not through with their prompts
        assert engine.has_work(), "sequences go on until all decode"
    for _ in range(6):  # the first ones prepare what later ones use again
        engine.step()
    wait()
    start, num_tokens = time.perf_counter(), 0
    for _ in range(num_steps):
        num_tokens += _num_tokens(engine)
    wait()
    seconds = time.perf_counter() - start
    for each in ids:
        engine.cancel(each)
    return 1e6 * seconds * size / num_tokens


def _num_tokens(engine: Engine) -> int:
    return sum(len(output.token_ids) for output in engine.step())


def _row(setting: Setting, name: str, model: Decoder, step: Step) -> Row:
    """A step's time beside the bytes that it has to read."""
    num_bytes = read_bytes(model, step.size * step.context, step.itemsize)
    floor = None
    if setting.ceilings is not None:
        floor = 1e6 * num_bytes / setting.ceilings.copy_bytes_s
    note = f"{num_bytes / 1e9:.2f} GB, {1e6 * step.size / step.us:.0f} tokens/s"
    given: dict[str, Any] = {"value": step.us, "unit": "µs", "floor": floor, "note": note}
    return Row(part=PART, name=name, state="measured", **given)


def read_bytes(model: Decoder, num_tokens: int, itemsize: int) -> int:
    """All weights but the embedding, as they lie in memory, and keys and values of `num_tokens`."""
    config = model.config
    weights = sum(parameter.nbytes for parameter in model.parameters())
    linears = (module for module in model.modules() if isinstance(module, Linear))
    packed = sum(matrix.num_bytes for linear in linears for matrix in linear.packed)
    embedding = 0 if config.tie_word_embeddings else model.embedding.weight.nbytes
    return weights + packed - embedding + kv_bytes(config, num_tokens, itemsize)
