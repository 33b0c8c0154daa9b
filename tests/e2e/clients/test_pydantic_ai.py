"""pydantic-ai, unchanged, against the running server. `make nightly-clients` installs it."""

import pytest

pytestmark = pytest.mark.nightly
pydantic_ai = pytest.importorskip("pydantic_ai", reason="make nightly-clients")

QUESTION = "What is Tramontane?"


@pytest.fixture
def provider(api_url):
    from pydantic_ai.providers.openai import OpenAIProvider

    return OpenAIProvider(base_url=api_url + "/v1", api_key="none")


@pytest.fixture(params=["OpenAIChatModel", "OpenAIResponsesModel"])
def agent(request, provider):
    import pydantic_ai.models.openai as models

    model = getattr(models, request.param)("any", provider=provider)
    return pydantic_ai.Agent(model, model_settings={"temperature": 0})


@pytest.fixture
def expected(client):
    messages = [{"role": "user", "content": QUESTION}]
    return client.chat.completions.create(model="any", messages=messages, temperature=0)


async def test_an_agent_gets_its_answer_and_the_usage(agent, expected):
    result = await agent.run(QUESTION)
    assert result.output == expected.choices[0].message.content
    assert result.usage.output_tokens == expected.usage.completion_tokens


async def test_an_agent_streams_the_same_text(agent, expected):
    async with agent.run_stream(QUESTION) as result:
        pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
    assert len(pieces) > 3
    assert "".join(pieces) == expected.choices[0].message.content


async def test_an_agent_goes_on_with_its_conversation(agent, client):
    first = await agent.run("Hello!")
    second = await agent.run(QUESTION, message_history=first.all_messages())
    messages = [
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": first.output},
        {"role": "user", "content": QUESTION},
    ]
    expected = client.chat.completions.create(model="any", messages=messages, temperature=0)
    assert second.output == expected.choices[0].message.content


async def test_what_the_server_refuses_is_its_http_error(agent):
    from pydantic_ai.exceptions import ModelHTTPError

    with pytest.raises(ModelHTTPError) as caught:
        await agent.run(QUESTION, model_settings={"temperature": 9})
    assert caught.value.status_code == 400
