"""`LLM`: log-probabilities against transformers, and what holds an answer to a form or to words."""

import json
import math
import re

import pytest
import torch

from engine import LLM, GuidedDecodingParams, SamplingParams, StructuredOutputsParams
from engine.errors import InvalidInput
from tests.engine.models import tiny
from tests.engine.weights.tiny_tokenizer import write_tokenizer

PROMPT = [1, 9, 40, 22, 9, 60, 7]


@pytest.fixture(scope="module")
def llm():
    """The built-in model, which has a tokenizer and an end."""
    return LLM(model="builtin", dtype="float32", device="cpu", max_num_seqs=8, max_model_len=256)


def generate(llm, prompts, **values):
    params = SamplingParams(**{"temperature": 2.0, "max_tokens": 150, "seed": 1, **values})
    return llm.generate(prompts, params, use_tqdm=False)


def answers(llm, prompt, **values):
    [output] = generate(llm, prompt, **values)
    return output.outputs


def test_log_probabilities_are_transformers(tmp_path_factory):
    directory = tiny.save_checkpoint("llama", tmp_path_factory.mktemp("logprobs"))
    write_tokenizer(directory, tiny.VOCAB_SIZE)
    small = LLM(model=directory, dtype="float32", device="cpu", kv_cache_memory_bytes=1 << 22)
    params = {"temperature": 0, "max_tokens": 6, "ignore_eos": True}
    prompt = {"prompt_token_ids": PROMPT}
    [output] = generate(small, prompt, logprobs=3, prompt_logprobs=2, n=2, **params)
    [answer, other] = output.outputs
    ids = torch.tensor([PROMPT + answer.token_ids])
    expected = tiny.make_model("llama")(ids).logits[0].detach().double().log_softmax(-1)
    assert output.prompt_logprobs[0] is None
    described = [*output.prompt_logprobs[1:], *answer.logprobs]
    for place, (item, row) in enumerate(zip(described, expected, strict=False)):
        num_top = 2 if place < len(PROMPT) - 1 else 3
        token_id = int(ids[0, place + 1])
        top = row.topk(num_top)
        assert next(iter(item)) == token_id, "the token itself comes first"
        assert set(item) == {token_id, *top.indices.tolist()}
        for other_id, told in item.items():
            assert told.logprob == pytest.approx(float(row[other_id]), abs=1e-4)
        assert [item[i].rank for i in top.indices.tolist()] == list(range(1, num_top + 1))
    assert answer.cumulative_logprob == pytest.approx(
        sum(item[i].logprob for i, item in zip(answer.token_ids, answer.logprobs, strict=True))
    )
    assert other.logprobs == answer.logprobs


def test_who_asks_for_no_log_probabilities_gets_none(llm):
    [output] = generate(llm, "Once", max_tokens=2)
    assert output.prompt_logprobs is None
    assert output.outputs[0].logprobs is None
    assert output.outputs[0].cumulative_logprob is None
    [answer] = answers(llm, "Once", max_tokens=3, logprobs=0)
    assert [len(item) for item in answer.logprobs] == [1] * len(answer.token_ids)
    told = "".join(next(iter(item.values())).decoded_token for item in answer.logprobs)
    assert told == answer.text


def test_a_stop_string_cuts_the_log_probabilities_too(llm):
    whole = answers(llm, "Once", temperature=0, max_tokens=20)[0].text
    stop = whole[8:11]
    [answer] = answers(llm, "Once", temperature=0, max_tokens=20, stop=stop, logprobs=1)
    assert len(answer.logprobs) == len(answer.token_ids)
    shown = answers(llm, "Once", temperature=0, stop=stop, include_stop_str_in_output=True)
    assert shown[0].text == whole[: whole.index(stop)] + stop


SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": [1, 2]}},
    "required": ["a"],
    "additionalProperties": False,
}
FORMS = {
    "json": ({"json": SCHEMA}, lambda text: json.loads(text)["a"] in (1, 2)),
    "json as text": ({"json": json.dumps(SCHEMA)}, lambda text: json.loads(text)["a"] in (1, 2)),
    "regex": ({"regex": "[a-c]{3}-\\d{2}"}, re.compile("[a-c]{3}-[0-9]{2}").fullmatch),
    "choice": ({"choice": ["north", "south wind"]}, {"north", "south wind"}.__contains__),
    "gbnf": ({"grammar": 'root ::= "a" [bc]{2}'}, re.compile("a[bc]{2}").fullmatch),
    "lark": ({"grammar": 'start: "x" /y{2}/'}, "xyy".__eq__),
}


