"""LongRoPE: tokens across the length at which the frequencies change, against transformers'.

What a sequence's tokens are must not depend on when or beside whom it crosses that length.
"""

import msgspec
import pytest

from engine.config import EngineConfig
from engine.engine import load_engine
from engine.weights.files import ModelRef, resolve
from tests.engine.hash_model import drain, ids_of, request
from tests.engine.models import tiny
from tests.engine.models.recipes_phi import ROPE_SWITCH
from tests.engine.models.test_greedy import NUM_TOKENS, by_transformers

BASE = EngineConfig(
    device="cpu",
    dtype="float32",
    max_seqs=5,
    max_num_batched_tokens=256,
    block_size=4,
    kv_cache_bytes=1 << 22,
)
VARIANTS = {
    "all at once": {},
    "chunks": {"max_num_batched_tokens": 7},
    "two at a time": {"max_seqs": 2},
    "no prefix cache": {"enable_prefix_cache": False},
    "one block per sequence": {"paged_attn": False},
    "preemptions": {"kv_cache_bytes": 40 * 2 * 3 * 4 * 2 * 16 * 4},  # 40 blocks
}


@pytest.fixture(scope="module", params=["phi3-long", "phi3-long-window"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def make_engine(name, checkpoints):
    files = resolve(ModelRef(model=str(checkpoints(name))))
    return lambda **changes: load_engine(files, msgspec.structs.replace(BASE, **changes))


@pytest.fixture(scope="module")
def texts():
    """Prompts on both sides of the switch, and right at it; all have the same beginning."""
    whole = tiny.prompts()[-1]
    return [whole[:length] for length in (5, 27, ROPE_SWITCH - 1, ROPE_SWITCH, ROPE_SWITCH + 1, 44)]


@pytest.fixture(scope="module")
def truth(name, reference, texts):
    return [by_transformers(reference(name), text) for text in texts]


def greedy(text, id="a", **more):
    return request(text, id=id, max_tokens=NUM_TOKENS, ignore_eos=True, **more)


def run(engine, *requests):
    for item in requests:
        engine.add(item)
    return {key: ids_of(outputs) for key, outputs in drain(engine).items()}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_greedy_tokens_across_the_switch_are_transformers(make_engine, texts, truth, variant):
    engine = make_engine(**variant)
    crowd = [greedy(text, str(i)) for i, text in enumerate(texts)]
    for _ in range(2):  # the second time, much of it is cached in both kinds
        got = run(engine, *crowd)
        assert [got[str(i)] for i in range(len(texts))] == truth
    assert bool(engine.stats().num_preemptions) == ("kv_cache_bytes" in variant)


def test_a_sequence_alone_has_transformers_tokens_whatever_was_cached_before(
    make_engine, texts, truth
):
    engine = make_engine()
    for text, expected in zip(texts, truth, strict=True):
        assert run(engine, greedy(text))["a"] == expected
    for text, expected in zip(reversed(texts), reversed(truth), strict=True):
        assert run(engine, greedy(text))["a"] == expected


def test_a_resume_on_either_side_of_the_switch_gives_the_rest(make_engine, texts, truth):
    engine, text, whole = make_engine(), texts[1], truth[1]
    rests = [greedy(text, str(done), output_ids=whole[:done]) for done in range(len(whole))]
    assert run(engine, *rests) == {str(done): whole[done:] for done in range(len(whole))}


def test_without_the_switch_the_tokens_would_be_others(make_engine, texts, truth, monkeypatch):
    """Else the tests above could not fail."""
    monkeypatch.setattr("engine.engine.rope_switch", lambda config, length: 0)
    assert run(make_engine(), greedy(texts[1]))["a"] != truth[1]


def test_a_model_cut_to_the_short_length_has_the_short_frequencies(make_engine, texts, truth):
    engine = make_engine(max_model_len=ROPE_SWITCH)
    num_tokens = ROPE_SWITCH - len(texts[1])
    assert run(engine, greedy(texts[1]))["a"] == truth[1][:num_tokens]
