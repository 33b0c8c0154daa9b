"""Responses with tools and schemas through the whole deployment, by the real openai client."""

import json
import signal

import openai
import pydantic
import pytest

QUESTION = "What is Tramontane?"
ARGUMENTS = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["x"],
    "additionalProperties": False,
}
ADD = {"type": "function", "name": "add", "parameters": ARGUMENTS, "strict": True}


class Wind(pydantic.BaseModel):
    is_cold: bool
    speed: int = pydantic.Field(ge=0, le=99)


def ask(client, prompt=QUESTION, **options):
    return client.responses.create(model="m", input=prompt, temperature=0, **options)


def test_it_answers_as_the_chat_endpoint_does(client):
    chat = client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": QUESTION}], temperature=0
    )
    response = ask(client)
    assert response.output_text == chat.choices[0].message.content
    assert response.usage.output_tokens == chat.usage.completion_tokens


def test_a_call_that_is_demanded_is_made_and_answered(client):
    first = ask(client, tools=[ADD], tool_choice="required", parallel_tool_calls=False)
    [call] = first.output
    assert (first.status, call.type, call.name) == ("completed", "function_call", "add")
    assert 0 <= json.loads(call.arguments)["x"] <= 9
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "9"}
    second = ask(client, [result], tools=[ADD], previous_response_id=first.id)
    assert second.usage.input_tokens > first.usage.input_tokens
    assert second.output


def test_a_stream_says_what_the_whole_says_and_goes_on_at_another_api_process(
    client, other_api_url
):
    options = {"tools": [ADD], "tool_choice": {"type": "function", "name": "add"}}
    [call] = ask(client, **options).output
    events = list(ask(client, stream=True, **options))
    deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert "".join(deltas) == call.arguments
    assert [event.sequence_number for event in events] == list(range(len(events)))
    with openai.OpenAI(base_url=other_api_url + "/v1", api_key="none") as other:
        rest = list(other.responses.retrieve(events[0].response.id, stream=True, starting_after=4))
    assert [event.to_dict() for event in rest] == [event.to_dict() for event in events[5:]]


def test_a_limit_beyond_the_context_is_no_reason_to_refuse(client):
    assert ask(client, max_output_tokens=10_000_000).status == "completed"


def test_input_tokens_are_those_of_the_answer_s_usage(client):
    count = client.responses.input_tokens.count(model="m", input=QUESTION, tools=[ADD])
    assert count.input_tokens == ask(client, tools=[ADD]).usage.input_tokens


def test_the_parser_gets_its_schema(client):
    parsed = client.responses.parse(model="m", input=QUESTION, text_format=Wind, temperature=2)
    assert isinstance(parsed.output_parsed, Wind)


def test_a_schema_that_is_none_is_refused_with_its_field(client):
    shape = {"type": "json_schema", "name": "a", "schema": {"type": "colour"}}
    with pytest.raises(openai.BadRequestError) as refusal:
        ask(client, text={"format": shape})
    assert refusal.value.param == "text.format.schema"


def test_the_tokens_of_the_text_are_told(client):
    response = ask(client, include=["message.output_text.logprobs"], top_logprobs=2)
    told = response.output[0].content[0].logprobs
    assert "".join(item.token for item in told) == response.output_text
    assert all(item.logprob <= 0 and len(item.top_logprobs) == 2 for item in told)


def test_a_call_goes_on_in_the_same_words_when_its_worker_is_killed(stack, client):
    listing = {"type": "array", "items": {"enum": ["north", "south"]}, "minItems": 20}
    arguments = {"type": "object", "properties": {"winds": listing}, "required": ["winds"]}
    options = {
        "tools": [{**ADD, "parameters": arguments}],
        "tool_choice": {"type": "function", "name": "add"},
        "max_output_tokens": 200,
    }
    [expected] = ask(client, **options).output
    events, has_killed = [], False
    for event in ask(client, stream=True, **options):
        events.append(event)
        if len(events) == 20:
            has_killed = True
            stack.worker.send_signal(signal.SIGKILL)
            stack.worker.wait()
            stack.start_worker()
    assert has_killed
    deltas = [e for e in events if e.type == "response.function_call_arguments.delta"]
    assert "".join(delta.delta for delta in deltas) == expected.arguments
    assert [event.sequence_number for event in events] == list(range(len(events)))
    [call] = events[-1].response.output
    assert {delta.item_id for delta in deltas} == {call.id}
    assert call.arguments == expected.arguments
