"""Real models whose decode steps are graphs' bodies: padding, row state, and the tokens."""

import re

import msgspec
import pytest

from engine.config import EngineConfig
from engine.engine import load_generator
from engine.text.grammar_text import of_regex
from engine.text.text_model import load_text_model
from engine.weights.files import ModelRef, resolve
from kernels.cpu import (
    cached_attention as cpu_cached_attention,
    paged_attention as cpu_paged_attention,
)
from kernels.reference.paged_attention import paged_attention
from tests.engine.graph_engine import watch
from tests.engine.hash_model import drain, ids_of, request
from tests.engine.late_device import LateDevice
from tests.engine.models import tiny

PROMPTS = [[5, 90, 33, 7, 61], list(range(10, 33)), [8] * 30, [99, 3]]


@pytest.fixture(autouse=True)
def attention_that_knows_padding(monkeypatch):
    """A CPU's own attention has no rows of padding, as it has no graphs."""
    monkeypatch.setattr(cpu_cached_attention, "is_native", lambda *_: False)
    monkeypatch.setattr(cpu_paged_attention, "paged_attention", paged_attention)


def run(engine):
    for index, prompt in enumerate(PROMPTS):
        temperature = 0.9 if index % 2 else 0.0
        item = request(
            prompt,
            id=str(index),
            max_tokens=12 + index,
            temperature=temperature,
            seed=index,
        )
        engine.add(item)
    return {key: ids_of(outputs) for key, outputs in drain(engine).items()}


def engines(files, monkeypatch, **changes):
    """One that computes its steps one by one, and one with graphs."""
    base = EngineConfig(max_seqs=3, max_num_batched_tokens=16, block_size=4, device="cpu")
    config = msgspec.structs.replace(base, **changes)
    plain = load_generator(files, config)
    device = LateDevice(records=False)
    monkeypatch.setattr("engine.engine.choose_graphs", lambda *_: device)
    graphed = load_generator(files, config)
    watch(graphed, device)
    return plain, graphed


@pytest.mark.parametrize("name", ["llama", "gemma3", "phi", "olmo2", "qwen3-moe"])
def test_a_model_says_the_same_by_graphs(name, tmp_path, monkeypatch):
    path = tiny.save_checkpoint(name, tmp_path / name)
    plain, graphed = engines(resolve(ModelRef(model=str(path))), monkeypatch)
    assert run(graphed) == run(plain)


def test_sequences_that_outgrow_the_first_rope_set_are_computed_with_the_second(
    tmp_path, monkeypatch
):
    path = tiny.save_checkpoint("phi3-long", tmp_path / "phi3")
    plain, graphed = engines(resolve(ModelRef(model=str(path))), monkeypatch)
    switch = graphed._scheduler.rope_switch
    results = []
    for engine in (plain, graphed):
        for index in range(3):
            prompt = [(7 * index + i) % 300 for i in range(switch - 4 - index)]
            engine.add(request(prompt, id=str(index), max_tokens=12))
        results.append({key: ids_of(outputs) for key, outputs in drain(engine).items()})
    assert results[0] == results[1]
    assert 0 < switch < 200


def test_rows_with_a_grammar_are_sampled_apart_and_lead_nobody_on(monkeypatch):
    files = resolve(ModelRef(model="builtin"))
    plain, graphed = engines(files, monkeypatch, max_model_len=256, block_size=16)
    said = []
    for engine in (plain, graphed):
        engine.add(request([300, 301, 302], id="free", max_tokens=40))
        grammar = of_regex("(yes|no|maybe), [a-f]{9}")
        engine.add(request([300, 7], id="bound", max_tokens=30, temperature=1.0, grammar=grammar))
        said.append({key: ids_of(outputs) for key, outputs in drain(engine).items()})
    assert said[0] == said[1]
    tokenizer = load_text_model(files).tokenizer
    assert re.fullmatch("(yes|no|maybe), [a-f]{9}", tokenizer.decode(said[1]["bound"]).strip())
