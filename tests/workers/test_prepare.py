"""From a job to sequences: whose sampling value wins, which limits hold, what is refused."""

import math
import resource
import time

import msgspec
import pytest

from engine.errors import InvalidInput, PromptTooLong
from engine.messages import EngineInfo
from engine.text.chat_template import ChatTemplate
from engine.text.generation_config import GenerationDefaults
from tests.workers.wire import PROMPT, make_job
from workers.contract import Dry
from workers.prepare import prepare

INFO = EngineInfo(
    context_length=64, vocab_size=2048, kv_tokens=4096, max_seqs=4, device="x", dtype="x"
)


def chat(**changes):
    messages = [{"role": "user", "content": "hello"}]
    return make_job(**{"kind": "chat", "prompts": None, "messages": messages, **changes})


def test_every_prompt_makes_n_choices_in_order(text):
    plans = prepare(make_job(prompts=[[5], [6, 7]], n=2), text, INFO)
    assert [(plan.prompt, plan.prompt_ids, plan.params.choice) for plan in plans] == [
        (0, [5], 0),
        (0, [5], 1),
        (1, [6, 7], 2),
        (1, [6, 7], 3),
    ]


def test_a_chat_prompt_is_the_template_s_text_as_tokens(text):
    (plan,) = prepare(chat(max_tokens=4), text, INFO)
    rendered = text.chat_template.render([{"role": "user", "content": "hello"}])
    assert plan.prompt_ids == text.tokenizer.encode(rendered, add_special_tokens=False)


def test_a_control_token_that_a_user_writes_is_text_in_a_chat_and_a_token_in_a_prompt(text):
    (end_id,) = text.tokenizer.eos_ids
    end = text.tokenizer.decode([end_id], skip_special_tokens=False)
    (polite,) = prepare(chat(), text, INFO)
    (rude,) = prepare(chat(messages=[{"role": "user", "content": f"hello{end}"}]), text, INFO)
    (raw,) = prepare(make_job(prompts=[f"hello{end}"]), text, INFO)
    assert rude.prompt_ids.count(end_id) == polite.prompt_ids.count(end_id)
    assert raw.prompt_ids.count(end_id) == 1


def test_a_text_prompt_gets_the_special_tokens_of_the_model(text):
    (plan,) = prepare(make_job(prompts=["hello"]), text, INFO)
    assert plan.prompt_ids == text.tokenizer.encode("hello")


@pytest.mark.parametrize(
    ("asked", "default", "used"),
    [(0.2, 0.7, 0.2), (None, 0.7, 0.7), (None, None, 1.0), (0.0, 0.7, 0.0)],
    ids=["request", "makers", "neutral", "zero counts"],
)
def test_the_request_goes_before_the_makers_and_these_before_neutral(text, asked, default, used):
    model = text._replace(defaults=GenerationDefaults(temperature=default, top_p=default))
    (plan,) = prepare(make_job(temperature=asked, top_p=asked), model, INFO)
    assert (plan.params.temperature, plan.params.top_p) == (used, used)


def test_what_the_makers_suppress_no_bias_brings_back(text):
    model = text._replace(defaults=GenerationDefaults(suppress_tokens=[7, 9, 99_999]))
    (plan,) = prepare(make_job(logit_bias={7: 100.0, 8: 2.0}), model, INFO)
    assert plan.params.logit_bias == {7: -math.inf, 8: 2.0, 9: -math.inf}


def test_a_negative_top_k_is_off(text):
    (plan,) = prepare(make_job(top_k=-1), text, INFO)
    assert plan.params.top_k == 0


def test_the_ends_that_the_text_side_knows_stop_the_engine_unless_told_otherwise(text):
    (plan,) = prepare(make_job(stop_token_ids=(9,)), text, INFO)
    assert set(plan.params.stop_token_ids) == {9, *text.tokenizer.eos_ids}
    (plan,) = prepare(make_job(stop_token_ids=(9,), ignore_eos=True), text, INFO)
    assert plan.params.stop_token_ids == (9,)


def test_without_max_tokens_a_chat_fills_the_context_and_a_completion_stops_at_16(text):
    (plan,) = prepare(chat(max_tokens=None), text, INFO)
    assert len(plan.prompt_ids) + plan.params.max_tokens == INFO.context_length
    (plan,) = prepare(make_job(max_tokens=None), text, INFO)
    assert plan.params.max_tokens == 16
    (plan,) = prepare(make_job(max_tokens=None, prompts=[[5] * 60]), text, INFO)
    assert plan.params.max_tokens == 4


