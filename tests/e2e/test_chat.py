"""The main job with real processes and the real openai client: chat, stream, stop, seed."""

import concurrent.futures

import openai
import pytest

QUESTION = [{"role": "user", "content": "What is Tramontane?"}]
STORY = [{"role": "user", "content": "Tell me a long story."}]


def chat(client, messages=QUESTION, **options):
    return client.chat.completions.create(model="any-name", messages=messages, **options)


def stream_text(client, messages=QUESTION, **options):
    chunks = list(chat(client, messages, stream=True, **options))
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices), chunks


def test_a_question_gets_an_answer_with_usage(client):
    answer = chat(client, temperature=0)
    assert "Tramontane" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens > 1


def test_a_stream_holds_the_same_text_as_the_plain_answer(client):
    plain = chat(client, temperature=0)
    text, chunks = stream_text(client, temperature=0)
    assert text == plain.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert len({c.id for c in chunks}) == 1
    assert all(c.choices for c in chunks), "no usage chunk unless it was asked for"


def test_include_usage_adds_one_chunk_without_choices(client):
    _, chunks = stream_text(client, stream_options={"include_usage": True}, max_tokens=5)
    assert [c.usage is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 5


def test_a_stop_string_ends_the_text_before_it(client):
    whole = chat(client, STORY, temperature=0, max_tokens=80).choices[0].message.content
    stop = whole[len(whole) // 2 :][:6]
    answer = chat(client, STORY, temperature=0, max_tokens=80, stop=[stop])
    assert answer.choices[0].message.content == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    streamed, _ = stream_text(client, STORY, temperature=0, max_tokens=80, stop=[stop])
    assert streamed == whole[: whole.index(stop)]


def test_max_tokens_ends_with_length(client):
    answer = chat(client, STORY, temperature=0, max_tokens=7)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 7


def test_a_seed_makes_a_hot_sample_repeatable(client):
    options = {"temperature": 1.5, "max_tokens": 40}
    first, second, other = (
        chat(client, STORY, seed=seed, **options).choices[0].message.content for seed in (7, 7, 8)
    )
    assert first == second
    assert first != other


def test_n_choices_differ_and_are_repeatable(client):
    options = {"temperature": 1.5, "max_tokens": 30, "n": 3, "seed": 3}
    texts = [c.message.content for c in chat(client, STORY, **options).choices]
    assert len(set(texts)) == 3
    assert texts == [c.message.content for c in chat(client, STORY, **options).choices]


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1.2, "seed": 11}])
def test_concurrent_streams_equal_their_solo_runs(client, options):
    prompts = [STORY, QUESTION, [{"role": "user", "content": "Count to ten."}], STORY]
    solo = [stream_text(client, p, max_tokens=60, **options)[0] for p in prompts]
    with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
        together = list(
            pool.map(lambda p: stream_text(client, p, max_tokens=60, **options)[0], prompts)
        )
    assert together == solo


def test_a_prompt_too_long_is_a_400_with_openais_code(client):
    messages = [{"role": "user", "content": "word " * 5000}]
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            chat(client, messages, stream=stream)
        assert caught.value.code == "context_length_exceeded"
        assert caught.value.param == "messages"


def test_completions_take_text_token_ids_and_lists(client):
    text = client.completions.create(model="x", prompt="Once upon", max_tokens=8, temperature=0)
    assert text.object == "text_completion"
    assert text.usage.completion_tokens == 8
    many = client.completions.create(
        model="x", prompt=["Once upon", [5, 6, 7]], max_tokens=8, temperature=0
    )
    assert [c.index for c in many.choices] == [0, 1]
    assert many.choices[0].text == text.choices[0].text


def test_models_are_listed_and_found(client):
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id


def test_answers_name_weights_and_build(client):
    whole = chat(client, max_tokens=1)
    _, chunks = stream_text(client, max_tokens=1)
    assert whole.system_fingerprint.startswith("fp_")
    assert {chunk.system_fingerprint for chunk in chunks} == {whole.system_fingerprint}
