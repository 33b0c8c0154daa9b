"""An engine whose memory runs out, anywhere, once or for ever: no token becomes another one."""

import importlib
import json
import random
from typing import Any

import pytest
import torch

from engine.config import EngineConfig
from engine.engine import load_engine
from engine.errors import OutOfMemory
from engine.messages import SequenceOutput
from tests.engine import tiny_llama
from tests.engine.hash_model import (
    VOCAB_SIZE,
    HashModel,
    drain,
    ids_of,
    make_engine,
    request,
)

RUNNER: Any = importlib.import_module("engine.runner")
NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has …")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr("engine.careful.PAUSES_S", (0.0,) * 4)


class ShortModel(HashModel):
    """`fits` is asked in each forward, with its number and tokens.

    One that does not fit has written rubbish to the cache.
    """

    def __init__(self, fits) -> None:
        super().__init__()
        self.fits = fits
        self.num_refused = 0

    def forward(self, batch, kv_cache):
        hidden = super().forward(batch, kv_cache)
        if self.fits(self.num_forwards, len(batch.token_ids)):
            return hidden
        self.num_refused += 1
        kept = batch.slots[batch.slots >= 0]
        for cache in kv_cache[0]:
            cache.flatten(0, 1)[kept] = 777.0
        raise NO_MEMORY


class Failing:
    """Calls `function`, but is out of memory behind it when `fits` says so of the call's number."""

    def __init__(self, function, fits) -> None:
        self.function, self.fits = function, fits
        self.num_calls = 0

    def __call__(self, *args, **kwargs):
        self.num_calls += 1
        result = self.function(*args, **kwargs)
        if not self.fits(self.num_calls):
            raise NO_MEMORY
        return result


def crowd(num=8, seed=0):
    """Requests of all kinds, some of which share a beginning."""
    rng = random.Random(seed)
    shared = [rng.randrange(VOCAB_SIZE) for _ in range(13)]
    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 0.9, "seed": 5},
        {"temperature": 1.1, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "seed": 3},
        {"frequency_penalty": 0.8, "presence_penalty": 0.3, "repetition_penalty": 1.2},
        {"num_logprobs": 2},
        {"num_prompt_logprobs": 1, "num_logprobs": 0},
        {"min_tokens": 5, "logit_bias": {3: 2.0}, "temperature": 0.7, "seed": 8},
    ]
    asked = []
    for number in range(num):
        tail = [rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 25))]
        prompt = (shared if rng.random() < 0.5 else []) + tail
        params: dict[str, Any] = {"max_tokens": rng.randint(3, 20), **kinds[number % len(kinds)]}
        asked.append(request(prompt, id=str(number), **params))
    return asked


def run_all(engine, asked):
    """What each sequence got: ids and log-probabilities, in order."""
    for item in asked:
        engine.add(item)
    made = drain(engine, 20_000)
    assert engine.stats().kv_blocks_used == engine.stats().running == engine.stats().waiting == 0
    return {
        name: (
            ids_of(outputs),
            [item for output in outputs for item in output.logprobs],
            [item for output in outputs for item in output.prompt_logprobs],
            outputs[-1].finish,
        )
        for name, outputs in made.items()
    }


