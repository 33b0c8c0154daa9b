"""Grammars in the engine: what the built-in model says is always what they allow."""

import json
import re

import msgspec
import pytest

from engine.config import EngineConfig, SamplingParams
from engine.engine import load_engine
from engine.messages import SequenceRequest
from engine.text.grammar_text import of_json_schema as schema, of_regex
from engine.text.text_model import load_text_model
from engine.weights.files import ModelRef, resolve
from tests.engine.hash_model import drain, ids_of, make_engine, request

PROMPT = "Once upon a time there was"
WIND = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "speed": {"type": "integer", "minimum": 0, "maximum": 120},
        "from": {"enum": ["north", "south"]},
    },
    "required": ["name", "speed", "from"],
    "additionalProperties": False,
}
REGEXES = [r"[a-f]{3,9}-\d{2}", r"(yes|no|maybe)", r"\d{4}-\d{2}-\d{2}", r"[^x]{5}x", "ä+ö{2}"]


@pytest.fixture(scope="module")
def files():
    return resolve(ModelRef(model="builtin"))


@pytest.fixture(scope="module")
def tokenizer(files):
    return load_text_model(files).tokenizer


@pytest.fixture(scope="module")
def builtin(files):
    return load_engine(files, EngineConfig(dtype="float32", max_seqs=8, max_model_len=512))


@pytest.fixture
def ask(tokenizer):
    ids = tokenizer.encode(PROMPT)

    def make(id, grammar, output_ids=(), **params):
        params = {"max_tokens": 120, "temperature": 1.0, "seed": 5} | params
        ends = tuple(tokenizer.eos_ids)
        sampling = SamplingParams(grammar=grammar, stop_token_ids=ends, **params)
        return SequenceRequest(id=id, prompt_ids=ids, output_ids=list(output_ids), params=sampling)

    return make


def run(engine, *requests):
    for one in requests:
        engine.add(one)
    return drain(engine)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_what_is_said_is_what_the_schema_allows(builtin, tokenizer, ask, temperature):
    grammar = schema(WIND)
    asked = [ask(str(i), grammar, temperature=temperature, seed=i) for i in range(8)]
    for outputs in run(builtin, *asked).values():
        assert outputs[-1].finish == "stop", "it ends by itself"
        said = json.loads(tokenizer.decode(ids_of(outputs)))
        assert list(said) == ["name", "speed", "from"]
        assert 0 <= said["speed"] <= 120


@pytest.mark.parametrize("regex", REGEXES)
def test_what_is_said_matches_the_regex(builtin, tokenizer, ask, regex):
    grammar = of_regex(regex)
    asked = [ask(str(i), grammar, temperature=2.0, seed=i) for i in range(4)]
    for outputs in run(builtin, *asked).values():
        assert outputs[-1].finish in ("stop", "length")
        text = tokenizer.decode(ids_of(outputs))
        assert outputs[-1].finish == "length" or re.fullmatch(regex, text)


def test_an_end_comes_only_where_the_grammar_may_end(builtin, tokenizer, ask):
    grammar = of_regex("(ab){3,}")
    bias = dict.fromkeys(tokenizer.eos_ids, 100.0)
    [outputs] = run(builtin, ask("a", grammar, logit_bias=bias)).values()
    assert tokenizer.decode(ids_of(outputs)) == "ababab"
    assert outputs[-1].token_ids[-1] in tokenizer.eos_ids


def test_other_rules_do_not_break_the_grammar(builtin, tokenizer, ask):
    grammar = of_regex("[ab]{4}")
    ids = tuple(tokenizer.encode("z", add_special_tokens=False))
    [outputs] = run(builtin, ask("a", grammar, allowed_token_ids=ids)).values()
    assert re.fullmatch("[ab]{4}", tokenizer.decode(ids_of(outputs)))


def test_an_answer_that_is_resumed_goes_on_as_it_would_have(builtin, ask):
    whole = ids_of(run(builtin, ask("a", schema(WIND)))["a"])
    for cut in (1, 5, len(whole) - 1):
        rest = run(builtin, ask("b", schema(WIND), whole[:cut]))["b"]
        assert whole[:cut] + ids_of(rest) == whole
        assert rest[-1].finish == "stop"


