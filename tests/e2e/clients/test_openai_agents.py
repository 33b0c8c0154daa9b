"""openai-agents, unchanged, against the running server. `make nightly-clients` installs it."""

import openai
import pytest

pytestmark = pytest.mark.nightly
agents = pytest.importorskip("agents", reason="make nightly-clients")

QUESTION = "What is Tramontane?"


@pytest.fixture
async def model(api_url):
    agents.set_tracing_disabled(True)
    async with openai.AsyncOpenAI(base_url=api_url + "/v1", api_key="none") as client:
        yield agents.OpenAIResponsesModel("any", client)


@pytest.fixture
def numbers():
    """What the tool was called with."""
    return []


@pytest.fixture
def agent(model, numbers):
    """Its first answer has to be a call; it lifts that by itself for the next."""

    @agents.function_tool
    def add(x: int) -> str:
        """Adds one."""
        numbers.append(x)
        return str(x + 1)

    settings = agents.ModelSettings(
        tool_choice="required", parallel_tool_calls=False, temperature=0, max_tokens=300
    )
    return agents.Agent("adder", tools=[add], model=model, model_settings=settings)


async def test_an_agent_calls_its_tool_and_answers(agent, numbers):
    result = await agents.Runner.run(agent, QUESTION)
    assert len(numbers) == 1
    assert isinstance(result.final_output, str)
    assert result.context_wrapper.usage.requests == 2
    kinds = [item.type for item in result.new_items]
    assert kinds[:2] == ["tool_call_item", "tool_call_output_item"]


async def test_a_stream_of_an_agent_comes_to_the_same(agent):
    whole = await agents.Runner.run(agent, QUESTION)
    streamed = agents.Runner.run_streamed(agent, QUESTION)
    names = [e.name async for e in streamed.stream_events() if e.type == "run_item_stream_event"]
    assert names == ["tool_called", "tool_output", "message_output_created"]
    assert streamed.final_output == whole.final_output


@pytest.mark.parametrize("is_kept_by_the_server", [True, False], ids=["by id", "by items"])
async def test_an_agent_goes_on_from_a_turn_with_calls(agent, model, is_kept_by_the_server):
    first = await agents.Runner.run(agent, QUESTION)
    plain = agents.Agent("talker", model=model)
    if is_kept_by_the_server:
        last = first.last_response_id
        second = await agents.Runner.run(plain, "And now?", previous_response_id=last)
    else:
        turns = [*first.to_input_list(), {"role": "user", "content": "And now?"}]
        second = await agents.Runner.run(plain, turns)
    assert second.final_output
