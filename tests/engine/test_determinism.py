"""A real model in float32: its tokens do not depend on batch, chunks, cache or a resume."""

import random

import msgspec
import pytest

from engine.config import EngineConfig
from engine.engine import load_engine
from tests.engine import tiny_llama
from tests.engine.hash_model import drain, ids_of, request

NUM_TOKENS = 16
BLOCK_BYTES = 2 * tiny_llama.LAYERS * 4 * tiny_llama.KV_HEADS * tiny_llama.HEAD_DIM * 4


def prompts():
    rng = random.Random(3)
    texts = [[rng.randrange(3, 120) for _ in range(n)] for n in (1, 9, 16, 17, 40)]
    return texts + [texts[-1][:24] + tail for tail in texts[:2]]


@pytest.fixture(scope="module")
def make_engine(tmp_path_factory):
    files = tiny_llama.write(tmp_path_factory.mktemp("llama"))

    base = EngineConfig(max_seqs=5, max_num_batched_tokens=64, block_size=4, device="cpu")

    def make(num_blocks=0, **changes):
        changes["kv_cache_bytes"] = num_blocks * BLOCK_BYTES
        return load_engine(files, msgspec.structs.replace(base, **changes))

    return make


def run(engine, *requests):
    for item in requests:
        engine.add(item)
    return {key: ids_of(outputs) for key, outputs in drain(engine).items()}


def greedy(text, id="a", **params):
    return request(text, id=id, max_tokens=NUM_TOKENS, **params)


@pytest.fixture(scope="module")
def solo(make_engine):
    """Each prompt's tokens, alone in a fresh engine."""
    return [run(make_engine(), greedy(text))["a"] for text in prompts()]


VARIANTS = {
    "all at once": {},
    "chunks of five tokens": {"max_num_batched_tokens": 5},
    "no prefix cache": {"enable_prefix_cache": False},
    "blocks of sixteen": {"block_size": 16},
    "one block per sequence": {"paged_attn": False},
    "preemptions": {"num_blocks": 17},
    "preemptions and small chunks": {"num_blocks": 17, "max_num_batched_tokens": 7},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_greedy_tokens_are_those_of_a_solo_run(make_engine, solo, variant):
    engine = make_engine(**variant)
    got = run(engine, *(greedy(text, str(i)) for i, text in enumerate(prompts())))
    assert [got[str(i)] for i in range(len(solo))] == solo
    assert bool(engine.stats().num_preemptions) == ("num_blocks" in variant)
    again = run(engine, *(greedy(text, str(i)) for i, text in enumerate(prompts())))
    assert again == got


def test_the_tokens_are_not_all_alike(solo):
    assert len({tuple(tokens) for tokens in solo}) == len(solo)
    assert len({token for tokens in solo for token in tokens}) > 30


def test_a_greedy_resume_at_every_position_gives_the_rest(make_engine, solo):
    engine = make_engine()
    text, whole = prompts()[4], solo[4]
    rests = [greedy(text, str(done), output_ids=whole[:done]) for done in range(len(whole) + 1)]
    got = run(engine, *rests)
    assert got == {str(done): whole[done:] for done in range(len(whole) + 1)}


SAMPLED = {
    "temperature": {"temperature": 0.8},
    "everything": {
        "temperature": 1.1,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.01,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "min_tokens": NUM_TOKENS,
        "logit_bias": {5: 2.0},
    },
}


@pytest.mark.parametrize("params", SAMPLED.values(), ids=SAMPLED)
def test_seeded_tokens_are_the_same_in_any_company_and_after_any_resume(make_engine, params):
    texts = prompts()
    alone = [
        run(make_engine(), greedy(text, seed=i, **params))["a"] for i, text in enumerate(texts)
    ]
    for num_blocks in (0, 17):
        crowd = [greedy(text, str(i), seed=i, **params) for i, text in enumerate(texts)]
        together = run(make_engine(num_blocks), *crowd)
        assert [together[str(i)] for i in range(len(texts))] == alone
    text, whole = texts[3], alone[3]
    rests = [
        greedy(text, str(done), seed=3, output_ids=whole[:done], **params)
        for done in range(len(whole))
    ]
    assert run(make_engine(), *rests) == {str(done): whole[done:] for done in range(len(whole))}