def test_an_answer_that_was_over_ends_at_once(builtin, ask):
    whole = ids_of(run(builtin, ask("a", schema(WIND)))["a"])
    [output] = run(builtin, ask("b", schema(WIND), whole))["b"]
    assert (output.token_ids, output.finish, output.error) == ([], "stop", None)


def test_preempted_sequences_keep_to_their_grammars(files, tokenizer, ask):
    config = EngineConfig(dtype="float32", max_seqs=8, max_model_len=256, kv_cache_bytes=1)
    plain = load_engine(files, EngineConfig(dtype="float32", max_seqs=8, max_model_len=256))
    asked = [ask(str(i), schema(WIND), seed=i, max_tokens=60) for i in range(6)]
    expected = {id: ids_of(outputs) for id, outputs in run(plain, *asked).items()}
    block_bytes = plain.info.kv_tokens and _bytes_per_token(plain) * config.block_size
    tight = load_engine(files, msgspec.structs.replace(config, kv_cache_bytes=block_bytes * 17))
    assert {id: ids_of(outputs) for id, outputs in run(tight, *asked).items()} == expected
    assert tight.stats().num_preemptions > 0


def _bytes_per_token(engine):
    cache = engine._runner._kv_cache
    size = sum(part.numel() * part.element_size() for layer in cache for part in layer)
    return size // engine.info.kv_tokens


def test_a_grammar_beside_others_changes_nothing_for_them(builtin, tokenizer, ask):
    alone = run(builtin, ask("a", ""))["a"]
    together = run(builtin, ask("a", ""), ask("b", schema(WIND)), ask("c", "start: /x+/"))["a"]
    assert ids_of(alone) == ids_of(together)


def object_of(*names):
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}}


HUGE = {"anyOf": [object_of(*(f"{i}_{j}" for i in range(50))) for j in range(200)]}
BAD = {
    "no grammar": "start",
    "unknown rule": "start: nothing",
    "bad schema": schema({"type": "colour"}),
    "look-around": of_regex("(?=a)b"),
    "too large": schema(
        {"allOf": [{"anyOf": [object_of(f"{i}_{j}") for i in range(8)]} for j in range(8)]}
    ),
    "too many at once": schema(HUGE),
}


@pytest.mark.parametrize("grammar", BAD.values(), ids=BAD)
def test_a_grammar_that_cannot_be_followed_is_told(builtin, ask, grammar):
    [output] = run(builtin, ask("a", grammar))["a"]
    assert output.error is not None
    assert output.error[0] == "invalid_value"
    assert not builtin.has_work()


def test_a_grammar_that_becomes_too_much_ends_its_sequence_alone(builtin, ask):
    grammars = json.loads(schema(HUGE))["grammars"]
    late = [{"lark_grammar": "start: /[a-z]{3}/ @late"}, {**grammars[0], "name": "late"}]
    made = run(builtin, ask("a", json.dumps({"grammars": late})), ask("b", schema(WIND)))
    assert made["a"][-1].error is not None
    assert "too complex" in made["a"][-1].error[1]
    assert made["b"][-1].finish == "stop"
    assert builtin.stats().running == 0


def test_output_that_does_not_follow_is_told(builtin, tokenizer, ask):
    ids = tokenizer.encode("zz", add_special_tokens=False)
    [output] = run(builtin, ask("a", "start: /a+/", ids))["a"]
    assert output.error is not None
    assert "cannot be followed" in output.error[1]


def test_one_that_is_cancelled_while_it_compiles_is_gone(builtin, ask):
    builtin.add(ask("a", schema(WIND)))
    builtin.cancel("a")
    assert not builtin.has_work()


def test_an_engine_without_a_tokenizer_says_so():
    with pytest.raises(Exception, match="no tokenizer"):
        make_engine().add(request([1, 2], grammar="start: /a/"))
