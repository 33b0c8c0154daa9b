"""The engine as a whole, over a model that sees exactly what the KV cache holds."""

import gc
import random

import pytest
import torch

from engine.config import EngineConfig
from engine.engine import load_engine, load_generator
from engine.errors import InvalidInput, LoadError, PromptTooLong
from engine.messages import EngineLike
from tests.engine import tiny_llama
from tests.engine.hash_model import (
    CONTEXT_LENGTH,
    VOCAB_SIZE,
    HashModel,
    drain,
    ids_of,
    make_engine,
    request,
)

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5]


def prompts(num, seed=0, low=1, high=40):
    rng = random.Random(seed)
    return [[rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(low, high))] for _ in range(num)]


def run_all(engine, requests):
    for item in requests:
        engine.add(item)
    return {key: ids_of(outputs) for key, outputs in drain(engine).items()}


def test_one_sequence_gets_the_tokens_of_the_reference():
    model = HashModel()
    engine: EngineLike = make_engine(model)
    assert run_all(engine, [request(PROMPT, max_tokens=20)]) == {
        "a": model.continue_greedily(PROMPT, 20)
    }


VARIANTS = {
    "one at a time": {"max_seqs": 1},
    "chunks of four tokens": {"max_num_batched_tokens": 4},
    "chunks of seven tokens": {"max_num_batched_tokens": 7},
    "no prefix cache": {"enable_prefix_cache": False},
    "blocks of one token": {"block_size": 1},
    "one block per sequence": {"paged_attn": False},
    "a pool that forces preemptions": {"num_blocks": 24},
    "a pool that forces preemptions, without prefix cache": {
        "num_blocks": 24,
        "enable_prefix_cache": False,
    },
    "a pool for hardly one sequence": {"num_blocks": 19},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_greedy_tokens_do_not_depend_on_how_they_were_computed(variant):
    model = HashModel()
    engine = make_engine(model, **variant)
    shared = prompts(1, seed=5, low=13, high=13)[0]
    texts = prompts(10) + [shared + tail for tail in prompts(6, seed=1, high=9)]
    got = run_all(engine, [request(p, id=str(i), max_tokens=30) for i, p in enumerate(texts)])
    assert got == {str(i): model.continue_greedily(p, 30) for i, p in enumerate(texts)}
    stats = engine.stats()
    assert (stats.kv_blocks_used, stats.running, stats.waiting) == (0, 0, 0)
    assert (stats.num_preemptions > 0) == ("num_blocks" in variant)


@pytest.mark.parametrize("num_done", range(13))
def test_a_resumed_sequence_goes_on_as_if_it_had_not_stopped(num_done):
    model = HashModel()
    whole = model.continue_greedily(PROMPT, 12)
    engine = make_engine(model)
    outputs = run_all(engine, [request(PROMPT, output_ids=whole[:num_done], max_tokens=12)])
    assert outputs == {"a": whole[num_done:]}


SAMPLED = {
    "plain": {},
    "filters": {"top_k": 20, "top_p": 0.9, "min_p": 0.02},
    "penalties": {
        "frequency_penalty": 0.7,
        "presence_penalty": 0.3,
        "repetition_penalty": 1.2,
        "min_tokens": 6,
        "logit_bias": {7: 3.0, 8: -100.0},
    },
}


@pytest.mark.parametrize("params", SAMPLED.values(), ids=SAMPLED)
def test_sampled_tokens_depend_on_seed_and_choice_not_on_neighbours_or_resumes(params):
    params = {"temperature": 0.9, "max_tokens": 12, "seed": 11, **params}
    solo = run_all(make_engine(), [request(PROMPT, **params)])["a"]
    crowd = [
        request(
            p,
            id=f"n{i}",
            temperature=i / 3,
            seed=i,
            top_k=i,
            max_tokens=9,
            presence_penalty=0.1 * i,
        )
        for i, p in enumerate(prompts(7))
    ]
    crowded = run_all(make_engine(num_blocks=24), [*crowd, request(PROMPT, **params)])["a"]
    assert crowded == solo
    for num_done in range(len(solo)):
        rest = request(PROMPT, output_ids=solo[:num_done], **params)
        assert run_all(make_engine(), [rest])["a"] == solo[num_done:]
    other_choice = run_all(make_engine(), [request(PROMPT, **params, choice=1)])["a"]
    other_seed = run_all(make_engine(), [request(PROMPT, **(params | {"seed": 12}))])["a"]
    assert len({tuple(solo), tuple(other_choice), tuple(other_seed)}) == 3


def test_the_prefix_cache_saves_tokens_and_says_how_many():
    engine = make_engine(model := HashModel())
    long = list(range(22))
    first = run_all(engine, [request(long, max_tokens=10)])["a"]
    before = model.num_tokens
    engine.add(request(long + first, id="b"))  # the next turn of a conversation
    outputs = drain(engine)["b"]
    # 31 of the 32 tokens were computed, in blocks of 4; the last of them must run again.
    assert [output.cached_tokens for output in outputs] == [28, 0, 0, 0]
    assert model.num_tokens - before == 32 - 28 + 3
    assert (engine.stats().prefix_queries, engine.stats().prefix_hits) == (22 + 32, 28)
    assert ids_of(outputs) == model.continue_greedily(long + first, 4)


def test_of_a_resumed_sequence_only_prompt_tokens_count_as_cached():
    engine = make_engine()
    made = run_all(engine, [request(PROMPT, max_tokens=12)])["a"]
    engine.add(request(PROMPT, output_ids=made[:10], max_tokens=12))
    assert [output.cached_tokens for output in drain(engine)["a"]] == [len(PROMPT), 0]


def test_a_salt_keeps_tenants_apart():
    engine = make_engine()
    for salt, hits in [("x", 0), ("y", 0), ("x", 8)]:
        engine.add(request(PROMPT, salt=salt))
        assert drain(engine)["a"][0].cached_tokens == hits


def test_a_prompt_of_whole_blocks_still_runs_its_last_token():
    engine = make_engine(model := HashModel())
    expected = model.continue_greedily(PROMPT[:8], 4)
    for hits in (0, 4):
        engine.add(request(PROMPT[:8]))
        outputs = drain(engine)["a"]
        assert (outputs[0].cached_tokens, ids_of(outputs)) == (hits, expected)


def test_an_eos_id_ends_a_sequence_and_is_emitted():
    model = HashModel()
    tokens = model.continue_greedily(PROMPT, 10)
    eos = tokens[4]
    outputs = run_finish(make_engine(model, eos=(eos,)), max_tokens=10)
    assert outputs == (tokens[: tokens.index(eos) + 1], "stop")


def run_finish(engine, **params):
    engine.add(request(PROMPT, **params))
    outputs = drain(engine)["a"]
    assert all(output.finish is None for output in outputs[:-1])
    return ids_of(outputs), outputs[-1].finish


def test_ignore_eos_runs_to_max_tokens():
    model = HashModel()
    tokens = model.continue_greedily(PROMPT, 10)
    engine = make_engine(model, eos=(tokens[4],))
    assert run_finish(engine, max_tokens=10, ignore_eos=True) == (tokens, "length")


def test_a_stop_id_is_masked_until_min_tokens():
    model = HashModel()
    tokens = model.continue_greedily(PROMPT, 3)
    stop = tokens[0]
    got, finish = run_finish(
        make_engine(model), max_tokens=40, stop_token_ids=(stop,), min_tokens=5
    )
    assert stop not in got[:5]
    assert finish == ("stop" if got[-1] == stop else "length")
    assert run_finish(make_engine(model), stop_token_ids=(stop,)) == ([stop], "stop")


def test_max_tokens_is_clipped_to_the_context():
    tokens, finish = run_finish(make_engine(), max_tokens=10**6)
    assert (len(tokens), finish) == (CONTEXT_LENGTH - len(PROMPT), "length")


def test_max_tokens_is_clipped_to_a_pool_smaller_than_the_context():
    engine = make_engine(num_blocks=5)
    assert engine.info.context_length == engine.info.kv_tokens == 20
    tokens, finish = run_finish(engine, max_tokens=10**6)
    assert (len(tokens), finish) == (20 - len(PROMPT), "length")


@pytest.mark.parametrize("num_blocks", [0, 5], ids=["context", "pool"])
def test_a_prompt_that_leaves_no_room_for_a_token_is_refused(num_blocks):
    engine = make_engine(num_blocks=num_blocks)
    limit = engine.info.context_length
    with pytest.raises(PromptTooLong, match=f"{limit} tokens, but the request needs {limit + 1}"):
        engine.add(request([1] * limit))
    assert not engine.has_work()
    engine.add(request([1] * (limit - 1)))
    assert len(ids_of(drain(engine)["a"])) == 1


BAD = {
    "empty prompt": ({"prompt_ids": []}, "prompt"),
    "negative token": ({"prompt_ids": [1, -1]}, "prompt"),
    "token beyond the vocabulary": ({"prompt_ids": [VOCAB_SIZE]}, "prompt"),
    "bad logged token": ({"prompt_ids": [1], "output_ids": [VOCAB_SIZE]}, "output_ids"),
    "bad stop id": ({"prompt_ids": [1], "stop_token_ids": (99,)}, "stop_token_ids"),
    "bad bias": ({"prompt_ids": [1], "logit_bias": {-5: 1.0}}, "logit_bias"),
}


@pytest.mark.parametrize(("values", "param"), BAD.values(), ids=BAD)
def test_what_can_never_run_is_refused_when_it_comes(values, param):
    engine = make_engine()
    with pytest.raises(InvalidInput) as error:
        engine.add(request(**values))
    assert error.value.param == param
    assert not engine.has_work()


def test_an_id_that_is_here_is_refused():
    engine = make_engine()
    engine.add(request(PROMPT))
    with pytest.raises(InvalidInput, match="already here"):
        engine.add(request(PROMPT))
    assert len(drain(engine)["a"]) == 4


ENDED = {
    "all tokens made": ({"output_ids": [5, 6, 7, 8]}, "length"),
    "stop id made": ({"output_ids": [5, 6], "stop_token_ids": (6,)}, "stop"),
    "eos made": ({"output_ids": [9]}, "stop"),
    "context full": ({"output_ids": [1] * (CONTEXT_LENGTH - 9), "max_tokens": 500}, "length"),
    "no tokens wanted": ({"max_tokens": 0}, "length"),
}


@pytest.mark.parametrize(("values", "finish"), ENDED.values(), ids=ENDED)
def test_a_sequence_that_has_ended_already_ends_without_a_forward(values, finish):
    engine = make_engine(model := HashModel(), eos=(9,))
    engine.add(request(PROMPT, **values))
    assert engine.has_work()
    (output,) = engine.step()
    assert (output.id, output.token_ids, output.finish) == ("a", [], finish)
    assert not engine.has_work()
    assert model.num_forwards == 0


def test_a_cancelled_sequence_frees_its_blocks_before_the_next_step():
    engine = make_engine(max_seqs=2)
    for name in "abc":
        engine.add(request(PROMPT, id=name, max_tokens=50))
    engine.step()
    before = engine.stats()
    assert (before.running, before.waiting) == (2, 1)
    engine.cancel("a")
    assert engine.stats().kv_blocks_used == before.kv_blocks_used - 3
    engine.cancel("c")
    engine.cancel("unknown")
    assert {output.id for output in engine.step()} == {"b"}
    engine.cancel("b")
    assert engine.stats().kv_blocks_used == 0
    assert not engine.has_work()


def test_an_end_that_was_cancelled_is_not_told():
    engine = make_engine()
    engine.add(request(PROMPT, max_tokens=0))
    engine.cancel("a")
    assert not engine.has_work()


def test_cancelling_leaves_the_others_tokens_as_they_are():
    model = HashModel()
    engine = make_engine(model, num_blocks=24)
    texts = prompts(8)
    for i, text in enumerate(texts):
        engine.add(request(text, id=str(i), max_tokens=30))
    got: dict[str, list[int]] = {str(i): [] for i in range(8)}
    for step in range(400):
        if step == 3:
            engine.cancel("1")
        if step == 7:
            engine.cancel("6")
        for output in engine.step() if engine.has_work() else []:
            got[output.id] += output.token_ids
    for i in (0, 2, 3, 4, 5, 7):
        assert got[str(i)] == model.continue_greedily(texts[i], 30)


def test_a_step_keeps_to_its_token_budget_while_everyone_decodes():
    engine = make_engine(model := HashModel(), max_num_batched_tokens=8)
    engine.add(request(PROMPT, id="short", max_tokens=40))
    engine.step()
    engine.add(request([1] * 60, id="long", max_tokens=2))
    num_steps = 0
    seen: set[str] = set()
    while "long" not in seen:
        seen = {output.id for output in engine.step()}
        assert "short" in seen
        num_steps += 1
    assert num_steps >= 60 // 8
    assert model.largest_batch == 8


def test_info_says_what_was_loaded():
    info = make_engine(num_blocks=30).info
    assert (info.context_length, info.vocab_size, info.kv_tokens) == (96, VOCAB_SIZE, 120)
    assert (info.max_seqs, info.device, info.dtype) == (4, "cpu", "float32")


@pytest.mark.parametrize(
    "changes",
    [{"max_num_batched_tokens": 3}, {"max_seqs": 0}, {"max_model_len": 97}],
    ids=["budget below max_seqs", "no sequences", "longer than the model's context"],
)
def test_a_configuration_that_cannot_be_met_stops_the_start(changes):
    with pytest.raises(LoadError):
        make_engine(**changes)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_end_token_that_the_model_cannot_make_is_ignored(temperature):
    engine = make_engine(eos=(VOCAB_SIZE, 10**9))
    answers = run_all(engine, [request(PROMPT, min_tokens=2, temperature=temperature)])
    assert len(answers["a"]) == 4


@pytest.mark.parametrize("kv_cache_bytes", [10**14, 10**17])
def test_a_cache_that_does_not_fit_the_memory_stops_the_start(tmp_path, kv_cache_bytes):
    files = tiny_llama.write(tmp_path)
    with pytest.raises(LoadError, match="does not fit the memory"):
        load_engine(files, EngineConfig(kv_cache_bytes=kv_cache_bytes, device="cpu"))


def test_the_engine_makes_no_reference_cycles():
    engine = make_engine(num_blocks=24)
    requests = [request(p, id=str(i), max_tokens=9) for i, p in enumerate(prompts(12))]
    run_all(engine, requests)
    gc.collect()
    gc.disable()
    try:
        run_all(engine, requests)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_model_is_loaded_from_its_files_and_says_so(tmp_path):
    files = tiny_llama.write(tmp_path)
    seen: list[tuple[int, int]] = []
    engine = load_engine(
        files,
        EngineConfig(device="cpu", max_seqs=2),
        lambda done, total: seen.append((done, total)),
    )
    assert seen[-1][0] == seen[-1][1] > 0
    info = engine.info
    assert (info.context_length, info.vocab_size) == (tiny_llama.CONTEXT_LENGTH, 120)
    assert info.kv_tokens == 2 * tiny_llama.CONTEXT_LENGTH
    assert (info.device, info.dtype) == ("cpu", "float32")
    assert len(ids_of(run_one(engine)["a"])) <= 4


def run_one(engine):
    engine.add(request(PROMPT))
    return drain(engine)


def test_engines_of_the_same_weights_have_the_same_fingerprint(tmp_path):
    config = EngineConfig(device="cpu")
    names = [
        load_engine(tiny_llama.write(tmp_path / str(i), seed), config).info.fingerprint
        for i, seed in enumerate([0, 0, 1])
    ]
    assert names[0] == names[1] != names[2]


def test_the_models_eos_ends_a_sequence(tmp_path):
    engine = load_generator(tiny_llama.write(tmp_path), EngineConfig(device="cpu"))
    engine.add(request(PROMPT, logit_bias={tiny_llama.EOS_ID: 100.0}))
    (output,) = drain(engine)["a"]
    assert (output.token_ids, output.finish) == ([tiny_llama.EOS_ID], "stop")


def test_what_was_loaded_is_frozen_so_that_collections_stay_short(tmp_path):
    gc.unfreeze()
    load_engine(tiny_llama.write(tmp_path), EngineConfig(device="cpu"))
    assert gc.get_freeze_count() > 10_000


def test_the_number_of_threads_is_set(tmp_path):
    before = torch.get_num_threads()
    try:
        load_engine(tiny_llama.write(tmp_path), EngineConfig(device="cpu", num_threads=before + 1))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
