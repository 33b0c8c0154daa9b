"""Greedy tokens of every family through the engine, against transformers' own."""

import pytest
import torch
from transformers import GenerationConfig

from engine.config import EngineConfig, SamplingParams
from engine.engine import load_engine
from engine.messages import SequenceRequest
from engine.weights.files import ModelRef, resolve
from tests.engine.models import tiny

NUM_TOKENS = 32


def by_transformers(model, prompt):
    model.generation_config.eos_token_id = None  # the engine is told to ignore it too
    ids = torch.tensor([prompt])
    made = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=GenerationConfig(
            max_new_tokens=NUM_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0
        ),
    )
    return made[0, len(prompt) :].tolist()


def by_engine(engine, prompts):
    params = SamplingParams(max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True)
    for number, prompt in enumerate(prompts):
        engine.add(SequenceRequest(id=str(number), prompt_ids=prompt, params=params))
    made: dict[str, list[int]] = {str(number): [] for number in range(len(prompts))}
    while engine.has_work():
        for output in engine.step():
            assert output.error is None
            made[output.id] += output.token_ids
    return list(made.values())


@pytest.mark.parametrize("name", tiny.RECIPES)
def test_32_greedy_tokens_equal_transformers_alone_mixed_chunked_and_cached(name, tmp_path):
    files = resolve(ModelRef(model=str(tiny.save_checkpoint(name, tmp_path))))
    # A budget of eleven tokens cuts every prompt into chunks that run beside others' decoding.
    config = EngineConfig(
        device="cpu", dtype="float32", max_seqs=4, max_num_batched_tokens=11, kv_cache_bytes=1 << 22
    )
    engine = load_engine(files, config)
    model, prompts = tiny.make_model(name), tiny.prompts()
    expected = [by_transformers(model, prompt) for prompt in prompts]
    assert [by_engine(engine, [prompt])[0] for prompt in prompts] == expected
    assert engine.stats().prefix_hits == 0
    assert by_engine(engine, prompts) == expected
    assert engine.stats().prefix_hits > 0