EXPECTED = run_all(make_engine(), crowd())
SETTINGS = {
    "as usual": {},
    "no prefix cache": {"enable_prefix_cache": False},
    "a pool that forces preemptions": {"num_blocks": 26},
    "chunks": {"max_num_batched_tokens": 7},
    "one block per sequence": {"paged_attn": False},
}
FITS = {
    "not the first step": lambda number, size: number != 1,
    "not the tenth": lambda number, size: number != 10,
    "three bad ones in a row": lambda number, size: number not in (4, 5, 6),
    "never more than five tokens": lambda number, size: size <= 5,
    "never more than one token": lambda number, size: size == 1,
    "every second step is bad": lambda number, size: number % 2 or size == 1,
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("fits", FITS.values(), ids=FITS)
def test_a_forward_that_does_not_fit_changes_no_token(fits, settings):
    engine = make_engine(model := ShortModel(fits), **settings)
    assert run_all(engine, crowd()) == EXPECTED
    assert model.num_refused


@pytest.mark.parametrize("seed", range(10))
def test_forwards_that_fail_at_random_change_no_token(seed):
    rng = random.Random(seed)
    asked = crowd(10, seed)
    expected = run_all(make_engine(), asked)
    model = ShortModel(lambda number, size: size == 1 or rng.random() > 0.3)
    engine = make_engine(
        model,
        num_blocks=rng.choice([0, 26]),
        enable_prefix_cache=rng.random() < 0.5,
        max_num_batched_tokens=rng.choice([5, 16, 64]),
    )
    assert run_all(engine, asked) == expected
    assert model.num_refused


def is_bad_for_a_while(number):
    return number not in (3, 4, 9, 15)


PLACES = {
    "logits": lambda engine: (engine._runner.model, "logits"),
    "sampling, behind the counts of tokens": lambda engine: (engine._runner.sampler, "sample"),
    "a row's parameters": lambda engine: (engine._runner.sampler, "set"),
    "the batch": lambda engine: (engine._runner.builder, "build"),
    "the prompt's log-probabilities": lambda engine: (engine._runner.prompt_logprobs, "note"),
    "the log-probabilities": lambda engine: (RUNNER, "describe_samples"),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_it_does_not_matter_where_in_a_step_memory_runs_out(place, monkeypatch):
    engine = make_engine()
    owner, name = place(engine)
    failing = Failing(getattr(owner, name), is_bad_for_a_while)
    monkeypatch.setattr(owner, name, failing)
    assert run_all(engine, crowd()) == EXPECTED
    assert failing.num_calls > 15


@pytest.mark.parametrize("bad", [2, 5, 11, 23])
def test_a_real_models_tokens_are_those_of_an_undisturbed_run(tmp_path, bad, monkeypatch):
    files = tiny_llama.write(tmp_path)
    config = EngineConfig(device="cpu", dtype="float32", max_seqs=4, max_num_batched_tokens=32)
    asked = [
        request([5 + n] * (3 + 7 * n), id=str(n), max_tokens=12, temperature=0.8 * (n % 2), seed=n)
        for n in range(6)
    ]
    expected = run_all(load_engine(files, config), asked)
    engine: Any = load_engine(files, config)
    layer = engine._runner.model.layers[1]  # what the first has written is there, the rest is not
    failing = Failing(layer.forward, lambda number: number not in (bad, bad + 1))
    monkeypatch.setattr(engine._runner.model, "_stack", None)
    monkeypatch.setattr(layer, "forward", failing)
    assert run_all(engine, asked) == expected
    assert failing.num_calls > bad


class TestTheSteps:
    def test_become_smaller_and_grow_again(self):
        model = ShortModel(lambda number, size: size <= 9)
        engine = make_engine(model, max_seqs=1)
        engine.add(request(list(range(40)), max_tokens=50))
        sizes = []
        while engine.has_work():
            before = model.num_tokens
            engine.step()
            sizes.append(model.num_tokens - before)
        assert sizes[:8] == [40, 20, 10, 5, 5, 5, 5, 5]
        model.fits = lambda number, size: True
        for number in range(30):
            run_all(engine, [request([number] * 10, max_tokens=30)])
        before = model.num_forwards
        run_all(engine, [request([9, 8, 7] * 12, max_tokens=1)])
        assert model.num_forwards == before + 1

    def test_count_as_no_preemption_and_cached_tokens_are_told_once(self):
        engine = make_engine(ShortModel(lambda number, size: number not in (8, 9)))
        run_all(engine, [request(list(range(20)))])
        engine.add(request(list(range(20)), id="b", max_tokens=8))
        told = [output.cached_tokens for output in drain(engine)["b"]]
        assert [count for count in told if count] == [16]
        assert engine.stats().num_preemptions == 0
        assert (engine.stats().prefix_queries, engine.stats().prefix_hits) == (40, 16)

    def test_that_do_not_fit_leave_cancels_and_arrivals_alone(self):
        engine = make_engine(model := ShortModel(lambda number, size: number not in (3, 4)))
        for name in "abc":
            engine.add(request([7] * 9, id=name, max_tokens=12))
        outputs: dict[str, list[int]] = {}
        for number in range(60):
            for output in engine.step():
                outputs.setdefault(output.id, []).extend(output.token_ids)
            if number == 3:
                engine.cancel("b")
                engine.add(request([8] * 5, id="d", max_tokens=12))
        assert not engine.has_work()
        for name, prompt in {"a": [7] * 9, "c": [7] * 9, "d": [8] * 5}.items():
            assert outputs[name] == model.continue_greedily(prompt, 12)

    @pytest.mark.parametrize(
        "bad", [lambda n: n % 3 == 0, lambda n: n % 7 in (0, 1)], ids=["not the trial", "the trial"]
    )
    def test_may_fail_ever_again_where_there_is_a_token_between(self, bad):
        model = ShortModel(lambda number, size: number < 8 or not bad(number))
        engine = make_engine(model, max_seqs=1)
        assert run_all(engine, [request([7, 8, 9], max_tokens=60)])["a"][0] == (
            model.continue_greedily([7, 8, 9], 60)
        )
        assert model.num_refused > 10

    def test_that_fail_for_another_reason_are_not_tried_again(self, monkeypatch):
        engine = make_engine()
        monkeypatch.setattr(engine._runner.model, "forward", Failing(self.breaks, bool))
        engine.add(request([1, 2]))
        with pytest.raises(RuntimeError, match="illegal memory access"):
            engine.step()

    @staticmethod
    def breaks(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


class TestWhereNothingFits:
    @pytest.fixture
    def model(self):
        return ShortModel(lambda number, size: number <= 4)

    def until_exhausted(self, engine):
        """Step until nothing fits; what was made by then."""
        made: dict[str, list[int]] = {}

        def step():
            for output in engine.step():
                assert output.error is None
                made.setdefault(output.id, []).extend(output.token_ids)

        with pytest.raises(OutOfMemory, match=r"lower --pa-gpu-mem-usage.*\.$"):
            self.repeat(step)
        return made

    def repeat(self, step):
        for _ in range(30):
            step()

    def test_the_engine_says_so_and_blames_no_sequence(self, model):
        engine = make_engine(model)
        asked = [request([n] * 6, id=str(n), max_tokens=12) for n in range(6)]
        for item in asked:
            engine.add(item)
        made = self.until_exhausted(engine)
        assert engine.has_work()
        assert engine.stats().waiting == 6
        model.fits = lambda number, size: True
        for name, outputs in drain(engine).items():
            made[name] = made.get(name, []) + ids_of(outputs)
        assert made == {str(n): model.continue_greedily([n] * 6, 12) for n in range(6)}

    def test_nor_where_it_is_sampling_that_fails(self, monkeypatch):
        engine = make_engine()
        sampler = engine._runner.sampler
        monkeypatch.setattr(sampler, "sample", Failing(sampler.sample, lambda number: False))
        engine.add(request([1, 2, 3]))
        assert self.until_exhausted(engine) == {}
        assert engine.has_work()

    def test_an_end_that_was_to_be_told_is_not_lost(self, model, monkeypatch):
        model.fits = lambda number, size: False
        engine = make_engine(model)
        engine.add(request([5], id="b", max_tokens=2))
        engine.step()
        engine.add(request([1, 2], id="over", output_ids=[3, 4, 5, 6]))
        assert self.until_exhausted(engine) == {"over": []}
        engine.add(request([1, 2], id="later", output_ids=[3, 4, 5, 6]))
        monkeypatch.setattr("engine.careful.PAUSES_S", ())
        assert self.until_exhausted(engine) == {}
        model.fits = lambda number, size: True
        assert set(drain(engine)) == {"b", "later"}


class TestASequenceThatNeverFits:
    def fail_for(self, engine, monkeypatch, names):
        """Make the log-probabilities of those sequences what never fits."""

        describe = RUNNER.describe_samples
        ours = {int(name) for name in names}

        def fail(wanted, token_ids):
            if ours & set(wanted.nums_top):
                raise NO_MEMORY
            return describe(wanted, token_ids)

        monkeypatch.setattr(RUNNER, "describe_samples", fail)

    def test_ends_in_words_and_the_others_get_all_of_their_tokens(self, monkeypatch):
        engine = make_engine(model := HashModel())
        self.fail_for(engine, monkeypatch, ["2", "4"])
        asked = [request([n] * 7, id=str(n), max_tokens=9, num_logprobs=n) for n in range(6)]
        for item in asked:
            engine.add(item)
        made = drain(engine)
        for name in ("2", "4"):
            assert [output.token_ids for output in made[name]] == [[]]
            code, message = made[name][-1].error or ("", "")
            assert (code, "however few tokens" in message) == ("out_of_memory", True)
        for name in "0135":
            assert ids_of(made[name]) == model.continue_greedily([int(name)] * 7, 9)
        assert engine.stats().kv_blocks_used == 0

    @pytest.mark.parametrize("has_cache", [True, False], ids=["cached", "not cached"])
    def test_ends_though_others_go_on_and_the_most_of_its_prompt_fits(self, has_cache, monkeypatch):
        """Each time some steps that fit give the next ones their size back."""
        monkeypatch.setattr("engine.step_budget._FIRST_PATIENCE", 2)
        monkeypatch.setattr("engine.step_budget._MAX_PATIENCE", 2)
        model = ShortModel(lambda number, size: True)
        engine = make_engine(model, enable_prefix_cache=has_cache, max_num_batched_tokens=16)
        long = list(range(40)) * 2
        made: dict[str, list[SequenceOutput]] = {}
        engine.add(request(long, id="long", num_logprobs=7))
        self.fail_for(engine, monkeypatch, ["7"])
        for number in range(5000):
            if number % 10 == 0:
                engine.add(request([3], id=f"n{number}", max_tokens=8))
            for output in engine.step():
                made.setdefault(output.id, []).append(output)
            if "long" in made:
                break
        assert made["long"][-1].error is not None

    def test_leaves_nothing_behind(self, monkeypatch):
        engine = make_engine()
        self.fail_for(engine, monkeypatch, ["2"])
        for _ in range(2):  # the same name again
            engine.add(request([5] * 7, id="x", num_logprobs=2, num_prompt_logprobs=1))
            [output] = drain(engine)["x"]
            assert output.error is not None
        assert not engine._runner.prompt_logprobs._found


def test_a_grammar_is_where_it_was(monkeypatch):
    from engine.weights.files import ModelRef, resolve

    config = EngineConfig(dtype="float32", device="cpu", max_seqs=4, max_model_len=256)
    files = resolve(ModelRef(model="builtin"))
    grammar = json.dumps({"grammars": [{"lark_grammar": "start: /([a-f][0-9]){8}/"}]})
    asked = [
        request([9, 8, 7], id=str(n), grammar=grammar, num_logprobs=n, max_tokens=40, seed=n)
        for n in range(3)
    ]
    expected = run_all(load_engine(files, config), asked)
    assert {item[3] for item in expected.values()} == {"stop"}
    engine = load_engine(files, config)

    failing = Failing(RUNNER.describe_samples, is_bad_for_a_while)
    monkeypatch.setattr(RUNNER, "describe_samples", failing)
    made = run_all(engine, asked)
    assert {name: item[0] for name, item in made.items()} == {
        name: item[0] for name, item in expected.items()
    }
    for name, (_, described, _, _) in made.items():
        values = [item.logprob for item in described]
        assert values == pytest.approx([item.logprob for item in expected[name][1]], abs=1e-4)
