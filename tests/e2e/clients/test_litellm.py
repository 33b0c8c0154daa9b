"""litellm, unchanged, against the running server. `make nightly-clients` installs it."""

import os

import pytest

pytestmark = pytest.mark.nightly
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks GitHub for prices
litellm = pytest.importorskip("litellm", reason="make nightly-clients")

QUESTION = [{"role": "user", "content": "What is Tramontane?"}]


@pytest.fixture
def options(api_url):
    return {"api_base": api_url + "/v1", "api_key": "none", "temperature": 0, "max_retries": 0}


@pytest.fixture
def expected(client):
    return client.chat.completions.create(model="any", messages=QUESTION, temperature=0)


def test_it_reads_an_answer_with_its_usage(options, expected):
    answer = litellm.completion(model="openai/any", messages=QUESTION, **options)
    assert answer.choices[0].message.content == expected.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == expected.usage.total_tokens


def test_its_stream_is_the_same_text(options, expected):
    stream = litellm.completion(model="openai/any", messages=QUESTION, stream=True, **options)
    chunks = list(stream)
    assert len(chunks) > 3
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == expected.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_its_text_completions_go_on_with_a_text(options, client):
    answer = litellm.text_completion(
        model="text-completion-openai/any", prompt="Once", max_tokens=9, **options
    )
    text = client.completions.create(model="any", prompt="Once", temperature=0, max_tokens=9)
    assert answer.choices[0].text == text.choices[0].text


def test_what_the_server_refuses_is_its_error_of_a_bad_request(options):
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        litellm.completion(model="openai/any", messages=QUESTION, **{**options, "temperature": 9})