@pytest.mark.parametrize(("form", "is_good"), FORMS.values(), ids=FORMS)
def test_an_answer_has_the_form_that_is_asked_for(llm, form, is_good):
    for answer in answers(llm, "Once", structured_outputs=StructuredOutputsParams(**form), n=4):
        assert answer.finish_reason == "stop"
        assert is_good(answer.text), answer.text
    old = answers(llm, "Once", guided_decoding=GuidedDecodingParams(**form), n=4)
    assert all(is_good(answer.text) for answer in old)


def test_a_chat_has_the_form_too(llm):
    params = SamplingParams(
        temperature=2.0, structured_outputs=StructuredOutputsParams(choice=["yes", "no"])
    )
    [output] = llm.chat([{"role": "user", "content": "Is it cold?"}], params, use_tqdm=False)
    assert output.outputs[0].text in ("yes", "no")


def test_any_json_object(llm):
    form = StructuredOutputsParams(json_object=True)
    for answer in answers(llm, "Once", structured_outputs=form, n=4, temperature=1.0):
        assert answer.text.startswith("{")
        assert answer.finish_reason == "length" or isinstance(json.loads(answer.text), dict)


def test_words_and_tokens_that_are_forbidden_do_not_come(llm):
    [free] = answers(llm, "Once upon a time", temperature=0, max_tokens=30)
    word = free.text.split()[1]
    [bound] = answers(llm, "Once upon a time", temperature=0, max_tokens=30, bad_words=[word])
    assert bound.token_ids != free.token_ids
    assert f" {word}" not in bound.text
    ids = sorted(set(free.token_ids))[:3]
    [few] = answers(llm, "Once", allowed_token_ids=ids, max_tokens=20, ignore_eos=True)
    assert set(few.token_ids) <= set(ids)


def test_dry_keeps_an_answer_from_repeating_itself(llm):
    prompt = "one two three four one two three four one two three"
    values = {"temperature": 0, "max_tokens": 30, "ignore_eos": True}
    free, dry = (
        answers(llm, prompt, dry_multiplier=factor, dry_sequence_breakers=(), **values)[0]
        for factor in (0, 50)
    )
    assert _longest_repetition(dry.token_ids) <= 3 < _longest_repetition(free.token_ids)


def _longest_repetition(ids):
    runs = [
        size
        for size in range(1, len(ids) // 2)
        for start in range(len(ids) - 2 * size + 1)
        if ids[start : start + size] in [ids[i : i + size] for i in range(start + 1, len(ids))]
    ]
    return max(runs, default=0)


BAD = {
    "logprobs": {"logprobs": -1},
    "allowed_token_ids": {"allowed_token_ids": []},
    "bad_words": {"bad_words": [""]},
    "dry_base": {"dry_base": 0.5},
    "structured_outputs": {"structured_outputs": {"regex": "a"}},
}


@pytest.mark.parametrize(("name", "values"), BAD.items(), ids=BAD)
def test_a_bad_value_is_refused_by_name(name, values):
    with pytest.raises(InvalidInput, match=name):
        SamplingParams(**values)


FORMLESS = {"none": {}, "two": {"regex": "a", "choice": ["b"]}, "no choice": {"choice": []}}


@pytest.mark.parametrize("values", FORMLESS.values(), ids=FORMLESS)
def test_a_form_is_one_of_them(values):
    with pytest.raises(InvalidInput):
        StructuredOutputsParams(**values)


BROKEN = {"regex": "(a", "grammar": "root ::= b", "json": {"type": "colour"}}


@pytest.mark.parametrize(("name", "value"), BROKEN.items(), ids=BROKEN)
def test_a_form_that_cannot_be_followed_is_told_and_the_llm_goes_on(llm, name, value):
    with pytest.raises(InvalidInput):
        answers(llm, "Once", structured_outputs=StructuredOutputsParams(**{name: value}))
    assert not llm._engine.has_work()
    assert math.isfinite(answers(llm, "Once", logprobs=1, max_tokens=1)[0].cumulative_logprob)
