"""What several choices, a seed, stop strings and usage promise, crash or not."""

from typing import Any

import openai
import pytest

from tests.e2e.test_durability import kill_tree

STORY = [{"role": "user", "content": "Tell me a long story."}]
NUM_TOKENS = 100
HOT: dict[str, Any] = {
    "messages": STORY,
    "model": "any",
    "n": 3,
    "seed": 21,
    "temperature": 1.3,
    "max_tokens": NUM_TOKENS,
    "extra_body": {"ignore_eos": True},
}


@pytest.fixture(scope="module")
def whole(api_url):
    """The answer that nothing interrupts."""
    with openai.OpenAI(base_url=api_url + "/v1", api_key="none", max_retries=0) as client:
        return client.chat.completions.create(**HOT)


def texts_of(answer):
    return [choice.message.content for choice in answer.choices]


def streamed(client, on_chunk=lambda num_chunks: None, **options):
    """Text and finish reason of each choice, and the usage."""
    texts, finishes, usage = [""] * 3, [None] * 3, None
    options = {**HOT, "stream": True, "stream_options": {"include_usage": True}, **options}
    for number, chunk in enumerate(client.chat.completions.create(**options)):
        on_chunk(number)
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finishes[choice.index] = choice.finish_reason or finishes[choice.index]
    return texts, finishes, usage


@pytest.fixture
def killed(stack):
    """Kills the worker at the 20th chunk; another one comes."""
    first = stack.worker

    def on_chunk(number):
        if number == 20:
            kill_tree(first)
            stack.start_worker()

    yield on_chunk
    assert first.poll() is not None, "it was killed"


def test_usage_of_three_choices_counts_the_prompt_once_and_every_answer(client, whole):
    one = client.chat.completions.create(**{**HOT, "n": 1}).usage
    assert whole.usage.prompt_tokens == one.prompt_tokens
    assert whole.usage.completion_tokens == 3 * NUM_TOKENS
    *_, usage = streamed(client)
    assert usage == whole.usage.model_copy(
        update={"prompt_tokens_details": usage.prompt_tokens_details}
    )


def test_usage_of_three_choices_is_the_sum_of_what_each_made(client):
    options = {**HOT, "extra_body": {}, "logprobs": True, "stop": ["e"]}
    answer = client.chat.completions.create(**options)
    made = [len(choice.logprobs.content) for choice in answer.choices]
    assert len(set(made)) > 1, "they end at different places"
    assert answer.usage.completion_tokens == sum(made)


def test_the_first_choices_of_a_seed_are_the_same_however_many_are_asked_for(client, whole):
    two = client.chat.completions.create(**{**HOT, "n": 2})
    assert texts_of(two) == texts_of(whole)[:2]
    assert len(set(texts_of(whole))) == 3


def test_three_choices_of_a_seed_go_on_where_a_killed_worker_left_them(client, whole, killed):
    texts, finishes, usage = streamed(client, killed)
    assert texts == texts_of(whole)
    assert finishes == ["length"] * 3
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens == whole.usage.prompt_tokens


def test_stop_strings_are_found_across_chunks_and_across_a_kill(client, whole, killed):
    """Each choice has its own, too long for one token, in what it says after the kill."""
    stops = [text[len(text) * 2 // 3 :][:16] for text in texts_of(whole)]
    plain = client.chat.completions.create(**{**HOT, "stop": stops})
    texts, finishes, usage = streamed(client, killed, stop=stops)
    cuts = [min(t.index(s) for s in stops if s in t) for t in texts_of(whole)]
    assert texts == [text[:cut] for text, cut in zip(texts_of(whole), cuts, strict=True)]
    assert texts == texts_of(plain)
    assert finishes == ["stop"] * 3
    assert usage.completion_tokens == plain.usage.completion_tokens < 3 * NUM_TOKENS


def test_a_seed_does_not_depend_on_what_else_runs(client, whole):
    other = {**HOT, "seed": 5, "stream": True}
    streams = [client.chat.completions.create(**other) for _ in range(4)]
    assert texts_of(client.chat.completions.create(**HOT)) == texts_of(whole)
    for stream in streams:
        stream.close()
