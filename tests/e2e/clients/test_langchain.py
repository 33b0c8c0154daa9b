"""langchain-openai, unchanged, against the running server. `make nightly-clients` installs it."""

import openai
import pytest

pytestmark = pytest.mark.nightly
langchain = pytest.importorskip("langchain_openai", reason="make nightly-clients")

QUESTION = "What is Tramontane?"


@pytest.fixture
def model(api_url):
    return langchain.ChatOpenAI(
        model="any", base_url=api_url + "/v1", api_key="none", temperature=0, max_retries=0
    )


@pytest.fixture
def expected(client):
    messages = [{"role": "user", "content": QUESTION}]
    return client.chat.completions.create(model="any", messages=messages, temperature=0)


def test_it_reads_an_answer_with_its_usage(model, expected):
    answer = model.invoke([("human", QUESTION)])
    assert answer.content == expected.choices[0].message.content
    assert answer.usage_metadata["output_tokens"] == expected.usage.completion_tokens
    assert answer.response_metadata["finish_reason"] == "stop"


def test_its_stream_is_the_same_text_and_ends_with_the_usage(model, expected):
    chunks = list(model.stream(QUESTION, stream_usage=True))
    assert len(chunks) > 3
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.content == expected.choices[0].message.content
    assert whole.usage_metadata["output_tokens"] == expected.usage.completion_tokens


async def test_it_asks_many_at_once(model, expected):
    answers = await model.abatch([QUESTION] * 8)
    assert {answer.content for answer in answers} == {expected.choices[0].message.content}


def test_its_responses_api_reads_an_answer(api_url, expected):
    model = langchain.ChatOpenAI(
        model="any",
        base_url=api_url + "/v1",
        api_key="none",
        temperature=0,
        use_responses_api=True,
    )
    assert model.invoke(QUESTION).text == expected.choices[0].message.content


def test_its_completions_go_on_with_a_text(api_url, client):
    model = langchain.OpenAI(
        model="any", base_url=api_url + "/v1", api_key="none", temperature=0, max_tokens=9
    )
    text = client.completions.create(model="any", prompt="Once", temperature=0, max_tokens=9)
    assert model.invoke("Once") == text.choices[0].text


def test_what_the_server_refuses_is_openais_error(model):
    with pytest.raises(openai.BadRequestError, match="temperature"):
        model.bind(temperature=9).invoke(QUESTION)