@pytest.mark.parametrize(
    ("num_prompt", "max_tokens", "fits"),
    [
        (60, 4, True),
        (60, 5, False),
        (63, None, True),
        (64, None, False),
        (64, 0, True),
        (65, 0, False),
    ],
)
def test_prompt_and_answer_must_fit_the_context(text, num_prompt, max_tokens, fits):
    job = make_job(prompts=[[5] * num_prompt], max_tokens=max_tokens)
    if fits:
        prepare(job, text, INFO)
        return
    with pytest.raises(PromptTooLong) as refusal:
        prepare(job, text, INFO)
    assert (refusal.value.code, refusal.value.param) == ("context_length_exceeded", "prompt")


@pytest.mark.parametrize(("num_prompt", "room"), [(60, 4), (63, 1), (64, None)])
def test_a_capped_answer_takes_what_room_there_is(text, num_prompt, room):
    job = make_job(prompts=[[5] * num_prompt], max_tokens=5)
    job = msgspec.structs.replace(job, is_capped=True)
    if room is None:
        with pytest.raises(PromptTooLong, match="65"):
            prepare(job, text, INFO)
    else:
        assert prepare(job, text, INFO)[0].params.max_tokens == room


@pytest.mark.parametrize(
    ("endpoint", "param"), [("/v1/responses", "input"), ("/v1/chat/completions", "messages")]
)
def test_a_prompt_that_is_too_long_goes_by_the_name_its_endpoint_has_for_it(text, endpoint, param):
    job = chat(endpoint=endpoint, max_tokens=64)
    with pytest.raises(PromptTooLong) as refusal:
        prepare(job, text, INFO)
    assert refusal.value.param == param


@pytest.mark.parametrize(
    ("endpoint", "param"), [("/v1/responses", "input"), ("/v1/chat/completions", "messages")]
)
def test_what_a_template_refuses_goes_by_the_name_its_endpoint_has_for_it(text, endpoint, param):
    strict = text._replace(chat_template=ChatTemplate("{{ raise_exception('no') }}", {}))
    with pytest.raises(InvalidInput, match="refused") as refusal:
        prepare(chat(endpoint=endpoint), strict, INFO)
    assert refusal.value.param == param


@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_a_monster_of_a_prompt_is_refused_at_once_and_takes_no_memory(text, kind):
    monster = "one two three, and so on. " * (30_000_000 // 26)
    if kind == "chat":
        job = chat(messages=[{"role": "user", "content": monster}])
    else:
        job = make_job(prompts=[monster])
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began_s = time.perf_counter()
    with pytest.raises(PromptTooLong):
        prepare(job, text, INFO)
    assert time.perf_counter() - began_s < 2
    # The text itself is copied into the chat's template.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 400_000


def test_a_text_of_few_tokens_may_be_long(text):
    prompt = " demonstration" * 40  # one token each
    num_tokens = len(text.tokenizer.encode(prompt))
    assert len(prompt) > 8 * INFO.context_length
    assert num_tokens < INFO.context_length
    (plan,) = prepare(make_job(prompts=[prompt], max_tokens=1), text, INFO)
    assert len(plan.prompt_ids) == num_tokens


def test_a_small_kv_cache_is_a_limit_as_well(text):
    small = EngineInfo(
        context_length=64, vocab_size=2048, kv_tokens=32, max_seqs=4, device="x", dtype="x"
    )
    with pytest.raises(PromptTooLong, match="32 tokens"):
        prepare(make_job(prompts=[[5] * 32]), text, small)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"prompts": [[2048]]}, "prompt"),
        ({"prompts": [[-1]]}, "prompt"),
        ({"prompts": [[]]}, "prompt"),
        ({"logit_bias": {2048: 1.0}}, "logit_bias"),
        ({"stop_token_ids": (5000,)}, "stop_token_ids"),
    ],
    ids=["past the end", "negative", "empty", "bias", "stop id"],
)
def test_what_only_the_model_can_judge_is_refused_with_its_field(text, changes, param):
    with pytest.raises(InvalidInput) as refusal:
        prepare(make_job(**changes), text, INFO)
    assert (refusal.value.code, refusal.value.param) == ("invalid_value", param)


def test_a_model_without_a_template_cannot_chat(text):
    with pytest.raises(InvalidInput, match=r"no chat template; .* --chat-template"):
        prepare(chat(), text._replace(chat_template=None), INFO)


