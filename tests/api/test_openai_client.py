"""The real openai client, unchanged."""

import openai
import pytest


@pytest.fixture
def client(api):
    with openai.OpenAI(base_url=api.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client, prompt, **options):
    messages = [{"role": "user", "content": prompt}]
    return client.chat.completions.create(model="whatever", messages=messages, **options)


def test_it_reads_a_whole_answer(client):
    answer = ask(client, "echo hello there")
    assert answer.choices[0].message.content == "hello there "
    assert answer.usage.total_tokens == 9
    assert answer._request_id.startswith("req_")


def test_it_reads_a_stream(client):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(ask(client, "echo hello there", **options))
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == "hello there "
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens == 2


def test_pings_in_a_silent_stream_mean_nothing_to_it(client, api):
    chunks = list(ask(client, f"pause {3 * api.config.ping_s}", stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "before after"


def test_it_reads_text_completions(client):
    assert client.completions.create(model="x", prompt="echo a").choices[0].text == "a "
    stream = client.completions.create(model="x", prompt="echo a b", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "a b "


def test_it_lists_and_finds_models(client):
    (model,) = client.models.list().data
    assert model.id == "tiny/demo"
    assert client.models.retrieve("tiny/demo").created == 1_700_000_000
    assert client.models.retrieve("default").id == "tiny/demo"


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("fail context_length_exceeded", openai.BadRequestError),
        ("fail model_not_found", openai.NotFoundError),
        ("fail engine_error", openai.InternalServerError),
        ("fail no_workers", openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_errors_map_to_its_exceptions(client, prompt, kind, stream):
    with pytest.raises(kind) as caught:
        ask(client, prompt, stream=stream)
    assert caught.value.code == prompt.split()[1]


def test_an_error_in_mid_stream_is_raised(client):
    texts: list[str | None] = []
    with pytest.raises(openai.APIError) as caught:
        texts.extend(c.choices[0].delta.content for c in ask(client, "fail_late x", stream=True))
    assert caught.value.code == "x"


def test_closing_a_stream_cancels_its_job(client, fake_worker, wait):
    stream = ask(client, "hang on", stream=True)
    job_id = next(iter(stream)).id
    stream.close()
    wait(lambda: job_id in fake_worker.cancelled, "the worker is told")
