"""Offline throughput of Qwen3-0.6B's shape: as nano-vllm's bench has it; and transformers'."""

import random
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from engine.layers.decoder import Decoder
from tests.bench.on_gpu.agreement import logits_rows
from tests.bench.on_gpu.models import RandomCheckpoint, shape_of
from tests.bench.on_gpu.names import OURS, PEERS
from tests.bench.on_gpu.peer import make_peer
from tests.bench.on_gpu.row import Row
from tests.bench.on_gpu.setting import Case, Setting
from tests.bench.on_gpu.stepping import add_random, drain, engine_config, load, make_engine

OFFLINE = "throughput"


def offline_cases(setting: Setting) -> list[Case]:
    """One: all requests at once."""
    return [Case("256 requests", partial(_offline, setting))]


def peer_cases(setting: Setting) -> list[Case]:
    """The engine and transformers on the same weights; nothing is compiled by torch."""
    dynamic: dict[str, Any] = {}
    static = {"cache_implementation": "static", "disable_compile": True}
    return [
        Case("logits", partial(_checked, setting)),
        Case(OURS, partial(_ours, setting)),
        Case("dynamic cache", partial(_theirs, setting, "dynamic cache", dynamic)),
        Case("static cache", partial(_theirs, setting, "static cache", static)),
    ]


def _checkpoint(setting: Setting) -> RandomCheckpoint:
    config = shape_of("qwen3-0.6b", is_tiny=setting.is_tiny)
    return RandomCheckpoint(config, None, setting.device)


def _offline(setting: Setting) -> Iterator[Row]:
    """256 prompts of 100 to 1024 tokens, as many more each, drawn at temperature 0.6."""
    num, least, most = setting.of_scale((256, 100, 1024), (5, 3, 12))
    numbers = random.Random(0)
    prompts = [numbers.randint(least, most) for _ in range(num)]
    outputs = [numbers.randint(least, most) for _ in range(num)]
    budget = setting.of_scale(16384, 64)
    wanted = {"max_seqs": num, "max_model_len": 4 * most, "max_num_batched_tokens": budget}
    config = engine_config(setting, **wanted)
    engine = make_engine(load(_checkpoint(setting), setting), config, setting)
    _warm(engine, prompts, temperature=0.6)
    start = time.perf_counter()
    add_random(engine, "timed", prompts, outputs, temperature=0.6)
    num_tokens, num_steps = drain(engine)
    setting.timer.wait()
    seconds = time.perf_counter() - start
    assert num_tokens == sum(outputs), f"{num_tokens} tokens came of {sum(outputs)}"
    yield Row(
        part=OFFLINE,
        name=f"{num} requests, {least} to {most} tokens in and out",
        state="measured",
        value=num_tokens / seconds,
        unit="tokens/s",
        note=f"{num_tokens} tokens after {sum(prompts)} of prompts, {num_steps} steps, "
        f"{seconds:.1f} s, {engine.stats().num_preemptions} preemptions",
    )


def _warm(engine: Any, prompts: list[int], temperature: float) -> None:
    """Have everything compiled and captured: all at once, a few tokens each."""
    add_random(engine, "warm", prompts, [6] * len(prompts), temperature)
    drain(engine)


def _checked(setting: Setting) -> Iterator[Row]:
    """All layers, against transformers in float32."""
    return logits_rows(PEERS, "logits", _checkpoint(setting), (1, 4), setting)


def _work(setting: Setting) -> tuple[int, int, int]:
    """Sequences, tokens of a prompt, tokens made of it. All alike: nothing is padded."""
    return setting.of_scale((32, 256, 256), (3, 9, 4))


def _ours(setting: Setting) -> Iterator[Row]:
    num, prompt, output = _work(setting)
    model: Decoder = load(_checkpoint(setting), setting)
    length = prompt + output
    wanted = {"max_seqs": num, "max_model_len": length, "max_num_batched_tokens": num * prompt}
    engine = make_engine(model, engine_config(setting, **wanted), setting)
    _warm(engine, [prompt] * num, temperature=0.0)
    start = time.perf_counter()
    add_random(engine, "timed", [prompt] * num, [output] * num, temperature=0.0)
    num_tokens, _ = drain(engine)
    setting.timer.wait()
    yield _rate(setting, OURS, num_tokens / (time.perf_counter() - start))


@torch.inference_mode()
def _theirs(setting: Setting, name: str, options: dict[str, Any]) -> Iterator[Row]:
    num, prompt, output = _work(setting)
    checkpoint = _checkpoint(setting)
    peer = make_peer(checkpoint.config, checkpoint.tensor, setting.dtype, setting.device)
    ids = torch.randint(peer.config.vocab_size, (num, prompt), device=setting.device)
    asked = {"attention_mask": torch.ones_like(ids), "do_sample": False, "eos_token_id": None}

    def generate(count: int) -> None:
        counts = {"max_new_tokens": count, "min_new_tokens": count, "pad_token_id": 0}
        made = peer.generate(ids, **asked, **counts, **options)
        assert made.shape == (num, prompt + count)

    generate(8)
    setting.timer.wait()
    start = time.perf_counter()
    generate(output)
    setting.timer.wait()
    rate = num * output / (time.perf_counter() - start)
    yield _rate(setting, f"transformers, {name}", rate)


def _rate(setting: Setting, name: str, rate: float) -> Row:
    num, prompt, output = _work(setting)
    note = f"{num} sequences, {prompt} tokens in, {output} out, greedy"
    return Row(part=PEERS, name=name, state="measured", value=rate, unit="tokens/s", note=note)