def test_the_requests_variables_reach_the_template(text):
    template = ChatTemplate("{{ enable_thinking }} {{ reasoning_effort }} {{ x }}", {})
    kwargs = {"enable_thinking": False, "reasoning_effort": "low", "x": 3}
    plan, *_ = prepare(chat(template_kwargs=kwargs), text._replace(chat_template=template), INFO)
    assert text.tokenizer.decode(plan.prompt_ids) == "False low 3"


def test_a_retry_renders_the_prompt_of_the_first_time(text):
    job = chat(max_tokens=4, template_kwargs={"now_s": 5, "custom": "x"})
    assert prepare(job, text, INFO) == prepare(job, text, INFO)
    assert prepare(make_job(), text, INFO)[0].prompt_ids == PROMPT


def test_an_end_that_the_model_cannot_make_is_left_out(text):
    model = text._replace(tokenizer=text.tokenizer.with_eos_ids([1, 99_999]))
    (plan,) = prepare(make_job(), model, INFO)
    assert 1 in plan.params.stop_token_ids
    assert 99_999 not in plan.params.stop_token_ids


def test_a_prompt_that_may_be_cut_loses_its_beginning(text):
    ids = list(range(5, 105))
    (plan,) = prepare(make_job(prompts=[ids], max_tokens=10, truncates_prompt=True), text, INFO)
    assert plan.prompt_ids == ids[-54:]
    (plan,) = prepare(make_job(prompts=[ids], max_tokens=None, truncates_prompt=True), text, INFO)
    assert plan.prompt_ids == ids[-48:]
    (plan,) = prepare(make_job(prompts=[ids[:20]], truncates_prompt=True), text, INFO)
    assert plan.prompt_ids == ids[:20]
    with pytest.raises(PromptTooLong):
        prepare(make_job(prompts=[ids], max_tokens=64, truncates_prompt=True), text, INFO)


def test_a_text_of_megabytes_that_may_be_cut_is_cut_before_it_is_tokenized(text):
    long = "word " * 2_000_000 + "the very end"
    start = time.process_time()
    (plan,) = prepare(make_job(prompts=[long], truncates_prompt=True), text, INFO)
    (of_chat,) = prepare(
        chat(messages=[{"role": "user", "content": long}], truncates_prompt=True), text, INFO
    )
    assert time.process_time() - start < 2
    assert text.tokenizer.decode(plan.prompt_ids).endswith("the very end")
    assert "the very end" in text.tokenizer.decode(of_chat.prompt_ids)


def test_an_answer_goes_on_from_the_last_message(text):
    messages = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Good mor "},
    ]
    (plan,) = prepare(chat(messages=messages, continues_message=True), text, INFO)
    prompt = text.tokenizer.decode(plan.prompt_ids, skip_special_tokens=False)
    assert prompt.endswith("Good mor ")
    assert "hello" in prompt


def test_a_marker_of_ours_in_a_message_is_no_marker(text):
    messages = [{"role": "assistant", "content": "ab\ufdd1cd"}]
    (plan,) = prepare(chat(messages=messages, continues_message=True), text, INFO)
    assert text.tokenizer.decode(plan.prompt_ids).endswith("ab\ufffdcd")


def test_a_template_that_hides_the_last_message_cannot_go_on_from_it(text):
    blind = text._replace(chat_template=ChatTemplate("{{ messages[0].content }}", {}))
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(InvalidInput, match="cannot be continued"):
        prepare(chat(messages=messages, continues_message=True), blind, INFO)


def test_bad_words_are_forbidden_alone_and_behind_a_space(text):
    (plan,) = prepare(make_job(bad_words=("hello",)), text, INFO)
    encode = text.tokenizer.encode
    assert set(plan.params.bad_words) == {
        tuple(encode(form, add_special_tokens=False)) for form in ("hello", " hello")
    }


def test_dry_breakers_are_the_tokens_whose_text_has_one(text):
    (plan,) = prepare(make_job(dry=Dry(multiplier=0.8, breakers=("\n", "ll"))), text, INFO)
    dry = plan.params.dry
    assert dry is not None
    assert (dry.multiplier, dry.base) == (0.8, 1.75)
    ids = set(dry.breaker_ids)
    for token_id in range(INFO.vocab_size):
        piece = text.tokenizer.decode([token_id], skip_special_tokens=False)
        assert (token_id in ids) == ("\n" in piece or "ll" in piece)
