"""One step of a model without an engine, and an engine of a random model. Knows no clock."""

from collections.abc import Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor

from engine.batch import Batch
from engine.config import EngineConfig, SamplingParams
from engine.device import choose_cache_dtype
from engine.engine import Engine
from engine.graph_setup import choose_graphs
from engine.kv_cache import allocate
from engine.layers.decoder import Decoder
from engine.loading import load_model
from engine.messages import SequenceRequest
from tests.bench.on_gpu.models import RandomCheckpoint
from tests.bench.on_gpu.setting import Setting

BLOCK = 16


def load(checkpoint: RandomCheckpoint, setting: Setting) -> Decoder:
    """A model as the engine loads it. Products are exact on a CPU too."""
    config = EngineConfig(cpu_activations="float")
    return load_model(checkpoint, config, setting.dtype, setting.device)


def batch_of(token_ids: Tensor, num_before: int) -> Batch:
    """A batch of the last tokens of S sequences, [S, L] ids with `num_before` tokens before them.

    Sequences have blocks of their own, in no order.
    """
    num_sequences, num_rows = token_ids.shape
    device, length = token_ids.device, num_before + num_rows
    columns = -(-length // BLOCK)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(num_sequences * columns, generator=generator)
    tables = order.view(num_sequences, columns).to(device)
    at = torch.arange(num_before, length, device=device)
    slots = tables[:, at // BLOCK] * BLOCK + at % BLOCK
    starts = torch.arange(num_sequences + 1, device=device, dtype=torch.int32) * num_rows
    return Batch(
        token_ids=token_ids.flatten(),
        positions=at.repeat(num_sequences),
        slots=slots.flatten(),
        block_tables=tables.int(),
        query_starts=starts,
        context_lengths=torch.full_like(starts[1:], length),
        logits_indices=starts[1:].long() - 1,
    )


def caches_for(model: Decoder, batch: Batch, setting: Setting) -> list[tuple[Tensor, Tensor]]:
    """Room for a batch's sequences."""
    return allocate(model.config, batch.block_tables.numel(), BLOCK, setting.dtype, setting.device)


def engine_config(setting: Setting, **wanted: Any) -> EngineConfig:
    """What the run's options say goes before `wanted`."""
    plain = {"cpu_activations": "float", "enable_prefix_cache": False}
    return msgspec.convert({**plain, **wanted, **setting.engine}, EngineConfig)


def cache_dtype(config: EngineConfig, setting: Setting) -> torch.dtype:
    """Of keys and values."""
    return choose_cache_dtype(config, setting.dtype, setting.device, is_rounded=False)


def make_engine(model: Decoder, config: EngineConfig, setting: Setting) -> Engine:
    """An engine of a loaded model, as `load_engine` makes it: on a GPU it decodes by graphs."""
    return Engine(
        model,
        model.config,
        config,
        device=setting.device,
        dtype=setting.dtype,
        cache_dtype=cache_dtype(config, setting),
        graph_device=choose_graphs(config, model, setting.device),
    )


def add_random(
    engine: Engine, name: str, prompts: Sequence[int], outputs: Sequence[int], temperature: float
) -> list[str]:
    """Sequences of random ids that do not end before their time; lengths are in tokens.

    Returns their ids, which begin with `name`.
    """
    ids = [f"{name} {index}" for index in range(len(prompts))]
    generator = torch.Generator().manual_seed(0)
    for index, (length, count) in enumerate(zip(prompts, outputs, strict=True)):
        prompt = torch.randint(engine.info.vocab_size, (length,), generator=generator).tolist()
        params = SamplingParams(
            max_tokens=count, seed=index, temperature=temperature, ignore_eos=True
        )
        engine.add(SequenceRequest(id=ids[index], prompt_ids=prompt, params=params))
    return ids


def drain(engine: Engine) -> tuple[int, int]:
    """Step until nothing is left; how many tokens came in how many steps."""
    num_tokens = num_steps = 0
    while engine.has_work():
        num_tokens += sum(len(output.token_ids) for output in engine.step())
        num_steps += 1
    return num_tokens, num_steps
